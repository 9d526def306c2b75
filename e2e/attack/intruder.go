// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// blindReset lets pod 3 send RST and SYN segments in the names of pods 1 and 2, with guessed
// sequence numbers, while a request of pod 1 waits for its response.
func blindReset(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		segments = 4000
		waits    = 3 * time.Second
		traceID  = "88888888888888888888888888888888"
	)
	release := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "ok")
	})
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx); err != nil {
		return "", false, err
	}
	c, err := t.Pods[0].DialContext(ctx, "tcp", PodAddress(2)+":80")
	if err != nil {
		return "", false, err
	}
	defer c.Close()
	var group errgroup.Group
	sent := time.Now()
	group.Go(func() error { return exchange(c, bufio.NewReader(c), sampled(traceID, 1)) })
	attack := func() error {
		err := sandbox.Await(ctx, "the request at two points", time.Minute, 10*time.Millisecond, func(ctx context.Context) error {
			started, err := t.Metric(ctx, "layertrace_exchanges_started_total")
			if err == nil && started < 2 {
				err = fmt.Errorf("%.0f", started)
			}
			return err
		})
		if err != nil {
			return err
		}
		client, server := c.LocalAddr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort(PodAddress(2)+":80")
		return t.Pods[2].Do(func() error { return guess(segments, client, server) })
	}
	attacked := attack()
	time.Sleep(waits - min(waits, time.Since(sent))) // the server's work
	close(release)
	if err := errors.Join(attacked, group.Wait()); err != nil {
		return "", false, err
	}
	if err := t.awaitSpans(ctx, traceID, 2); err != nil {
		return "", false, err
	}
	ignored, err := t.Metric(ctx, "layertrace_segments_implausible_total")
	if err != nil {
		return "", false, err
	}
	n, _ := t.Spans(traceID)
	shortest := t.Shortest(traceID)
	return fmt.Sprintf("%d spans, the shorter one of %.3f s; %.0f segments ignored", n, shortest.Seconds(), ignored),
		n == 2 && shortest >= waits && ignored >= segments, nil
}

// guess sends RST and SYN segments of a connection in both directions from the network
// namespace of the thread, with sequence numbers that are not the connection's.
func guess(n int, client, server netip.AddrPort) error {
	socket, err := rawSocket()
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	random := rand.New(rand.NewPCG(1, 2))
	const syn, rst = 0x02, 0x04
	for i := range n {
		from, to := client, server
		if i%2 == 1 {
			from, to = server, client
		}
		packet := newSegment(from, to, random.Uint32(), 0)
		ip, tcp := packet[:ipLength], packet[ipLength:]
		tcp[13] = rst
		if i%4 >= 2 {
			tcp[13] = syn
		}
		binary.BigEndian.PutUint16(tcp[16:], checksum(ip[12:20], tcp))
		if err := send(socket, packet, to.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// checksum is that of a TCP segment without data and of even length, with its pseudo header
// (RFC 9293, section 3.1).
func checksum(addresses, tcp []byte) uint16 {
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
	for _, part := range [][]byte{addresses, tcp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// send sends an IPv4 packet by a raw socket, and waits while there is no room for it.
func send(socket int, packet []byte, to netip.Addr) error {
	for {
		err := unix.Sendto(socket, packet, 0, &unix.SockaddrInet4{Addr: to.As4()})
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
			if err != nil {
				err = fmt.Errorf("send a forged segment: %w", err)
			}
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// clsactLeft kills an agent that captures by clsact, whose filters the kernel keeps, and starts
// one that captures in the best way there is.
func clsactLeft(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const traceID = "99999999999999999999999999999999"
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx, "--mode", "clsact"); err != nil {
		return "", false, err
	}
	if err := t.Agent.Kill(); err != nil {
		return "", false, err
	}
	left, err := t.filters()
	if err != nil {
		return "", false, err
	}
	if err := t.StartAgent(ctx); err != nil {
		return "", false, err
	}
	beside, err := t.filters()
	if err != nil {
		return "", false, err
	}
	if err := t.ask(ctx, 1, func(int) (string, int) { return traceID, 1 }); err != nil {
		return "", false, err
	}
	if err := t.Agent.Stop(time.Minute); err != nil { // it exports what it has
		return "", false, err
	}
	n, _ := t.Spans(traceID)
	return fmt.Sprintf("%d filters after the kill, %d beside the new agent; %d spans of a request at two points", left, beside, n),
		left == 2*pods && beside == 0 && n == 2, nil
}

// filters returns how many clsact filters the pods' interfaces have on the node.
func (t *Testbed) filters() (n int, err error) {
	nl, err := t.Node.Netlink()
	if err != nil {
		return 0, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := nl.FilterList(link, parent)
			if err != nil {
				return 0, fmt.Errorf("list the filters of %s: %w", link.Attrs().Name, err)
			}
			n += len(filters)
		}
	}
	return n, nil
}
