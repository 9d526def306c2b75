// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/stats"
)

const (
	// messagesOfRound is the number of messages timed with the same program.
	messagesOfRound = 1000
	messageBytes    = 700
	hookTurns       = 60
)

// hookPrice is the time that an empty program at one hook adds to a message over
// loopback, from its write to its read: the minimum cost of capture there. Most of
// it is the kernel's work to run a program, which depends on its mitigations
// (retpolines, return thunks).
type hookPrice struct {
	Hook string `json:"hook"`
	// AddedNS is the median over turns of with and without, in ns of the thread
	// that writes and reads.
	AddedNS float64 `json:"added_ns"`
}

// hook is a program and its place.
type hook struct {
	name, ours string // of the hook and of the agent's program there
	program    *ebpf.Program
	attach     func(*ebpf.Program) (link.Link, error)
	added      []float64
}

// measureHooks returns the price of each hook that an agent with --spans=layers
// uses.
func measureHooks() (prices []hookPrice, err error) {
	err = withEmptyHooks(func(l loopback, _ string, hooks []hook) error {
		for turn := range hookTurns + 1 {
			for i := range hooks {
				if err := hooks[i].turn(l, turn > 0); err != nil { // the first warms up
					return err
				}
			}
		}
		for _, h := range hooks {
			prices = append(prices, hookPrice{h.name, stats.Median(h.added)})
		}
		return nil
	})
	return prices, err
}

// withEmptyHooks calls do with a connection over loopback, the cgroup of its
// sockets, and an empty program for each hook. The thread stays on one CPU.
func withEmptyHooks(do func(l loopback, group string, empty []hook) error) (err error) {
	group, err := makeCgroup()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(group)) }()
	l, err := openLoopbackIn(group)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := pin(); err != nil {
		return err
	}
	empty, err := emptyHooks(group)
	if err != nil {
		return err
	}
	defer closeHooks(empty)
	return do(l, group, empty)
}

// turn times messages without the program, with it, and without it again.
func (h *hook) turn(l loopback, counts bool) error {
	before, err := timeMessages(l)
	if err != nil {
		return err
	}
	attached, err := h.attach(h.program)
	if err != nil {
		return fmt.Errorf("attach an empty program to %s: %w", h.name, err)
	}
	with, err := timeMessages(l)
	if err := errors.Join(err, attached.Close()); err != nil {
		return err
	}
	after, err := timeMessages(l)
	if err != nil {
		return err
	}
	if counts {
		h.added = append(h.added, with-(before+after)/2)
	}
	return nil
}

// emptyHooks loads an empty program for each hook: the tracepoints of our programs,
// the packet hooks of the cgroup, and those of the loopback interface.
func emptyHooks(group string) (hooks []hook, err error) {
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find the loopback interface: %w", err)
	}
	add := func(name, ours string, spec *ebpf.ProgramSpec, result int32, attach func(*ebpf.Program) (link.Link, error)) error {
		spec.License, spec.Instructions = "Dual BSD/GPL", asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()}
		p, err := ebpf.NewProgram(spec)
		if err != nil {
			return fmt.Errorf("load an empty program for %s: %w", name, err)
		}
		hooks = append(hooks, hook{name: name, ours: ours, program: p, attach: attach})
		return nil
	}
	socket, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	write, _, err := writePrograms()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{write, bpf.SocketProgSocketRead} {
		tracepoint := socket.Programs[name].AttachTo
		spec := &ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint}
		err = errors.Join(err, add("tp_btf/"+tracepoint, name, spec, 0, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTracing(link.TracingOptions{Program: p})
		}))
	}
	for _, at := range []struct {
		name   string
		attach ebpf.AttachType
	}{{"cgroup_skb/egress", ebpf.AttachCGroupInetEgress}, {"cgroup_skb/ingress", ebpf.AttachCGroupInetIngress}} {
		spec := &ebpf.ProgramSpec{Type: ebpf.CGroupSKB, AttachType: at.attach}
		err = errors.Join(err, add(at.name, bpf.SocketProgSocketPacket, spec, 1, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: group, Attach: at.attach, Program: p})
		}))
	}
	for _, at := range []struct {
		name, ours string
		attach     ebpf.AttachType
	}{
		{"tcx/egress", bpf.CaptureProgCaptureOut, ebpf.AttachTCXEgress},
		{"tcx/ingress", bpf.CaptureProgCaptureIn, ebpf.AttachTCXIngress},
	} {
		spec := &ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: at.attach}
		err = errors.Join(err, add(at.name, at.ours, spec, -1, func(p *ebpf.Program) (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: loopback.Index, Attach: at.attach, Program: p})
		}))
	}
	return hooks, err
}

// writePrograms returns the name of the program that sees writes on this kernel, and that
// of the one for other kernels.
func writePrograms() (ours, other string, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return "", "", fmt.Errorf("read the kernel's types: %w", err)
	}
	var tracepoint *btf.Typedef
	err = kernel.TypeByName("btf_trace_tcp_sendmsg_locked", &tracepoint)
	if errors.Is(err, btf.ErrNotFound) { // before 6.16
		return bpf.SocketProgSocketWrote, bpf.SocketProgSocketWrite, nil
	}
	return bpf.SocketProgSocketWrite, bpf.SocketProgSocketWrote, err
}

// timeMessages returns the thread's CPU time in ns from the write of a message to
// its read. Messages go back and forth: each acknowledges the one before, so that
// each passes a hook once.
func timeMessages(l loopback) (ns float64, err error) {
	data, room := make([]byte, messageBytes), make([]byte, messageBytes)
	start, err := threadTime()
	if err != nil {
		return 0, err
	}
	from, to := l.writer, l.reader
	for range messagesOfRound {
		if _, err := syscall.Write(int(from.Fd()), data); err != nil {
			return 0, fmt.Errorf("write over loopback: %w", err)
		}
		if _, err := io.ReadFull(to, room); err != nil {
			return 0, fmt.Errorf("read over loopback: %w", err)
		}
		from, to = to, from
	}
	end, err := threadTime()
	return float64(end-start) / messagesOfRound, err
}

const (
	coldTurns   = 60
	coldOfRound = 100
)

// cold is the cost of capture for a message over loopback that passes each hook of
// an agent with --spans=layers once, from its write to its read, with cold caches.
// Times in ns of the thread that writes and reads; differences are medians within a
// turn.
type cold struct {
	OffNS float64 `json:"off_ns"`
	// Time that empty programs and ours add to requests and responses.
	RequestEmptyNS  float64 `json:"request_empty_ns"`
	RequestOursNS   float64 `json:"request_ours_ns"`
	ResponseEmptyNS float64 `json:"response_empty_ns"`
	ResponseOursNS  float64 `json:"response_ours_ns"`
}

// Headers of the requests.
const (
	coldUnsampled = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n"
	coldSampled   = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
	// coldRing holds all exchanges that are sampled: nothing reads the ring.
	coldRing = 32 << 20
)

// measureCold sends messages with a context in turns: no programs, empty ones, ours.
func measureCold(context string, other *otherWork) (c cold, err error) {
	err = withEmptyHooks(func(l loopback, group string, empty []hook) error {
		ours, err := ourHooks(empty, group)
		if err != nil {
			return err
		}
		defer closeHooks(ours)
		states := [][]hook{nil, empty, ours}
		requests, responses := make([][]float64, len(states)), make([][]float64, len(states))
		for turn := range coldTurns + 1 {
			for i := range states {
				state := (i + turn) % len(states) // the first one rotates
				request, response, err := timeCold(l, states[state], context, other)
				if err != nil {
					return err
				}
				if turn > 0 { // the first warms up
					requests[state], responses[state] = append(requests[state], request), append(responses[state], response)
				}
			}
		}
		c = cold{
			OffNS:          stats.Median(requests[0]),
			RequestEmptyNS: medianDifference(requests[1], requests[0]), RequestOursNS: medianDifference(requests[2], requests[0]),
			ResponseEmptyNS: medianDifference(responses[1], responses[0]), ResponseOursNS: medianDifference(responses[2], responses[0]),
		}
		return nil
	})
	return c, err
}

// ourHooks returns the agent's programs for the hooks of the empty ones. They share
// their maps, and the cgroup is their target.
func ourHooks(empty []hook, group string) (ours []hook, err error) {
	capture, err := bpf.LoadCapture()
	if err != nil {
		return nil, err
	}
	socket, err := bpf.LoadSocket()
	if err != nil {
		return nil, err
	}
	_, other, err := writePrograms()
	if err != nil {
		return nil, err
	}
	delete(socket.Programs, other)
	for _, spec := range []*ebpf.CollectionSpec{capture, socket} {
		spec.Maps[bpf.CaptureMapExchanges].MaxEntries = coldRing
	}
	id, err := inode(group)
	if err != nil {
		return nil, err
	}
	if err := setTarget(socket, id); err != nil {
		return nil, err
	}
	packets, err := ebpf.NewCollection(capture)
	if err != nil {
		return nil, fmt.Errorf("load capture programs: %w", err)
	}
	defer packets.Close()
	shared := map[string]*ebpf.Map{}
	for name, m := range packets.Maps {
		if socket.Maps[name] != nil && !strings.HasPrefix(name, ".") { // not the variables
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
			return nil, fmt.Errorf("clone program %s: %w", name, err)
		}
		h.program = p
		ours = append(ours, h)
	}
	return ours, nil
}

func closeHooks(hooks []hook) {
	for _, h := range hooks {
		_ = h.program.Close()
	}
}

// timeCold returns the median CPU time of the thread in ns from the write of a
// request with a context, and of a response, to its read, with the programs attached.
func timeCold(l loopback, hooks []hook, context string, other *otherWork) (request, response float64, err error) {
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
	messages := exchangeOf(context)
	var times [2][]float64
	from, to := l.writer, l.reader
	for i := range coldOfRound {
		other.run()
		ns, err := timeMessage(from, to, []byte(messages[i%2]))
		if err != nil {
			return 0, 0, err
		}
		times[i%2] = append(times[i%2], ns)
		from, to = to, from
	}
	return stats.Median(times[0]), stats.Median(times[1]), nil
}

// exchangeOf returns a request with a context, and its response.
func exchangeOf(context string) [2]string {
	pad := strings.Repeat("x", messageBytes)
	return [2]string{
		"GET /reviews/0 HTTP/1.1\r\n" + context + "x-pad: " + pad + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-pad: " + pad + "\r\n\r\n",
	}
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
