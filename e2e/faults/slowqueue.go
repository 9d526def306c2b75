// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// podQueue makes the queue of a pod's interface slow. Packets cannot be captured
// before it, but all packets of the message arrive together and the first passes at
// once: the delay of the last is the time between first and last.
func (in *Injector) podQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	pod, err := lab.PodByName(c.Pod)
	if err != nil {
		return 0, err
	}
	slow := slowQueue{Namespace: in.lab.PodNamespace(pod.Name), NIC: "eth0"}
	node := in.lab.NodeNamespace(pod.Node)
	after, err := in.slow(ctx, slow, c, r, site{node, pod.VNIC})
	if err != nil {
		return 0, err
	}
	m, err := after[0].message(r.TraceID, c.Transfer)
	if err != nil {
		return 0, err
	}
	first, ok1 := after[0].began(m)
	last, ok2 := after[0].passed(m)
	if !ok1 || !ok2 {
		return 0, ErrMissed
	}
	return last.Sub(first), nil
}

// driverQueue makes the queue of a node's physical interface slow.
func (in *Injector) driverQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	from, err := lab.PodByName(c.Transfer.From())
	if err != nil {
		return 0, err
	}
	node := in.lab.NodeNamespace(c.Node)
	slow := slowQueue{Namespace: node, NIC: lab.PNIC}
	seen, err := in.slow(ctx, slow, c, r, site{node, from.VNIC}, site{node, lab.PNIC})
	if err != nil {
		return 0, err
	}
	return timeBetween(seen[0], seen[1], r.TraceID, c.Transfer)
}

// bridgeQueue makes the queue of a node's bridge slow, for packets that the node
// routes to its pods.
func (in *Injector) bridgeQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	to, err := lab.PodByName(c.Transfer.To())
	if err != nil {
		return 0, err
	}
	node := in.lab.NodeNamespace(c.Node)
	slow := slowQueue{Namespace: node, NIC: lab.NodeBridge}
	seen, err := in.slow(ctx, slow, c, r, site{node, lab.PNIC}, site{node, to.VNIC})
	if err != nil {
		return 0, err
	}
	return timeBetween(seen[0], seen[1], r.TraceID, c.Transfer)
}

// stationQueue makes the queue slow in which the message leaves a device or a link.
func (in *Injector) stationQueue(ctx context.Context, c Case, r Request) (time.Duration, error) {
	name := c.Device
	if c.Kind == LinkQueue {
		name = c.Link.Name()
	}
	for _, s := range lab.Stations(nodeOf(c.Transfer.From()), nodeOf(c.Transfer.To())) {
		if s.Name != name {
			continue
		}
		namespace := in.lab.StationNamespace(name)
		seen, err := in.slow(ctx, slowQueue{Namespace: namespace, NIC: s.Out}, c, r, site{namespace, s.In}, site{namespace, s.Out})
		if err != nil {
			return 0, err
		}
		return timeBetween(seen[0], seen[1], r.TraceID, c.Transfer)
	}
	return 0, fmt.Errorf("%v is not on the way from %s to %s", name, c.Transfer.From(), c.Transfer.To())
}

// slow sends a request whose affected message is padded, with a queue slow for it,
// and returns what was captured at the sites.
func (in *Injector) slow(ctx context.Context, s slowQueue, c Case, r Request, sites ...site) (seen []*recording, err error) {
	s.Match = queueMatch{Port: lab.AppPort, Response: c.Transfer.Response, Longer: minPaddedPacket(c.Transfer)}
	// A message that arrives in pieces waits less: the queue sends the first while
	// the last is still to come.
	s.Rate = queueRate(paddedLength, c.Magnitude+200*time.Microsecond)
	remove, err := s.install()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return in.captureAt(sites, func([]*recording) error { return in.sendPadded(ctx, c.Transfer, r) })
}

// timeBetween returns the time from when a message had passed the first site until it
// had passed the second.
func timeBetween(before, after *recording, traceID string, transfer Transfer) (time.Duration, error) {
	m, err := before.message(traceID, transfer)
	if err != nil {
		return 0, err
	}
	return heldFor(before, after, m)
}

func heldFor(before, after *recording, m message) (time.Duration, error) {
	arrived, ok1 := before.passed(m)
	left, ok2 := after.passed(m)
	if !ok1 || !ok2 {
		return 0, fmt.Errorf("%w: it was not captured on both sides", ErrMissed)
	}
	return left.Sub(arrived), nil
}

// queueBurst is how many bytes pass the slow queue at once: one full segment; the next
// has to wait.
const queueBurst = 1600

// mss is the payload of a segment on the lab's interfaces, headerBytes the headers
// that the queue counts: Ethernet, IPv4, TCP with timestamps.
const (
	mss         = 1500 - 20 - 32
	headerBytes = 14 + 20 + 32
)

// wireBytes returns how many bytes the queue counts for a message sent at once.
func wireBytes(message int) int { return message + (message+mss-1)/mss*headerBytes }

// queueRate returns the rate, in bytes per second, at which a message leaves the queue
// d after it arrived, when the queue was empty and its bucket full.
func queueRate(message int, d time.Duration) uint64 {
	return uint64(float64(wireBytes(message)-queueBurst) / d.Seconds())
}

// queueDelay returns the delay of a message at a rate: the inverse of queueRate.
func queueDelay(message int, rate uint64) time.Duration {
	return time.Duration(float64(wireBytes(message)-queueBurst) / float64(rate) * float64(time.Second))
}

// slowQueue makes the queue of an interface slow for one kind of message: large ones
// to or from the port of the applications. Other packets are not delayed.
type slowQueue struct {
	Namespace *sandbox.Namespace
	NIC       string
	Match     queueMatch
	// Rate in bytes per second.
	Rate uint64
}

var (
	htbRoot  = netlink.MakeHandle(1, 0)
	htbClass = netlink.MakeHandle(1, 2)
	tbfLeaf  = netlink.MakeHandle(2, 0)
)

// install makes the queue slow until remove is called. Packets that are then still in
// it are lost.
func (s slowQueue) install() (remove func() error, err error) {
	nl, err := s.Namespace.Netlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	link, err := nl.LinkByName(s.NIC)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", s.NIC, s.Namespace.Name, err)
	}
	index := link.Attrs().Index
	remove = func() error { return errors.Join(unmark(s.Namespace), s.removeQueue(index)) }
	if err := s.addQueue(nl, index); err != nil {
		return nil, errors.Join(err, s.removeQueue(index))
	}
	// Mark packets for the class only once it exists.
	if err := s.Match.mark(s.Namespace, s.NIC, htbClass); err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}

// addQueue replaces the interface's queue. HTB sends packets of none of its classes at
// once; TBF, below it, splits large packets into segments.
func (s slowQueue) addQueue(nl *netlink.Handle, index int) error {
	htb := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: index, Handle: htbRoot, Parent: netlink.HANDLE_ROOT})
	htb.Defcls = 0
	steps := []struct {
		what string
		do   func() error
	}{
		{"HTB (needs sch_htb)", func() error { return nl.QdiscAdd(htb) }},
		{"a class", func() error {
			const unlimited = 80_000_000_000 // bits per second
			return nl.ClassAdd(netlink.NewHtbClass(
				netlink.ClassAttrs{LinkIndex: index, Handle: htbClass, Parent: htbRoot},
				netlink.HtbClassAttrs{Rate: unlimited, Buffer: 1 << 20, Cbuffer: 1 << 20, Quantum: 60_000}))
		}},
		{"TBF (needs sch_tbf)", func() error {
			return nl.QdiscAdd(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: tbfLeaf, Parent: htbClass},
				Rate:       s.Rate, Limit: 1 << 20, Buffer: tbfTicks(queueBurst, s.Rate),
			})
		}},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("make %s in %s slow: add %s: %w", s.NIC, s.Namespace.Name, step.what, err)
		}
	}
	return nil
}

// tbfTicks returns the time of a number of bytes in the kernel's unit of 64 ns.
func tbfTicks(bytes int, rate uint64) uint32 {
	return uint32((uint64(bytes)*uint64(time.Second)/rate + 63) / 64)
}

func (s slowQueue) removeQueue(index int) error {
	nl, err := s.Namespace.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	err = nl.QdiscDel(&netlink.Htb{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: htbRoot, Parent: netlink.HANDLE_ROOT}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the slow queue of %s in %s: %w", s.NIC, s.Namespace.Name, err)
	}
	return nil
}

// queueMatch selects the packets that are delayed.
type queueMatch struct {
	// Port is the server's. Response selects packets from it, otherwise packets to
	// it.
	Port     uint16
	Response bool
	// Longer is the length that an IPv4 packet must exceed before it is split into
	// segments.
	Longer int
}

var markTable = &nftables.Table{Name: "layertrace-faults", Family: nftables.TableFamilyIPv4}

// mark gives the packets that leave through nic a priority that names the class. It is
// the last hook, where addresses and ports are those on the wire.
func (m queueMatch) mark(namespace *sandbox.Namespace, nic string, class uint32) error {
	conn, err := nftables.New(nftables.WithNetNSFd(namespace.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", namespace.Name, err)
	}
	conn.AddTable(markTable)
	chain := conn.AddChain(&nftables.Chain{
		Name: "mark", Table: markTable, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(300),
	})
	conn.AddRule(&nftables.Rule{Table: markTable, Chain: chain, Exprs: m.rule(nic, class)})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("mark packets in %s (needs nf_tables): %w", namespace.Name, err)
	}
	return nil
}

func (m queueMatch) rule(nic string, class uint32) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, nic)
	port := uint32(2)
	if m.Response {
		port = 0
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: name},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(m.Port)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(uint16(m.Longer))},
		&expr.Counter{},
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint32(nil, class)},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: 1, SourceRegister: true},
	}
}

// unmark removes the rules of mark.
func unmark(namespace *sandbox.Namespace) error {
	conn, err := nftables.New(nftables.WithNetNSFd(namespace.FD()))
	if err != nil {
		return fmt.Errorf("open nftables in %s: %w", namespace.Name, err)
	}
	conn.DelTable(markTable)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("stop marking packets in %s: %w", namespace.Name, err)
	}
	return nil
}
