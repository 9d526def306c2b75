// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

const (
	turnSize = int(unsafe.Sizeof(bpf.EncryptedTurn{}))
	// Of bpf/include/turn.h.
	turnTimeShift = 4
	turnWaitShift = 10
	isSocket      = 1 << 63
	socketPoint   = 1 << 31
)

// maxTurns bounds the turns of one connection and point in a result of Turns.
const maxTurns = 1 << 16

// Turns appends to dst the turns of a connection at all capture points of the node of which
// any part lies between from and to, in ns of CLOCK_MONOTONIC, by point and in the order of
// their numbers. The result may miss the oldest ones that the ring had to overwrite, and is
// empty for a connection that is not followed.
func (e *Encrypted) Turns(dst []observe.Turn, client, server netip.AddrPort, from, to uint64) ([]observe.Turn, error) {
	ends, clientIsA := keyOf(client, server)
	var points bpf.EncryptedPoints
	if err := e.objects.Maps[bpf.EncryptedMapPointsOfEnds].Lookup(ends, &points); errors.Is(err, ebpf.ErrKeyNotExist) {
		return dst, nil
	} else if err != nil {
		return dst, fmt.Errorf("look up the capture points of %v to %v: %w", client, server, err)
	}
	for _, point := range points.Of {
		if point == 0 {
			continue
		}
		var c bpf.EncryptedConnection
		found, err := e.connection(pointKey(ends, point), &c)
		if err != nil {
			return dst, fmt.Errorf("read the connection of %v to %v: %w", client, server, err)
		}
		if !found {
			continue
		}
		p := pointTurns{
			key: observe.Key{Client: client, Server: server}, connection: &c, dequeues: e.dequeues,
			// A guess by the kernel gives way to what the caller knows.
			reversed: point&isSocket == 0 && clientIsA != (c.Role&bpf.EncryptedRoleROLE_CLIENT_IS_A != 0),
		}
		if point&isSocket != 0 {
			p.socket = socketOf(point, &c)
		} else {
			p.ifindex = int(point)
		}
		dst = p.add(dst, e.walk(&c, from), from, to)
	}
	return dst, nil
}

// Sockets calls each for the sockets of the node that have an encrypted connection now, or
// had one until recently, with the connection's ends; the end with the larger port is taken
// as the client. It is for those who do not know the connections: one call reads all of them.
func (e *Encrypted) Sockets(each func(observe.Key, *observe.Socket)) error {
	var ends bpf.EncryptedConnectionKey
	var points bpf.EncryptedPoints
	all := e.objects.Maps[bpf.EncryptedMapPointsOfEnds].Iterate()
	for all.Next(&ends, &points) {
		for _, point := range points.Of {
			if point&isSocket == 0 {
				continue
			}
			var c bpf.EncryptedConnection
			found, err := e.connection(pointKey(ends, point), &c)
			if err != nil {
				return fmt.Errorf("read the connection of a socket: %w", err)
			}
			if !found {
				continue
			}
			each(observe.Key{
				Client: netip.AddrPortFrom(address(ends.AddrB), ends.PortB),
				Server: netip.AddrPortFrom(address(ends.AddrA), ends.PortA),
			}, socketOf(point, &c))
		}
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("list encrypted connections: %w", err)
	}
	return nil
}

func socketOf(point uint64, c *bpf.EncryptedConnection) *observe.Socket {
	s := &c.Socket
	return &observe.Socket{
		Cookie: point &^ isSocket, Client: c.Role&bpf.EncryptedRoleROLE_CLIENT_IS_A != 0,
		Netns: s.Netns, UID: s.Uid, Cgroup: s.Cgroup, PID: s.Tgid, ProcessName: unix.ByteSliceToString(s.ProcessName[:]),
		SRTT: uint64(s.SrttUs) * 1000,
	}
}

// keyOf returns the key of a connection's ends, as set_ends() in bpf/include/encrypted.h
// sorts them, and whether the client is its end a.
func keyOf(client, server netip.AddrPort) (key bpf.EncryptedConnectionKey, clientIsA bool) {
	a, b := words(client.Addr()), words(server.Addr())
	clientIsA = client.Port() < server.Port()
	if client.Port() == server.Port() {
		clientIsA = slices.Compare(a[:], b[:]) < 0
	}
	if clientIsA {
		return bpf.EncryptedConnectionKey{AddrA: a, AddrB: b, PortA: client.Port(), PortB: server.Port()}, true
	}
	return bpf.EncryptedConnectionKey{AddrA: b, AddrB: a, PortA: server.Port(), PortB: client.Port()}, false
}

func words(addr netip.Addr) [2]uint64 {
	bytes := addr.As16()
	return [2]uint64{binary.NativeEndian.Uint64(bytes[:8]), binary.NativeEndian.Uint64(bytes[8:])}
}

// address is the inverse of words.
func address(words [2]uint64) netip.Addr {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], words[0])
	binary.NativeEndian.PutUint64(b[8:], words[1])
	return netip.AddrFrom16(b).Unmap()
}

// pointKey is the key of the connection's state at a capture point.
func pointKey(ends bpf.EncryptedConnectionKey, point uint64) bpf.EncryptedConnectionKey {
	if point&isSocket != 0 {
		return bpf.EncryptedConnectionKey{AddrA: [2]uint64{point &^ isSocket}, Point: socketPoint}
	}
	ends.Point = uint32(point)
	return ends
}

// stableReads is how often a state that a program changes meanwhile is read again.
const stableReads = 100

// connection reads a state between two changes.
func (e *Encrypted) connection(key bpf.EncryptedConnectionKey, c *bpf.EncryptedConnection) (found bool, err error) {
	for range stableReads {
		var again bpf.EncryptedConnection
		for _, one := range []*bpf.EncryptedConnection{c, &again} {
			if err := e.objects.Maps[bpf.EncryptedMapConnections].Lookup(key, one); errors.Is(err, ebpf.ErrKeyNotExist) {
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
		if c.Lock == 0 && *c == again {
			return true, nil
		}
	}
	e.unstable.Add(1)
	return false, nil
}

// walk returns the turns of a connection back to the last that ended before a time, in the
// order of their numbers.
func (e *Encrypted) walk(c *bpf.EncryptedConnection, from uint64) []bpf.EncryptedTurn {
	var turns []bpf.EncryptedTurn
	if open := c.Turn; hasData(&open) {
		open.Flags |= bpf.EncryptedTurnFlagTURN_OPEN
		setFarTimes(c, &open)
		setWaits(c, &open)
		turns = append(turns, open)
	}
	for next := c.Turn.Previous; next != 0; {
		var t bpf.EncryptedTurn
		if !e.readTurn(next, &t) {
			e.overwritten.Add(1)
			break
		}
		if len(turns) == maxTurns {
			e.tooMany.Add(1)
			break
		}
		turns = append(turns, t)
		if _, end := extentOf(&t); end < from {
			break
		}
		next = t.Previous
	}
	slices.Reverse(turns)
	return turns
}

// readTurn reads the turn with a sequence from the ring. It returns false if it was
// overwritten.
func (e *Encrypted) readTurn(sequence uint64, t *bpf.EncryptedTurn) bool {
	slot := int((sequence - 1) % uint64(len(e.turns)/turnSize))
	entry := e.turns[slot*turnSize : (slot+1)*turnSize]
	// The programs set it to 0 first and to its new value last; see keep_turn().
	current := (*uint64)(unsafe.Pointer(&entry[0]))
	if atomic.LoadUint64(current) != sequence {
		return false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(t)), turnSize), entry)
	return atomic.LoadUint64(current) == sequence
}

// setFarTimes does to an open turn what set_far_times() does to one that ends.
func setFarTimes(c *bpf.EncryptedConnection, t *bpf.EncryptedTurn) {
	sent, received, stream := &t.Response, &t.Request, &c.Server
	if observe.Direction(c.Direction) == observe.DirectionEgress {
		sent, received, stream = &t.Request, &t.Response, &c.Client
	}
	if c.Sent.Turn == t.Number+1 {
		sent.FarFirst, sent.FarLast = farDelay(c.Sent.First, sent.First), farDelay(c.Sent.Last, sent.Last)
		if c.Sent.Bypass != 0 {
			t.Flags |= bpf.EncryptedTurnFlagTURN_BYPASS
		}
		if int32(c.Sent.Next-stream.MessageEnd) >= 0 {
			t.Flags |= bpf.EncryptedTurnFlagTURN_TX_WHOLE
		}
	}
	if c.Acknowledged.Turn == t.Number+1 && c.Acknowledged.Next == stream.MessageEnd && c.Acknowledged.Last > sent.Last {
		t.Acknowledged = uint32(min((c.Acknowledged.Last-sent.Last)>>turnTimeShift, math.MaxUint32-1)) + 1
	}
	if c.Received.Turn == t.Number+1 {
		received.FarFirst, received.FarLast = farDelay(c.Received.First, received.First), farDelay(c.Received.Last, received.Last)
	}
}

// setWaits does to an open turn what set_waits() does to one that ends.
func setWaits(c *bpf.EncryptedConnection, t *bpf.EncryptedTurn) {
	units := func(ns uint64) uint32 { return uint32(min(ns>>turnWaitShift, math.MaxUint32)) }
	t.Waited, t.Held, t.Stalled, t.Unread = units(c.Waits.Waited), units(c.Waits.Held), units(c.Waits.Stalled), units(c.Waits.Unread)
}

func farDelay(far, near uint64) int32 {
	const round = 1<<turnTimeShift - 1
	units := int64(far-near+round) >> turnTimeShift
	if far < near {
		units = -(int64(near-far+round) >> turnTimeShift)
	}
	switch {
	case far == 0 || near == 0 || units != int64(int32(units)):
		return 0
	case units == 0:
		return 1
	default:
		return int32(units)
	}
}

func hasData(t *bpf.EncryptedTurn) bool {
	return t.Request.Records != 0 || t.Response.Records != 0 || t.Request.First != 0 || t.Response.First != 0
}

// extentOf returns the times of the turn's first and last byte.
func extentOf(t *bpf.EncryptedTurn) (first, last uint64) {
	first, last = t.Request.First, max(t.Request.Last, t.Response.Last)
	if first == 0 || t.Response.First != 0 && t.Response.First < first {
		first = t.Response.First
	}
	return first, last
}

// pointTurns converts the turns of a connection at one capture point.
type pointTurns struct {
	key        observe.Key
	connection *bpf.EncryptedConnection
	ifindex    int
	socket     *observe.Socket
	reversed   bool // the kernel takes the server for the client
	dequeues   bool // packets that leave the qdiscs of interfaces are seen
}

// add appends the turns that lie between the times.
func (p *pointTurns) add(dst []observe.Turn, turns []bpf.EncryptedTurn, from, to uint64) []observe.Turn {
	if p.reversed {
		turns = cutAgain(turns)
	}
	for i := range turns {
		t := &turns[i]
		if first, last := extentOf(t); last < from || first > to {
			continue
		}
		turn := observe.Turn{
			Key: p.key, Interface: p.ifindex, Direction: p.direction(), Socket: p.socket, Number: uint64(t.Number),
			Request: turnMessage(&t.Request), Response: turnMessage(&t.Response),
			Retransmits: t.Retransmits, Drops: uint32(t.Drops), Flags: observe.TurnFlags(t.Flags & (bpf.EncryptedTurnFlagTURN_BYPASS - 1)),
		}
		if t.Drops != 0 {
			turn.DropReason = dropReason(t.DropReason)
		}
		p.setFar(&turn, t)
		dst = append(dst, turn)
	}
	return dst
}

// setFar sets the times at which the application wrote and read, and for how long it waited,
// or when the driver transmitted.
func (p *pointTurns) setFar(turn *observe.Turn, t *bpf.EncryptedTurn) {
	if p.socket != nil {
		turn.Request.App, turn.Response.App = farExtent(&t.Request), farExtent(&t.Response)
		sent, arrived := &turn.Response, &turn.Request
		if p.socket.Client {
			sent, arrived = arrived, sent
		}
		wait := func(units uint32) uint64 { return uint64(units) << turnWaitShift }
		sent.Waited, sent.Held, sent.Stalled = wait(t.Waited), wait(t.Held), wait(t.Stalled)
		arrived.Unread = wait(t.Unread)
		turn.ZeroWindows = uint32(t.ZeroWindows)
		if t.Acknowledged != 0 {
			sent.Acknowledged = sent.Last + uint64(t.Acknowledged)<<turnTimeShift
		}
		return
	}
	out, far := &turn.Request.Message, farExtent(&t.Request)
	if turn.Direction == observe.DirectionIngress {
		out, far = &turn.Response.Message, farExtent(&t.Response)
	}
	if !p.dequeues || out.First == 0 || p.reversed {
		return
	}
	out.Tx = far
	out.Tx = transmitted(out, dequeued{
		bypass: t.Flags&bpf.EncryptedTurnFlagTURN_BYPASS != 0, whole: t.Flags&bpf.EncryptedTurnFlagTURN_TX_WHOLE != 0,
	})
}

func farExtent(m *bpf.EncryptedTurnMessage) (e observe.Extent) {
	if m.FarFirst != 0 {
		e.First = m.First + uint64(int64(m.FarFirst)<<turnTimeShift)
	}
	if m.FarLast != 0 {
		e.Last = m.Last + uint64(int64(m.FarLast)<<turnTimeShift)
	}
	return e
}

func (p *pointTurns) direction() observe.Direction {
	d := observe.Direction(p.connection.Direction)
	switch {
	case p.socket != nil:
		return observe.DirectionUnknown
	case !p.reversed:
		return d
	default:
		return observe.DirectionIngress + observe.DirectionEgress - d
	}
}

// cutAgain pairs what one end sent with what the other sent after it, where the kernel
// paired it with what the other sent before.
func cutAgain(turns []bpf.EncryptedTurn) []bpf.EncryptedTurn {
	var again []bpf.EncryptedTurn
	for i := range turns {
		t := turns[i]
		t.Response = turns[i].Request
		t.Request = bpf.EncryptedTurnMessage{}
		if i > 0 && turns[i-1].Number+1 == t.Number {
			t.Request = turns[i-1].Response
			t.Flags |= turns[i-1].Flags
			t.Retransmits += turns[i-1].Retransmits
			t.Drops += turns[i-1].Drops
			t.DropReason = cmp.Or(t.DropReason, turns[i-1].DropReason)
		}
		again = append(again, t)
	}
	if n := len(turns); n > 0 && turns[n-1].Response.First != 0 {
		t := turns[n-1]
		t.Request, t.Response = t.Response, bpf.EncryptedTurnMessage{}
		t.Number++
		t.Flags |= bpf.EncryptedTurnFlagTURN_OPEN
		again = append(again, t)
	}
	return again
}

func turnMessage(m *bpf.EncryptedTurnMessage) observe.TurnMessage {
	to := observe.TurnMessage{
		Message:     observe.Message{First: m.First, Last: m.Last, Bytes: m.Bytes, Packets: m.Packets},
		LastLarge:   m.Last - uint64(m.SmallDelay)<<turnTimeShift,
		RecordBytes: m.RecordBytes, Records: m.Records, Alerts: uint32(m.Alerts), KeyUpdates: uint32(m.KeyUpdates),
	}
	if m.SmallDelay != 0 {
		to.LastLarge = max(to.LastLarge, m.First)
	}
	for i, length := range m.Leading {
		if length == 0 {
			break
		}
		to.Leading = append(to.Leading, observe.LeadingRecord{Length: length, First: m.First + uint64(m.LeadingDelay[i])<<turnTimeShift})
	}
	return to
}
