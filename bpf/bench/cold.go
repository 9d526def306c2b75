// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/bpf"
)

const (
	// coldBytes is how much other memory is written to between two messages: as
	// much as fills most CPUs' second cache, which an application's own work does
	// between two messages.
	coldBytes   = 2 << 20
	cacheLine   = 64
	coldTurns   = 60
	coldOfRound = 100
)

// cold is what capture costs a message over loopback that passes each hook of an
// agent with --spans=layers once, from its write to its read, when none of the
// code and memory is near. Times in ns of the thread that writes and reads;
// differences are medians within a turn.
type cold struct {
	OffNS float64 `json:"off_ns"`
	// Of requests that are not sampled, and of responses: what empty programs
	// add, and what ours do.
	RequestEmptyNS  float64 `json:"request_empty_ns"`
	RequestOursNS   float64 `json:"request_ours_ns"`
	ResponseEmptyNS float64 `json:"response_empty_ns"`
	ResponseOursNS  float64 `json:"response_ours_ns"`
}

// measureCold sends messages in turns of no programs, empty ones and ours. Like
// measureSends it stays on one CPU.
func measureCold() (c cold, err error) {
	group, err := makeCgroup()
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.Remove(group)) }()
	l, err := openLoopbackIn(group)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := pin(); err != nil {
		return c, err
	}
	empty, err := emptyHooks(group)
	if err != nil {
		return c, err
	}
	defer closeHooks(empty)
	ours, err := ourHooks(empty, group)
	if err != nil {
		return c, err
	}
	defer closeHooks(ours)
	states := [][]hook{nil, empty, ours}
	requests, responses := make([][]float64, len(states)), make([][]float64, len(states))
	other := make([]byte, coldBytes)
	for turn := range coldTurns + 1 {
		for i := range states {
			state := (i + turn) % len(states) // which comes first goes round
			request, response, err := timeCold(l, states[state], other)
			if err != nil {
				return c, err
			}
			if turn > 0 { // the first warms up
				requests[state], responses[state] = append(requests[state], request), append(responses[state], response)
			}
		}
	}
	return cold{
		OffNS:          median(requests[0]),
		RequestEmptyNS: medianDifference(requests[1], requests[0]), RequestOursNS: medianDifference(requests[2], requests[0]),
		ResponseEmptyNS: medianDifference(responses[1], responses[0]), ResponseOursNS: medianDifference(responses[2], responses[0]),
	}, nil
}

// ourHooks returns the agent's programs for the places of the empty ones. They
// share their maps, and the cgroup's sockets are chosen.
func ourHooks(empty []hook, group string) (ours []hook, err error) {
	capture, err := bpf.LoadCapture()
	if err != nil {
		return nil, err
	}
	socket, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	delete(socket.Programs, bpf.SocketProgSocketWrote) // for older kernels only
	if err := choose(socket, group); err != nil {
		return nil, err
	}
	packets, err := ebpf.NewCollection(capture)
	if err != nil {
		return nil, fmt.Errorf("load capture programs: %w", err)
	}
	defer packets.Close()
	shared := map[string]*ebpf.Map{}
	for name, m := range packets.Maps {
		if socket.Maps[name] != nil && !strings.HasPrefix(name, ".") { // not the constants
			shared[name] = m
		}
	}
	sockets, err := ebpf.NewCollectionWithOptions(socket, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, fmt.Errorf("load socket programs: %w", err)
	}
	defer sockets.Close()
	for _, h := range empty {
		from, name := sockets, h.ours
		if packets.Programs[name] != nil {
			from = packets
		}
		p, err := from.Programs[name].Clone()
		if err != nil {
			return nil, fmt.Errorf("keep program %s: %w", name, err)
		}
		h.program = p
		ours = append(ours, h)
	}
	return ours, nil
}

// choose makes the socket programs look at the sockets of a cgroup.
func choose(spec *ebpf.CollectionSpec, group string) error {
	var st syscall.Stat_t
	if err := syscall.Stat(group, &st); err != nil {
		return fmt.Errorf("choose the cgroup: %w", &os.PathError{Op: "stat", Path: group, Err: err})
	}
	for name, value := range map[string]any{
		bpf.SocketVarTargetCgroups: bpf.SocketTargetCgroups{Len: 1, Ids: [16]uint64{st.Ino}},
		bpf.SocketVarHaveWriteTp:   true,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func closeHooks(hooks []hook) {
	for _, h := range hooks {
		_ = h.program.Close()
	}
}

// timeCold returns the medians of the thread's CPU time in ns from the write of a
// request, and of a response, to its read, with the programs attached.
func timeCold(l loopback, hooks []hook, other []byte) (request, response float64, err error) {
	var links []link.Link
	defer func() {
		for _, attached := range links {
			err = errors.Join(err, attached.Close())
		}
	}()
	for _, h := range hooks {
		attached, err := h.attach(h.program)
		if err != nil {
			return 0, 0, fmt.Errorf("attach to %s: %w", h.name, err)
		}
		links = append(links, attached)
	}
	pad := strings.Repeat("x", messageBytes)
	messages := []string{
		"GET /reviews/0 HTTP/1.1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nx-pad: " + pad + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nx-pad: " + pad + "\r\n\r\n",
	}
	var times [2][]float64
	from, to := l.writer, l.reader
	for i := range coldOfRound {
		for at := 0; at < len(other); at += cacheLine {
			other[at]++
		}
		ns, err := timeMessage(from, to, []byte(messages[i%2]))
		if err != nil {
			return 0, 0, err
		}
		times[i%2] = append(times[i%2], ns)
		from, to = to, from
	}
	return median(times[0]), median(times[1]), nil
}

func timeMessage(from, to *os.File, data []byte) (ns float64, err error) {
	room := make([]byte, len(data))
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	if _, err := syscall.Write(int(from.Fd()), data); err != nil {
		return 0, fmt.Errorf("write over loopback: %w", err)
	}
	if _, err := io.ReadFull(to, room); err != nil {
		return 0, fmt.Errorf("read over loopback: %w", err)
	}
	end, err := threadTime()
	return float64(end - start), err
}
