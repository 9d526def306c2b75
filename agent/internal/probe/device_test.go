// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

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

// sightings ends all messages and returns those that came in.
func (d *device) sightings() (in []observe.Sighting) {
	d.t.Helper()
	_, err := d.sweep(0, maxForgetIdle)
	must(d.t, err)
	done, cancel := context.WithCancel(context.Background())
	cancel()
	finished := make(chan struct{})
	var out []observe.Sighting
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
		if s.Source != src || s.Destination != dst || s.Start != w.start || s.End != w.end || s.Flags != w.flags {
			t.Errorf("sighting %d: %v to %v [%d, %d) %v, want %v to %v [%d, %d) %v", i,
				s.Source, s.Destination, s.Start, s.End, s.Flags.Names(), src, dst, w.start, w.end, w.flags.Names())
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
	for _, test := range []struct {
		name  string
		order []int // of the four segments of the second request; -1: the first request again
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
	} {
		t.Run(test.name, func(t *testing.T) {
			d, c := newDevice(t, Options{}), newConnection(40000)
			q1 := c.clientSeq
			first := c.say(false, 100, compactOption(testID, 1))
			d.pass(first)
			r1 := c.serverSeq
			d.pass(c.say(true, 100, compactOption(testID, 2)))
			q2 := c.clientSeq
			packets := [][]byte{c.say(false, 10, compactOption(testID, 3)), c.say(false, 20, nil), c.say(false, 30, nil), c.say(false, 40, nil)}
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
			wantSightings(t, c, got, span{false, q1, q1 + 100, 0}, span{true, r1, r1 + 100, 0}, span{false, q2, q2 + 100, test.flags})
			if s := got[2]; s.Last < lastPassed || s.OptionTime != 3 {
				t.Errorf("last byte at %d, want after %d; option time %d, want 3", s.Last, lastPassed, s.OptionTime)
			} else if s.Retransmits != test.again {
				t.Errorf("%d segments seen again, want %d", s.Retransmits, test.again)
			}
		})
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

// TestSightingFlags compares the values of both sides.
func TestSightingFlags(t *testing.T) {
	for kernel, flag := range map[bpf.DeviceSightingFlag]observe.SightingFlags{
		bpf.DeviceSightingFlagSIGHTING_UNMARKED:     observe.SightingUnmarked,
		bpf.DeviceSightingFlagSIGHTING_INCOMPLETE:   observe.SightingIncomplete,
		bpf.DeviceSightingFlagSIGHTING_OUT_OF_ORDER: observe.SightingOutOfOrder,
		bpf.DeviceSightingFlagSIGHTING_FROM_OPENER:  observe.SightingFromOpener,
	} {
		if uint32(kernel) != uint32(flag) {
			t.Errorf("flag %v is %d, in the kernel %d", flag.Names(), flag, kernel)
		}
	}
}

func netAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
