// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// forgedBound is the cost of a packet after the flood, as a multiple of that before.
const forgedBound = 1.1

// forgedSegments sends requests of no connection, with source addresses that are not the
// sender's, to a closed port, beside one request that takes 3 s. It compares what an
// ordinary packet costs before and afterwards.
func forgedSegments(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		segments = 150_000
		slow     = "33333333333333333333333333333333"
		last     = "44444444444444444444444444444444"
	)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("traceparent"), slow) {
			time.Sleep(3 * time.Second) // longer than the flood
		}
		fmt.Fprint(w, "ok")
	})
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx); err != nil {
		return "", false, err
	}
	program, err := programOf(t.Agent.PID(), "capture_in")
	if err != nil {
		return "", false, err
	}
	defer program.Close()
	before, err := packetCost(program)
	if err != nil {
		return "", false, err
	}
	var group errgroup.Group
	group.Go(func() error { return t.ask(ctx, 1, func(int) (string, int) { return slow, 1 }) })
	group.Go(func() error { return t.Pods[0].Do(func() error { return forge(ctx, segments) }) })
	if err := group.Wait(); err != nil {
		return "", false, err
	}
	// Each passes two points. Some of the last ones are in the table until they time out.
	err = sandbox.Await(ctx, "the flood to be forgotten", time.Minute, 100*time.Millisecond, func(ctx context.Context) error {
		unproven, err := t.Metric(ctx, "layertrace_requests_unproven_total")
		if err == nil && unproven < 2*segments {
			err = fmt.Errorf("%.0f of %d", unproven, 2*segments)
		}
		return err
	})
	if err != nil {
		return "", false, err
	}
	after, err := packetCost(program)
	if err != nil {
		return "", false, err
	}
	if err := t.ask(ctx, 1, func(int) (string, int) { return last, 2 }); err != nil {
		return "", false, err
	}
	// The spans come in order: after the last one's no forged one can come.
	if err := t.awaitSpans(ctx, last, 2); err != nil {
		return "", false, err
	}
	own, _ := t.Spans(slow)
	forged := t.spansBut(slow, last)
	return fmt.Sprintf("%.1f ns a packet before, %.1f after (%.2f times); %d spans of forged requests, %d of the slow one", before, after, after/before, forged, own),
		after <= forgedBound*before && forged == 0 && own == 2, nil
}

// spansBut returns how many spans of other traces were received.
func (t *Testbed) spansBut(traces ...string) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, spans := range t.spans {
		n += spans
		for _, known := range traces {
			if id == known {
				n -= spans
			}
		}
	}
	return n
}

// forge sends requests of no connection from the network namespace of the thread to a
// closed port of pod 2, each in a trace of its own.
func forge(ctx context.Context, n int) error {
	socket, err := rawSocket()
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	random := rand.New(rand.NewPCG(1, 2))
	to := netip.MustParseAddrPort(PodAddress(2) + ":81")
	for i := range n {
		if i%1000 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		payload := fmt.Sprintf("GET / HTTP/1.1\r\nhost: x\r\ntraceparent: 00-%016x%016x-%016x-01\r\n\r\n", random.Uint64()|1, random.Uint64(), random.Uint64()|1)
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(random.Uint32()), byte(random.Uint32())}), uint16(1024+random.IntN(60000)))
		packet := newSegment(from, to, random.Uint32(), random.Uint32())
		tcp := packet[ipLength:]
		tcp[13] = 0x18                               // PSH, ACK
		binary.BigEndian.PutUint16(tcp[16:], 0xdead) // no right checksum
		if err := send(socket, append(packet, payload...), to.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// Lengths of headers without options, in bytes.
const ipLength, tcpLength = 20, 20

// newSegment returns the headers of a TCP segment over IPv4, without flags and checksum. The
// kernel adds the length and checksum of IPv4.
func newSegment(from, to netip.AddrPort, seq, ack uint32) []byte {
	packet := make([]byte, ipLength+tcpLength)
	ip, tcp := packet[:ipLength], packet[ipLength:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(tcp[0:], from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12] = tcpLength / 4 << 4
	return packet
}

// rawSocket opens a socket in the network namespace of the thread that sends packets with
// headers of their own.
func rawSocket() (int, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return 0, fmt.Errorf("open raw socket: %w", err)
	}
	return socket, nil
}

// programOf returns a BPF program of a process by its name.
func programOf(pid int, name string) (*ebpf.Program, error) {
	directory := fmt.Sprintf("/proc/%d/fdinfo", pid)
	files, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		id, err := programID(filepath.Join(directory, f.Name()))
		if err != nil || id == 0 {
			continue // no program, or closed meanwhile
		}
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return nil, fmt.Errorf("open program %d: %w", id, err)
		}
		info, err := program.Info()
		if err == nil && info.Name == name {
			return program, nil
		}
		if err := errors.Join(err, program.Close()); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("process %d has no program %s", pid, name)
}

// programID returns the ID in the description of a file descriptor, 0 if it is of no
// program.
func programID(path string) (id ebpf.ProgramID, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if n, err := fmt.Sscanf(lines.Text(), "prog_id: %d", &id); err == nil && n == 1 {
			return id, nil
		}
	}
	return 0, nil
}

// packetCost returns how long a program takes for a packet with data of a connection without
// sampled requests, in ns: the mean of several connections, of each the shortest of some
// measurements, which other work does not disturb.
func packetCost(program *ebpf.Program) (float64, error) {
	const connections, rounds, repeat = 31, 40, 10_000
	sum := 0.0
	for c := range connections {
		packet := make([]byte, 14+20+20+1000)
		packet[12], packet[13] = 0x08, 0x00
		ip, tcp := packet[14:34], packet[34:54]
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(ip[2:], uint16(len(packet)-14))
		copy(ip[12:], []byte{10, 1, 0, byte(c), 10, 2, 0, byte(c)})
		binary.BigEndian.PutUint16(tcp[0:], uint16(30000+c))
		binary.BigEndian.PutUint16(tcp[2:], 443)
		tcp[12], tcp[13] = 0x50, 0x10
		copy(packet[54:], "\x17\x03\x03") // TLS
		best := time.Duration(0)
		for range rounds {
			_, took, err := program.Benchmark(packet, repeat, func() {})
			if err != nil {
				return 0, fmt.Errorf("measure a packet: %w", err)
			}
			if best == 0 || took < best {
				best = took
			}
		}
		sum += float64(best.Nanoseconds())
	}
	return sum / connections, nil
}
