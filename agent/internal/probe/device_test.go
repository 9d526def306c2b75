// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// device runs packets through the device's programs with BPF_PROG_TEST_RUN.
type device struct {
	t *testing.T
	*Device
}

func newDevice(t *testing.T, opts Options) *device {
	t.Helper()
	d, err := OpenDevice(opts)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return &device{t, d}
}

// pass lets packets pass through the device: in at one interface, out at another.
func (d *device) pass(packets ...[]byte) {
	d.t.Helper()
	for _, packet := range packets {
		for _, name := range []string{bpf.DeviceProgDeviceIn, bpf.DeviceProgDeviceOut} {
			verdict, err := d.objects.Programs[name].Run(&ebpf.RunOptions{Data: packet})
			must(d.t, err)
			if int32(verdict) != -1 {
				d.t.Fatalf("verdict %d, want -1 (TCX_NEXT)", int32(verdict))
			}
		}
	}
}

// flushed ends all messages and returns those that came in and those that went out.
func (d *device) flushed() (in, out []observe.Sighting) {
	d.t.Helper()
	_, err := d.sweep(0, maxForgetIdle)
	must(d.t, err)
	done, cancel := context.WithCancel(context.Background())
	cancel()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for s := range d.out {
			if s.Direction == observe.DirectionIngress {
				in = append(in, s)
			} else {
				out = append(out, s)
			}
		}
	}()
	err = d.read(done)
	close(d.out)
	<-finished
	d.out = make(chan observe.Sighting, 256)
	must(d.t, err)
	return in, out
}

// sightings returns those that came in, of which each went out.
func (d *device) sightings() []observe.Sighting {
	d.t.Helper()
	in, out := d.flushed()
	if len(in) != len(out) {
		d.t.Errorf("%d sightings in, %d out: want the same", len(in), len(out))
	}
	return in
}

func (d *device) wantCount(which bpf.DeviceDeviceCounter, want uint64) {
	d.t.Helper()
	got, err := readCounter(d.objects.Maps[bpf.DeviceMapDeviceCounters], uint32(which), deviceCounters[which].name)
	must(d.t, err)
	if got != want {
		d.t.Errorf("%s = %d, want %d", deviceCounters[which].name, got, want)
	}
}

// compactOption is the option on the wire, by hand: docs/tcp-options.md.
func compactOption(id uint64, micros uint32) []layers.TCPOption {
	data := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64([]byte("LT"), id), micros)
	return []layers.TCPOption{{OptionType: 254, OptionLength: 16, OptionData: data}}
}

func paperOption(id uint32, nanos uint64) []layers.TCPOption {
	return []layers.TCPOption{
		{OptionType: 253, OptionLength: 6, OptionData: binary.BigEndian.AppendUint32(nil, id)},
		{OptionType: 254, OptionLength: 10, OptionData: binary.BigEndian.AppendUint64(nil, nanos)},
	}
}

// say is data of the client or the server with options.
func (c *connection) say(fromServer bool, payload int, options []layers.TCPOption) []byte {
	seq := &c.clientSeq
	if fromServer {
		seq = &c.serverSeq
	}
	s := segment{fromServer: fromServer, seq: *seq, options: options, payload: bytes.Repeat([]byte{'x'}, payload)}
	*seq += uint32(payload)
	return c.build(s)
}

const testID = 0x0102030405060708

// span is what a test expects of a sighting.
type span struct {
	fromServer bool
	start, end uint32
	flags      observe.SightingFlags
}

func wantSightings(t *testing.T, c *connection, got []observe.Sighting, want ...span) {
	t.Helper()
	// Flows are swept in no order.
	slices.SortFunc(got, func(a, b observe.Sighting) int {
		if a.First < b.First {
			return -1
		}
		return 1
	})
	if len(got) != len(want) {
		t.Fatalf("%d sightings, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		s := got[i]
		src, dst := c.client, c.server
		if w.fromServer {
			src, dst = dst, src
		}
		flags := s.Flags &^ observe.SightingBothWays // TestDeviceBothWays
		if s.Source != src || s.Destination != dst || s.Start != w.start || s.End != w.end || flags != w.flags {
			t.Errorf("sighting %d: %v to %v [%d, %d) %v, want %v to %v [%d, %d) %v", i,
				s.Source, s.Destination, s.Start, s.End, flags.Names(), src, dst, w.start, w.end, w.flags.Names())
		}
		if s.First == 0 || s.Last < s.First {
			t.Errorf("sighting %d: times %d to %d", i, s.First, s.Last)
		}
	}
}

// TestDeviceSeesMessages: each message is one sighting, whatever segments it has, with the
// ID of its connection, in both layouts; without an option nothing is.
func TestDeviceSeesMessages(t *testing.T) {
	for _, layout := range []struct {
		name    string
		option  func(time int) []layers.TCPOption
		id      []byte
		timeOf2 uint64
	}{
		{"compact", func(at int) []layers.TCPOption { return compactOption(testID, uint32(at)) }, []byte{1, 2, 3, 4, 5, 6, 7, 8}, 2},
		{"paper", func(at int) []layers.TCPOption { return paperOption(testID>>32, uint64(at)) }, []byte{1, 2, 3, 4}, 2},
	} {
		t.Run(layout.name, func(t *testing.T) {
			d, c := newDevice(t, Options{}), newConnection(40000)
			d.pass(c.build(segment{seq: c.clientSeq - 1, syn: true, options: layout.option(1)}))
			q1, r1 := c.clientSeq, c.serverSeq
			// A request of three segments; sending offload puts the option on two of them.
			d.pass(c.say(false, 100, layout.option(2)), c.say(false, 100, layout.option(2)), c.say(false, 50, nil))
			d.pass(c.say(true, 1000, layout.option(3)), c.say(true, 24, nil))
			q2, r2 := c.clientSeq, c.serverSeq
			d.pass(c.say(false, 7, layout.option(4)), c.say(true, 9, layout.option(5)))
			other := newConnection(40001)
			d.pass(other.say(false, 100, nil), other.say(true, 100, nil))
			got := d.sightings()
			wantSightings(t, c, got,
				span{false, q1, q1 + 250, observe.SightingFromOpener}, span{true, r1, r1 + 1024, 0},
				span{false, q2, q2 + 7, observe.SightingFromOpener}, span{true, r2, r2 + 9, 0})
			if !bytes.Equal(got[0].ConnectionID, layout.id) || got[0].OptionTime != layout.timeOf2 || got[0].Packets != 3 {
				t.Errorf("ID %x, option time %d, %d packets; want %x, %d, 3", got[0].ConnectionID, got[0].OptionTime, got[0].Packets, layout.id, layout.timeOf2)
			}
			d.wantCount(bpf.DeviceDeviceCounterDEVICE_COUNTER_UNMARKED, 0)
		})
	}
}

// TestDeviceOneWay: a device that sees one direction only has the same sightings of it: the
// acknowledgement number shows where a message begins.
func TestDeviceOneWay(t *testing.T) {
	d, c := newDevice(t, Options{}), newConnection(40000)
	q1 := c.clientSeq
	d.pass(c.say(false, 100, compactOption(testID, 1)))
	c.serverSeq += 500 // takes another path
	q2 := c.clientSeq
	d.pass(c.say(false, 100, nil)) // its option was lost
	wantSightings(t, c, d.sightings(), span{false, q1, q1 + 100, 0}, span{false, q2, q2 + 100, observe.SightingUnmarked})
	d.wantCount(bpf.DeviceDeviceCounterDEVICE_COUNTER_UNMARKED, 2) // in and out
}

// TestDeviceDisorder: copies, losses and segments in another order do not change where a
// message begins and ends, and its end is when the last missing byte has passed.
func TestDeviceDisorder(t *testing.T) {
	d := newDevice(t, Options{})
	for i, test := range []struct {
		name  string
		order []int // of the segments of the second request; -1: the first request again
		flags observe.SightingFlags
		last  int // position in order of the segment that completes it
		again uint32
	}{
		{"in order", []int{0, 1, 2, 3}, 0, 3, 0},
		{"a copy", []int{0, 1, 1, 2, 3, 0}, 0, 4, 2},
		{"a copy of the request before", []int{0, -1, 1, 2, 3}, 0, 4, 1},
		{"one late", []int{0, 2, 3, 1}, observe.SightingOutOfOrder, 3, 0},
		{"the first one late", []int{1, 2, 3, 0}, observe.SightingOutOfOrder, 3, 0},
		{"reversed", []int{3, 2, 1, 0}, observe.SightingOutOfOrder, 3, 0},
		{"two late", []int{0, 3, 1, 2}, observe.SightingOutOfOrder, 3, 0},
		{"one missing", []int{0, 2, 3}, observe.SightingOutOfOrder | observe.SightingIncomplete, -1, 0},
		{"two holes", []int{0, 2, 4, 1, 3}, observe.SightingOutOfOrder, 4, 0},
		{"two holes, filled backwards", []int{0, 2, 4, 3, 1}, observe.SightingOutOfOrder, 4, 0},
		{"what is between two holes again", []int{0, 2, 4, 1, 2, 3}, observe.SightingOutOfOrder, 5, 1},
		{"what is between two holes again, and one missing", []int{0, 2, 4, 1, 2}, observe.SightingOutOfOrder | observe.SightingIncomplete, -1, 1},
		{"everything again from the first hole on", []int{0, 2, 4, 6, 1, 2, 3, 4, 5, 6}, observe.SightingOutOfOrder, 8, 3},
		{"more holes than are followed", []int{0, 2, 4, 6, 8, 1, 3, 5, 7}, observe.SightingOutOfOrder | observe.SightingIncomplete, -1, 1},
		{"the middle of a hole first", []int{0, 5, 3, 1, 2, 4}, observe.SightingOutOfOrder, 5, 0},
		{"the middle of a hole only", []int{0, 5, 3, 1, 2}, observe.SightingOutOfOrder | observe.SightingIncomplete, -1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newConnection(uint16(40000 + i))
			q1 := c.clientSeq
			first := c.say(false, 100, compactOption(testID, 1))
			d.pass(first)
			r1 := c.serverSeq
			d.pass(c.say(true, 100, compactOption(testID, 2)))
			q2 := c.clientSeq
			packets, ends := [][]byte{c.say(false, 10, compactOption(testID, 3))}, []uint32{c.clientSeq}
			for range slices.Max(test.order) {
				packets, ends = append(packets, c.say(false, 20, nil)), append(ends, c.clientSeq)
			}
			var lastPassed uint64
			for i, n := range test.order {
				if i == test.last {
					lastPassed = monotonic(t)
				}
				if n < 0 {
					d.pass(first)
				} else {
					d.pass(packets[n])
				}
			}
			got := d.sightings()
			wantSightings(t, c, got, span{false, q1, q1 + 100, 0}, span{true, r1, r1 + 100, 0}, span{false, q2, ends[len(ends)-1], test.flags})
			if s := got[2]; s.Last < lastPassed || s.OptionTime != 3 {
				t.Errorf("last byte at %d, want after %d; option time %d, want 3", s.Last, lastPassed, s.OptionTime)
			} else if s.Retransmits != test.again {
				t.Errorf("%d segments seen again, want %d", s.Retransmits, test.again)
			}
		})
	}
}

// TestDeviceRandomOrder: of segments that pass in any order, again or not at all, the sighting
// has the bytes from the first to the last that passed, is incomplete if there are others in
// between, and ends when the last new byte passed.
func TestDeviceRandomOrder(t *testing.T) {
	d := newDevice(t, Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	judged := 0
	for trial := range 400 {
		c := newConnection(uint16(20000 + trial))
		d.pass(c.say(false, 100, compactOption(testID, 1)), c.say(true, 100, nil)) // the message before
		var packets [][]byte
		starts := []uint32{c.clientSeq}
		for range 2 + rng.IntN(8) {
			packets = append(packets, c.say(false, 1+rng.IntN(50), nil))
			starts = append(starts, c.clientSeq)
		}
		seen := make([]bool, len(packets))
		most := 0 // holes at once
		var began, ended uint64
		for range 1 + rng.IntN(2*len(packets)) {
			i := rng.IntN(len(packets))
			if !seen[i] {
				began, ended = monotonic(t), 0
			} else if ended == 0 {
				ended = monotonic(t)
			}
			seen[i] = true
			d.pass(packets[i])
			most = max(most, holes(seen))
		}
		if ended == 0 {
			ended = monotonic(t)
		}
		got := slices.DeleteFunc(d.sightings(), func(s observe.Sighting) bool { return s.Start == starts[0]-100 || s.Source != c.client })
		if most > 3 {
			continue // more than are followed
		}
		judged++
		first, last := slices.Index(seen, true), len(seen)-1
		for !seen[last] {
			last--
		}
		incomplete := holes(seen) > 0
		if len(got) != 1 || got[0].Start != starts[first] || got[0].End != starts[last+1] ||
			(got[0].Flags&observe.SightingIncomplete != 0) != incomplete || got[0].Last < began || got[0].Last > ended {
			t.Fatalf("trial %d: %+v, want [%d, %d), incomplete %v, last byte from %d to %d", trial, got, starts[first], starts[last+1], incomplete, began, ended)
		}
	}
	if judged < 200 {
		t.Errorf("%d trials have few holes, want more", judged)
	}
}

// holes counts the runs of false between two of true.
func holes(seen []bool) (n int) {
	first, last := slices.Index(seen, true), len(seen)-1
	for !seen[last] {
		last--
	}
	for i := first + 1; i <= last; i++ {
		if !seen[i] && seen[i-1] {
			n++
		}
	}
	return n
}

// TestDeviceBothWays: a sighting says whether the other direction of its connection passes
// too, at the same interface.
func TestDeviceBothWays(t *testing.T) {
	d, c, other := newDevice(t, Options{}), newConnection(40000), newConnection(40001)
	d.pass(c.say(false, 100, compactOption(testID, 1)), c.say(true, 100, nil), c.say(false, 10, nil))
	d.pass(other.say(false, 100, compactOption(testID+1, 1)))
	got := d.sightings()
	if len(got) != 4 {
		t.Errorf("%d sightings, want 3 of the first connection and 1 of the other", len(got))
	}
	for _, s := range got {
		both, want := s.Flags&observe.SightingBothWays != 0, s.ConnectionID[7] == 8
		if both != want {
			t.Errorf("connection %x, message from %v: both ways %v, want %v", s.ConnectionID, s.Source, both, want)
		}
	}
}

// TestDeviceNewConnection: a SYN ends what was known of the same addresses and ports, in both
// directions, wherever the new sequence numbers are.
func TestDeviceNewConnection(t *testing.T) {
	d := newDevice(t, Options{})
	for n, distance := range []uint32{0, 1000, 1 << 31} {
		c := newConnection(uint16(40000 + n))
		q1, r1 := c.clientSeq, c.serverSeq
		d.pass(c.say(false, 100, compactOption(testID, 1)), c.say(true, 100, compactOption(testID, 2)))
		c.clientSeq, c.serverSeq = c.clientSeq+distance+1, c.serverSeq+distance
		d.pass(c.build(segment{seq: c.clientSeq - 1, syn: true, options: compactOption(testID+1, 3)}))
		q2, r2 := c.clientSeq, c.serverSeq
		d.pass(c.say(false, 50, compactOption(testID+1, 4)), c.say(true, 50, nil))
		got := d.sightings()
		wantSightings(t, c, got, span{false, q1, q1 + 100, 0}, span{true, r1, r1 + 100, 0},
			span{false, q2, q2 + 50, observe.SightingFromOpener}, span{true, r2, r2 + 50, observe.SightingUnmarked})
		for i, s := range got {
			if want := byte(8 + i/2); s.ConnectionID[7] != want {
				t.Errorf("distance %d, sighting %d: ID %x, want ...%02x", distance, i, s.ConnectionID, want)
			}
		}
		d.wantCount(bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_CONFLICTING, 0)
	}
}

// TestDeviceForgedOptions: an option from a network that is not trusted does not count, nor
// one with another ID inside of a connection; one far from it is of a new connection.
func TestDeviceForgedOptions(t *testing.T) {
	d, c := newDevice(t, Options{}), newConnection(40000)
	q1 := c.clientSeq
	d.pass(c.say(false, 100, compactOption(testID, 1)), c.say(false, 100, compactOption(testID+1, 1)))
	d.wantCount(bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_CONFLICTING, 2)
	c.clientSeq += 1 << 28
	q2 := c.clientSeq
	d.pass(c.say(false, 100, compactOption(testID+2, 5)))
	got := d.sightings()
	wantSightings(t, c, got, span{false, q1, q1 + 200, 0}, span{false, q2, q2 + 100, 0})
	if got[0].ConnectionID[7] != 8 || got[1].ConnectionID[7] != 10 {
		t.Errorf("IDs %x and %x, want ...08 and ...0a", got[0].ConnectionID, got[1].ConnectionID)
	}
	d.wantCount(bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_CONFLICTING, 2)

	stranger := newConnection(40000)
	stranger.client = netAddrPort("198.51.100.1:40000")
	d.pass(stranger.say(false, 100, compactOption(testID, 1)))
	wantSightings(t, stranger, d.sightings())
	d.wantCount(bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_UNTRUSTED, 2)
}

// TestDeviceNeedsNoPayload: with the payload cut off, so that only its length in the IP
// header is left, or replaced by bytes that look like headers and options, the sightings
// are the same.
func TestDeviceNeedsNoPayload(t *testing.T) {
	type facts struct {
		Source, Destination string
		Start, End, Packets uint32
		Flags               observe.SightingFlags
		OptionTime          uint64
	}
	poison := func(payload []byte) {
		for i := range payload {
			payload[i] = []byte{254, 16, 'L', 'T', 0x45, 253, 6, 9}[i%8]
		}
	}
	var want []facts
	for _, change := range []struct {
		name string
		do   func(packet []byte, headers int) []byte
	}{
		{"whole", func(packet []byte, _ int) []byte { return packet }},
		{"absent", func(packet []byte, headers int) []byte { return packet[:headers] }},
		{"poisoned", func(packet []byte, headers int) []byte { poison(packet[headers:]); return packet }},
	} {
		t.Run(change.name, func(t *testing.T) {
			d := newDevice(t, Options{})
			for version, client := range []string{"10.0.0.1:40000", "[fd00::1]:40000"} {
				c := &connection{client: netAddrPort(client), server: netAddrPort([]string{"10.0.0.2:8080", "[fd00::2]:8080"}[version]), clientSeq: 1000, serverSeq: 5000}
				for i, n := range []int{300, 700, 1, 1400, 20, 40} {
					var options []layers.TCPOption
					if i != 2 {
						options = compactOption(testID, uint32(i+1))
					}
					whole := c.say(i%2 == 1, n, options)
					d.pass(change.do(whole, len(whole)-n))
				}
			}
			var got []facts
			sightings := d.sightings()
			slices.SortFunc(sightings, func(a, b observe.Sighting) int { return int(int64(a.First - b.First)) })
			for _, s := range sightings {
				got = append(got, facts{s.Source.String(), s.Destination.String(), s.Start, s.End, s.Packets, s.Flags, s.OptionTime})
			}
			if len(got) != 12 {
				t.Errorf("%d sightings, want 12: six messages over IPv4 and over IPv6", len(got))
			}
			if want == nil {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%s:\n%v, want those of whole packets\n%v", change.name, got, want)
			}
		})
	}
}

// TestDeviceWatched: a sighting says for how long its interface had been watched, and after
// the end of watching none is certain that only one way passes.
func TestDeviceWatched(t *testing.T) {
	d := newDevice(t, Options{})
	const here, long = 7, 8
	d.watched[here], d.watched[long] = 1000, 0
	for _, test := range []struct {
		ifindex  int
		at, want uint64
	}{{here, 1500, 500}, {here, 900, 1}, {here, 1001 + observe.MaxWatched, 0}, {long, 2 * observe.MaxWatched, 0}, {9, 1500, 0}} {
		if got := d.watchedFor(test.ifindex, test.at); got != test.want {
			t.Errorf("interface %d at %d: watched for %d ns, want %d", test.ifindex, test.at, got, test.want)
		}
	}
	for _, stopping := range []bool{false, true} {
		d.stopping.Store(stopping)
		c := newConnection(40000)
		d.pass(c.say(false, 100, compactOption(testID, 1)))
		if got := d.sightings(); len(got) != 1 || (got[0].Flags&observe.SightingBothWays != 0) != stopping {
			t.Errorf("stopping %v: %+v", stopping, got)
		}
		d.pass(c.build(segment{seq: c.clientSeq + 7, syn: true})) // ends the connection
	}
}

// TestDeviceQueueDrops: a message has left when all of its bytes have, also those that the
// queue of the interface dropped and that were sent again. Where that cannot be seen, it is
// not known when it left. A queue that let all bytes pass is not to blame for copies.
func TestDeviceQueueDrops(t *testing.T) {
	needsTCX(t)
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	d := newDevice(t, Options{})
	must(t, d.Attach(n.ifindex))
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	must(t, err)
	defer unix.Close(wire)
	const wait = -1 // until the queue is empty
	const pfifo = 0
	for i, test := range []struct {
		name  string
		limit uint32 // of the queue in bytes, of which 1,500 pass at once; pfifo: packets bypass it
		order []int  // segments of 1,000 bytes
		known bool
		after int // it leaves after this one has been sent
	}{
		{"all pass", 1 << 20, []int{0, 1, 2}, true, 2},
		{"all pass, and a copy", 1 << 20, []int{0, 1, 2, wait, 1}, true, 2},
		{"the last one is dropped", 1500, []int{0, 1, 2, wait, 2}, true, 4},
		{"one in the middle is dropped", 1500, []int{0, 1, 2, wait, 3, wait, 2}, true, 6},
		{"one in the middle is dropped for good", 1500, []int{0, 1, 2, wait, 3}, false, 0},
		{"packets bypass the queue", pfifo, []int{0, 1, 2}, true, 2},
		{"packets bypass the queue, and a copy", pfifo, []int{0, 1, 2, 1}, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			const rate, burst = 20_000, 1500
			var queue netlink.Qdisc = &netlink.Tbf{QdiscAttrs: rootQueue(n), Rate: rate, Buffer: netlink.Xmittime(rate, burst), Limit: test.limit}
			if test.limit == pfifo {
				queue = &netlink.GenericQdisc{QdiscAttrs: rootQueue(n), QdiscType: "pfifo"}
			}
			must(t, netlink.QdiscAdd(queue))
			defer func() { must(t, netlink.QdiscDel(queue)) }()
			c := newConnection(uint16(40000 + i))
			var packets [][]byte
			for range 4 {
				packets = append(packets, c.say(false, 1000, compactOption(testID, 1)))
			}
			var after uint64
			for i, which := range test.order {
				if which == wait {
					poll(t, "an empty queue", func() bool { return queued(t, n) == 0 })
					continue
				}
				if i == test.after {
					after = monotonic(t)
				}
				err := unix.Sendto(wire, packets[which], 0, &unix.SockaddrLinklayer{Ifindex: n.ifindex})
				if !errors.Is(err, unix.ENOBUFS) { // dropped
					must(t, err)
				}
			}
			poll(t, "an empty queue", func() bool { return queued(t, n) == 0 })
			_, out := d.flushed()
			out = slices.DeleteFunc(out, func(s observe.Sighting) bool { return s.Source != c.client })
			if len(out) != 1 {
				t.Fatalf("%d sightings, want 1: %+v", len(out), out)
			}
			if s := out[0]; (s.Tx != observe.Extent{}) != test.known || test.known && s.Tx.Last < after {
				t.Errorf("left from %d to %d, want that known: %v, and the last byte after %d; flags %v, %d copies", s.Tx.First, s.Tx.Last, test.known, after, s.Flags.Names(), s.Retransmits)
			}
		})
	}
}

// TestSightingFlags compares the values of both sides.
func TestSightingFlags(t *testing.T) {
	for kernel, flag := range map[bpf.DeviceSightingFlag]observe.SightingFlags{
		bpf.DeviceSightingFlagSIGHTING_UNMARKED:     observe.SightingUnmarked,
		bpf.DeviceSightingFlagSIGHTING_INCOMPLETE:   observe.SightingIncomplete,
		bpf.DeviceSightingFlagSIGHTING_OUT_OF_ORDER: observe.SightingOutOfOrder,
		bpf.DeviceSightingFlagSIGHTING_FROM_OPENER:  observe.SightingFromOpener,
		bpf.DeviceSightingFlagSIGHTING_BOTH_WAYS:    observe.SightingBothWays,
	} {
		if uint32(kernel) != uint32(flag) {
			t.Errorf("flag %v is %d, in the kernel %d", flag.Names(), flag, kernel)
		}
	}
}

func netAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
