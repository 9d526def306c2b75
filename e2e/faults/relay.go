// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// delay holds all packets from one node to another. A request may pass several times:
// the result is the sum.
func (in *Injector) delay(ctx context.Context, c Case, r Request) (sum time.Duration, err error) {
	before, after, err := in.relayed(c, func(*recording) relayPlan { return delayPlan(c.Magnitude) },
		func() error { return r.Send(ctx) })
	if err != nil {
		return 0, err
	}
	for _, e := range before.exchanges(r.TraceID) {
		for _, m := range []message{e.Request, e.Response} {
			if !m.Src.IsValid() || nodeOfIP(m.Src.Addr().String()) != c.FromNode || nodeOfIP(m.Dst.Addr().String()) != c.ToNode {
				continue
			}
			one, err := heldFor(before, after, m)
			if err != nil {
				return 0, err
			}
			sum += one
		}
	}
	return orMissed(sum, nil)
}

// lose drops the last packet of the affected message, once.
func (in *Injector) lose(ctx context.Context, c Case, r Request) (time.Duration, error) {
	before, after, err := in.relayed(c, func(before *recording) relayPlan {
		return newLosePlan(messageTarget(before, c.Transfer, r.TraceID))
	}, func() error { return r.Send(ctx) })
	if err != nil {
		return 0, err
	}
	return timeBetween(before, after, r.TraceID, c.Transfer)
}

// reorder makes the first packet of a padded message arrive last.
func (in *Injector) reorder(ctx context.Context, c Case, r Request) (time.Duration, error) {
	before, after, err := in.relayed(c, func(before *recording) relayPlan {
		return newReorderPlan(messageTarget(before, c.Transfer, r.TraceID), c.Magnitude)
	}, func() error { return in.sendPadded(ctx, c.Transfer, r) })
	if err != nil {
		return 0, err
	}
	return timeBetween(before, after, r.TraceID, c.Transfer)
}

// relayed calls do while packets from one node to the pods of another go through the
// relay, and returns what was captured before and after it.
func (in *Injector) relayed(c Case, plan func(before *recording) relayPlan, do func() error) (before, after *recording, err error) {
	infra := in.lab.InfraNamespace()
	sites := []site{{infra, lab.NodeName(c.FromNode)}, {infra, lab.NodeName(c.ToNode)}}
	ways := [][2]int{{c.FromNode, c.ToNode}}
	if c.Kind == LinkDown {
		ways = append(ways, [2]int{c.ToNode, c.FromNode})
	}
	seen, err := in.captureAt(sites, func(seen []*recording) (err error) {
		in.relay.Set(plan(seen[0]))
		defer in.relay.Set(passPlan{})
		for _, way := range ways {
			node, pods := in.lab.NodeNamespace(way[0]), lab.PodSubnet(way[1])
			if err := node.ReplaceRoute(pods, lab.InfraIP); err != nil {
				return fmt.Errorf("route through the relay: %w", err)
			}
			defer func() { err = errors.Join(err, node.ReplaceRoute(pods, lab.NodeIP(way[1]))) }()
		}
		if err := do(); err != nil {
			return err
		}
		if !in.relay.Met() {
			return fmt.Errorf("%w: no packet was affected", ErrMissed)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return seen[0], seen[1], nil
}

// nodeOfIP returns the node of the pod with an address, 0 for other addresses.
func nodeOfIP(ip string) int {
	for _, pod := range slices.Concat(lab.Pods, lab.PlainPods) {
		if pod.IP == ip {
			return pod.Node
		}
	}
	return 0
}

// messageTarget selects the segments of a message for the relay, which may see them
// before the captures do. A request is identified by the trace ID in its first
// segment; a response by its request, which passed the same site before: it waits until
// the capture there has come as far.
func messageTarget(before *recording, transfer Transfer, traceID string) target {
	if transfer.Response {
		return func(s segment) bool {
			if !isOf(s, transfer) {
				return false
			}
			before.await(s, time.Second)
			for _, e := range before.exchanges(traceID) {
				if e.Request.Src == s.Dst && e.Request.Dst == s.Src {
					return !e.Response.Src.IsValid() || int32(s.Seq-e.Response.From) >= 0
				}
			}
			return false
		}
	}
	var first *segment
	return func(s segment) bool {
		if first == nil && isOf(s, transfer) && bytes.Contains(s.Data, []byte(traceID)) {
			first = &segment{Src: s.Src, Dst: s.Dst, Seq: s.Seq}
		}
		return first != nil && s.Src == first.Src && s.Dst == first.Dst && int32(s.Seq-first.Seq) >= 0
	}
}

// isOf reports whether a segment goes from the sender of a transfer to its receiver.
func isOf(s segment, transfer Transfer) bool {
	return s.Src.Addr().String() == podIP(transfer.From()) && s.Dst.Addr().String() == podIP(transfer.To())
}

func podIP(name string) string {
	pod, err := lab.PodByName(name)
	if err != nil {
		return ""
	}
	return pod.IP
}

// relay passes packets from one node to another through user namespace, and delays, drops
// or reorders some of them. Kernels need no netem for it.
type relay struct {
	namespace    *sandbox.Namespace
	bridge, pods string
	file         *os.File
	in           chan packet
	reveal       func(segment) segment
	group        sync.WaitGroup

	mu   sync.Mutex
	plan relayPlan
	err  error
}

// startRelay starts a relay on the switch: packets arrive through bridge, pods is the
// subnet of all pods. Nothing goes through it until a node has a route to it. Plans see
// segments as reveal returns them.
func startRelay(namespace *sandbox.Namespace, bridge, pods string, reveal func(segment) segment) (*relay, error) {
	r := &relay{reveal: reveal, namespace: namespace, bridge: bridge, pods: pods, in: make(chan packet, 4096), plan: passPlan{}}
	err := namespace.Do(func() (err error) {
		r.file, err = openDevice()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start a relay (needs tun): %w", err)
	}
	if err := routeInto(namespace, bridge, pods); err != nil {
		return nil, errors.Join(fmt.Errorf("start a relay: %w", err), r.file.Close())
	}
	r.group.Go(r.read)
	r.group.Go(r.pass)
	return r, nil
}

// Set changes the plan. Held packets keep their times.
func (r *relay) Set(plan relayPlan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = plan
}

// Met reports whether the plan affected a packet.
func (r *relay) Met() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Met()
}

// Close ends the relay. Held packets are lost.
func (r *relay) Close() error {
	err := errors.Join(unroute(r.namespace, r.bridge, r.pods), r.file.Close())
	r.group.Wait()
	return errors.Join(err, r.err)
}

func (r *relay) read() {
	defer close(r.in)
	for {
		raw := make([]byte, 1<<16)
		n, err := r.file.Read(raw)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			r.fail(err)
			return
		}
		p := parsePacket(raw[:n:n])
		if p.Data {
			p.Segment = r.reveal(p.Segment)
		}
		r.in <- p
	}
}

// pass decides on each packet on arrival, and writes it when it is due.
func (r *relay) pass() {
	var hold packetHeap
	var order uint64
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case p, ok := <-r.in:
			if !ok {
				return
			}
			now := time.Now()
			if delay, lost := r.decide(p, now); !lost {
				order++
				heap.Push(&hold, heldPacket{now.Add(delay), order, p.Raw})
			}
		case <-timer.C:
		}
		ready, next := hold.due(time.Now())
		for _, raw := range ready {
			if _, err := r.file.Write(raw); err != nil && !errors.Is(err, os.ErrClosed) {
				r.fail(err)
			}
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

func (r *relay) decide(p packet, now time.Time) (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.Decide(p, now)
}

func (r *relay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, fmt.Errorf("relay: %w", err))
}

// packet is an IPv4 packet, with its TCP segment if it has data.
type packet struct {
	Raw     []byte
	Segment segment
	Data    bool
	// Last is set on the last packet of a write (PSH).
	Last bool
}

// relayPlan decides on packets, one after the other.
type relayPlan interface {
	// Decide returns how long to hold a packet, or that it is lost.
	Decide(p packet, now time.Time) (hold time.Duration, lost bool)
	// Met reports whether the plan affected a packet.
	Met() bool
}

// passPlan affects no packet.
type passPlan struct{}

// Decide passes the packet.
func (passPlan) Decide(packet, time.Time) (time.Duration, bool) { return 0, false }

// Met is false.
func (passPlan) Met() bool { return false }

// delayPlan holds every packet for the same time.
type delayPlan time.Duration

// Met is true: the caller has captured the packets.
func (delayPlan) Met() bool { return true }

// Decide holds the packet.
func (d delayPlan) Decide(packet, time.Time) (time.Duration, bool) { return time.Duration(d), false }

// target reports whether a segment belongs to the affected message.
type target func(s segment) bool

// newLosePlan returns a plan that drops the last packet of the target once. No later
// packet reveals the loss, so the sender has to detect it by a timeout.
func newLosePlan(target target) relayPlan { return &losePlan{target: target} }

type losePlan struct {
	target target
	done   bool
}

func (l *losePlan) Decide(p packet, _ time.Time) (time.Duration, bool) {
	if l.done || !p.Data || !p.Last || !l.target(p.Segment) {
		return 0, false
	}
	l.done = true
	return 0, true
}

// Met reports whether a packet was dropped.
func (l *losePlan) Met() bool { return l.done }

// newReorderPlan returns a plan that holds the first packet of the target for d while
// later ones pass. Its retransmissions wait as well.
func newReorderPlan(target target, d time.Duration) relayPlan {
	return &reorderPlan{target: target, hold: d}
}

type reorderPlan struct {
	target   target
	hold     time.Duration
	src, dst netip.AddrPort
	from, to uint32
	release  time.Time
}

func (r *reorderPlan) Decide(p packet, now time.Time) (time.Duration, bool) {
	if !p.Data {
		return 0, false
	}
	s := p.Segment
	if r.release.IsZero() {
		if !r.target(s) {
			return 0, false
		}
		r.src, r.dst, r.from, r.to = s.Src, s.Dst, s.Seq, s.Seq+uint32(s.Length)
		r.release = now.Add(r.hold)
	}
	same := s.Src == r.src && s.Dst == r.dst &&
		int32(s.Seq-r.to) < 0 && int32(s.Seq+uint32(s.Length)-r.from) > 0
	if !same {
		return 0, false
	}
	return max(0, r.release.Sub(now)), false
}

// Met reports whether a packet was held.
func (r *reorderPlan) Met() bool { return !r.release.IsZero() }

// parsePacket parses a packet.
func parsePacket(raw []byte) packet {
	p := packet{Raw: raw}
	if p.Segment, p.Data = parseIPv4(raw); p.Data {
		const flags, psh = 13, 8
		p.Last = raw[int(raw[0]&15)*4+flags]&psh != 0
	}
	return p
}

// heldPacket is a packet and when it is due. Packets due at the same time are in order
// of arrival.
type heldPacket struct {
	due   time.Time
	order uint64
	raw   []byte
}

// packetHeap is a heap of held packets.
type packetHeap []heldPacket

// Len is part of heap.Interface.
func (w packetHeap) Len() int { return len(w) }

// Less orders by time, then by arrival.
func (w packetHeap) Less(i, j int) bool {
	if w[i].due.Equal(w[j].due) {
		return w[i].order < w[j].order
	}
	return w[i].due.Before(w[j].due)
}

// Swap swaps two packets.
func (w packetHeap) Swap(i, j int) { w[i], w[j] = w[j], w[i] }

// Push adds a packet.
func (w *packetHeap) Push(x any) { *w = append(*w, x.(heldPacket)) }

// Pop removes the last packet.
func (w *packetHeap) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

// due removes and returns the packets that are due, and returns when the next one is;
// zero if none is held.
func (w *packetHeap) due(now time.Time) (ready [][]byte, next time.Time) {
	for w.Len() > 0 && !(*w)[0].due.After(now) {
		ready = append(ready, heap.Pop(w).(heldPacket).raw)
	}
	if w.Len() > 0 {
		next = (*w)[0].due
	}
	return ready, next
}

const (
	relayDevice = "relay0"
	// relayTable is the number of the routing table with routes into the device.
	relayTable = 100
)

// openDevice creates a TUN device, which closing the file removes.
func openDevice() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(relayDevice)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("ioctl TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// routeInto routes packets that arrive through the bridge for the pods, which are those
// that a node did not send to another node directly, into the device. Packets out of
// the device take the normal routes.
func routeInto(namespace *sandbox.Namespace, bridge, pods string) error {
	nl, err := namespace.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName(relayDevice)
	if err == nil {
		err = nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", relayDevice, err)
	}
	_, dst, err := net.ParseCIDR(pods)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Table: relayTable, Scope: netlink.SCOPE_LINK}
	if err := nl.RouteAdd(route); err != nil {
		return fmt.Errorf("route %s into %s: %w", pods, relayDevice, err)
	}
	rule := netlink.NewRule()
	rule.IifName, rule.Dst, rule.Table = bridge, dst, relayTable
	if err := nl.RuleAdd(rule); err != nil {
		return fmt.Errorf("route packets from %s into %s: %w", bridge, relayDevice, err)
	}
	return namespace.Sysctl(map[string]string{
		"ip_forward": "1", "conf/all/rp_filter": "0", "conf/" + relayDevice + "/rp_filter": "0",
	})
}

// unroute removes the rule. The routes end with the device.
func unroute(namespace *sandbox.Namespace, bridge, pods string) error {
	nl, err := namespace.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, dst, err := net.ParseCIDR(pods)
	if err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.IifName, rule.Dst, rule.Table = bridge, dst, relayTable
	if err := nl.RuleDel(rule); err != nil {
		return fmt.Errorf("remove the rule for %s: %w", relayDevice, err)
	}
	return nil
}
