// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
)

// Device is the kernel side of an agent that reads nothing but headers
// (bpf/device.bpf.c), and the prometheus.Collector of its counters. Its methods may be
// called concurrently.
type Device struct {
	log      *slog.Logger
	opts     Options
	objects  *ebpf.Collection
	links    attachments // to tracepoints
	dequeues bool        // packets that leave the qdiscs of interfaces are seen
	reader   *ring
	walks    *link.Iter // over the flows
	out      chan observe.Sighting

	mu       sync.Mutex
	mode     Mode
	attached map[int]attachment
	watched  map[int]uint64 // when each was attached, ns of CLOCK_MONOTONIC
	queues   watchedInterfaces

	stopping                        atomic.Bool
	received, unreadable, txMissing atomic.Uint64
}

// devicePoints are the tracepoints of the device's programs.
var devicePoints = []tracepoint{
	{bpf.DeviceProgDeviceDequeue, "qdisc_dequeue", 4, "times at which drivers transmit are unknown: time in the queues of this device counts as that of the link after it"},
}

// OpenDevice loads the programs. Of the options it uses Mode, Ports, MaxConnections,
// RingBytes, ReadInterval, IdleTimeout, TrustedPrefixes and Log.
func OpenDevice(opts Options) (*Device, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadDevice()
	if err != nil {
		return nil, fmt.Errorf("read device programs: %w", err)
	}
	netns, err := ownNetns()
	if err != nil {
		return nil, err
	}
	spec.Maps[bpf.DeviceMapFlows].MaxEntries = uint32(opts.MaxConnections)
	spec.Maps[bpf.DeviceMapSightings].MaxEntries = uint32(opts.RingBytes)
	if err := setAll(spec, map[string]any{
		bpf.DeviceVarFilterPorts:    len(opts.Ports) > 0,
		bpf.DeviceVarPorts:          portBits(opts.Ports),
		bpf.DeviceVarRingWakeupFill: uint64(wakeupFill(opts.RingBytes)),
		bpf.DeviceVarWatchedNetns:   netns,
	}); err != nil {
		return nil, err
	}
	supported, err := removeUnsupported(spec, devicePoints, opts.Log)
	if err != nil {
		return nil, err
	}
	_ = rlimit.RemoveMemlock() // see loadKernelSide
	d := &Device{
		log: opts.Log, opts: opts, mode: opts.Mode, dequeues: supported > 0,
		attached: map[int]attachment{}, watched: map[int]uint64{}, out: make(chan observe.Sighting, 256),
	}
	if d.objects, err = ebpf.NewCollection(spec); err != nil {
		return nil, loadError("device", err)
	}
	d.queues = watchedBy(d.objects)
	if err := d.start(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Device) start() (err error) {
	if err := trust(d.objects.Maps[bpf.DeviceMapTrustedPrefixes], d.opts.TrustedPrefixes); err != nil {
		return err
	}
	if d.reader, err = openRing(d.objects.Maps[bpf.DeviceMapSightings]); err != nil {
		return err
	}
	if d.walks, err = attachWalk(d.objects.Programs[bpf.DeviceProgDeviceWalk], d.objects.Maps[bpf.DeviceMapFlows]); err != nil {
		return err
	}
	return d.links.trace(d.objects, devicePoints)
}

// Sightings returns what passed. It is closed when Run returns.
func (d *Device) Sightings() <-chan observe.Sighting { return d.out }

// Attach attaches the programs to the interface with this index in the network namespace of
// the process. Attaching twice has no effect.
func (d *Device) Attach(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.attached[ifindex]; ok {
		return nil
	}
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("find interface %d: %w", ifindex, err)
	}
	a, err := d.attach(ifindex, hasEthernet(nic), isLoopback(nic))
	if err != nil {
		return fmt.Errorf("attach device programs to %s: %w", nic.Attrs().Name, err)
	}
	d.attached[ifindex], d.watched[ifindex] = a, now()
	if err := d.queues.set(ifindex, true); err != nil {
		d.log.Warn("transmit times of this interface's driver will be unknown", "interface", nic.Attrs().Name, "error", err)
	}
	return nil
}

func (d *Device) attach(ifindex int, ethernet, loopback bool) (attachment, error) {
	in, out := d.mode.programs(bpf.DeviceProgDeviceIn, bpf.DeviceProgDeviceOut, bpf.DeviceProgDeviceSock, ethernet)
	return d.mode.attach(ifindex, d.objects.Programs[in], d.objects.Programs[out], loopback, captureFilter, d.log)
}

// Detach detaches the programs from an interface, which may be gone already.
func (d *Device) Detach(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.attached[ifindex]
	if !ok {
		return fmt.Errorf("interface %d: %w", ifindex, errNotAttached)
	}
	delete(d.attached, ifindex)
	delete(d.watched, ifindex)
	if err := errors.Join(a.Close(), d.queues.set(ifindex, false)); err != nil {
		return fmt.Errorf("detach device programs from interface %d: %w", ifindex, err)
	}
	return nil
}

// Run reads and sweeps until ctx is done, then flushes what is open and closes Sightings.
func (d *Device) Run(ctx context.Context) error {
	defer close(d.out)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	ended := make(chan struct{})
	group.Go(func() error { defer close(ended); return d.read(reading) })
	group.Go(func() error {
		defer stop()
		return d.sweepUntil(ctx, ended)
	})
	return group.Wait()
}

// read forwards records until ctx is done and the ring is empty.
func (d *Device) read(ctx context.Context) error {
	return d.reader.read(ctx, d.opts.ReadInterval, func(raw []byte) {
		d.received.Add(1)
		s, err := decodeSighting(raw, d.dequeues)
		if err != nil {
			d.unreadable.Add(1)
			d.log.Error("cannot decode record", "error", err)
			return
		}
		// The programs cannot distinguish the packets of a message with copies, or out of order.
		inOrder := s.Retransmits == 0 && s.Flags&observe.SightingOutOfOrder == 0
		if d.dequeues && s.Direction == observe.DirectionEgress && s.Tx == (observe.Extent{}) && inOrder {
			d.txMissing.Add(1)
		}
		s.Watched = d.watchedFor(s.Interface, s.First)
		if d.stopping.Load() {
			s.Flags |= observe.SightingBothWays // the other direction might still have come
		}
		d.out <- s
	}, func() {})
}

// watchedFor returns for how long an interface had been watched at a time, 0 for long.
func (d *Device) watchedFor(ifindex int, at uint64) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	since, ok := d.watched[ifindex]
	if !ok || at > since && at-since > observe.MaxWatched {
		return 0
	}
	return max(at, since+1) - since
}

// now returns CLOCK_MONOTONIC in ns.
func now() uint64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0 // watched for long: it cannot fail
	}
	return uint64(ts.Nano())
}

// decodeSighting decodes a record of the ring buffer. dequeues: packets that leave the
// qdiscs of interfaces are seen.
func decodeSighting(raw []byte, dequeues bool) (observe.Sighting, error) {
	const size = int(unsafe.Sizeof(bpf.DeviceSightingRecord{}))
	if len(raw) < size {
		return observe.Sighting{}, fmt.Errorf("record of %d bytes, want %d", len(raw), size)
	}
	var r bpf.DeviceSightingRecord
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), size), raw)
	if n := int(r.ConnectionIdLen); n == 0 || n > len(r.ConnectionId) {
		return observe.Sighting{}, fmt.Errorf("record with a connection ID of %d bytes", n)
	}
	const kept = bpf.DeviceSightingFlagSIGHTING_BYPASS - 1
	s := observe.Sighting{
		Interface: int(r.Ifindex), Direction: observe.Direction(r.Direction),
		Source: endpointOfWords(r.Src, r.Sport), Destination: endpointOfWords(r.Dst, r.Dport),
		ConnectionID: append([]byte(nil), r.ConnectionId[:r.ConnectionIdLen]...),
		OptionTime:   r.OptionTime, Start: r.Start, End: r.End,
		First: r.First, Last: r.Last, Packets: r.Packets, Retransmits: r.Retransmits,
		Flags: observe.SightingFlags(r.Flags & kept), TTL: r.Ttl,
	}
	if dequeues && s.Direction == observe.DirectionEgress && !mayHaveDropped(&r) {
		s.Tx = transmitted(&observe.Message{First: r.First, Last: r.Last, Tx: observe.Extent{First: r.TxFirst, Last: r.TxLast}}, dequeued{
			bypass: r.Flags&bpf.DeviceSightingFlagSIGHTING_BYPASS != 0,
			whole:  r.Flags&bpf.DeviceSightingFlagSIGHTING_TX_WHOLE != 0,
		})
	}
	return s, nil
}

// mayHaveDropped reports whether the queue of the interface may have dropped some of the
// message, so that it left later, with a copy: if some bytes were not seen to leave, or, where
// packets may bypass the queue unseen, if there were copies. What then arrived late is the
// doing of the queue or of what comes after it.
func mayHaveDropped(r *bpf.DeviceSightingRecord) bool {
	const disorder = bpf.DeviceSightingFlagSIGHTING_OUT_OF_ORDER
	unseen := r.Flags&bpf.DeviceSightingFlagSIGHTING_BYPASS != 0 || r.TxLast == 0
	return r.Flags&bpf.DeviceSightingFlagSIGHTING_TX_SKIPPED != 0 || unseen && (r.Retransmits > 0 || r.Flags&disorder != 0)
}

func endpointOfWords(words [2]uint64, port uint16) netip.AddrPort {
	var addr [16]byte
	binary.NativeEndian.PutUint64(addr[:8], words[0])
	binary.NativeEndian.PutUint64(addr[8:], words[1])
	return endpoint(addr, port)
}

// sweepUntil emits what is idle at intervals, and all at the end. Then it forgets no flow: a
// slice that ends where one was forgotten would skip another.
func (d *Device) sweepUntil(ctx context.Context, reading <-chan struct{}) error {
	return sweepUntil(ctx, d.opts.IdleTimeout/2, reading, func(last bool) (bool, error) {
		idle, forget := d.opts.IdleTimeout, maxForgetIdle
		if last {
			d.stopping.Store(true)
			idle, forget = 0, math.MaxInt64
		}
		result, err := d.sweep(idle, forget)
		return result.Deferred > 0, err
	})
}

// sweep emits messages of flows that were idle for longer.
func (d *Device) sweep(idle, forget time.Duration) (result bpf.DeviceDeviceSweep, err error) {
	result = bpf.DeviceDeviceSweep{Now: now(), Idle: uint64(idle), Forget: uint64(forget)}
	sweeping := d.objects.Variables[bpf.DeviceVarDeviceSweeping]
	if err := sweeping.Set(result); err != nil {
		return result, fmt.Errorf("sweep idle messages: %w", err)
	}
	if err := walk(d.walks, d.opts.sweepSlice); err != nil {
		return result, fmt.Errorf("sweep idle messages: %w", err)
	}
	if err := sweeping.Get(&result); err != nil {
		return result, fmt.Errorf("count idle messages: %w", err)
	}
	return result, nil
}

// Close detaches all programs and unloads them. Run must have returned or never been
// called.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for ifindex, a := range d.attached {
		if err := a.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach from interface %d: %w", ifindex, err))
		}
		delete(d.attached, ifindex)
	}
	errs = append(errs, d.links.Close())
	if d.walks != nil {
		errs = append(errs, d.walks.Close())
	}
	if d.reader != nil {
		errs = append(errs, d.reader.Close())
	}
	d.objects.Close()
	return errors.Join(errs...)
}

// deviceCounters has a metric for each counter of the device's programs.
var deviceCounters = [...]metric{
	bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_READ:        newMetric("layertrace_device_options_read_total", "Layertrace TCP options read."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_UNTRUSTED:   newMetric("layertrace_device_options_untrusted_total", "Layertrace TCP options ignored because their source is not in a trusted prefix."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_OPTION_CONFLICTING: newMetric("layertrace_device_options_conflicting_total", "Layertrace TCP options ignored because their connection has another ID: they are forged, or of another experiment."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_EMITTED:            newMetric("layertrace_sightings_emitted_total", "Messages written to the ring buffer."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_UNMARKED:           newMetric("layertrace_sightings_unmarked_total", "Messages of connections with an ID whose first segment had no option: there was no room, it was sent again, or the sender writes none."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_INCOMPLETE:         newMetric("layertrace_sightings_incomplete_total", "Messages of which some bytes did not pass the interface: their times do not count."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_RETRANSMITTED:      newMetric("layertrace_device_segments_retransmitted_total", "Segments of connections with an ID seen again."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_OUT_OF_ORDER:       newMetric("layertrace_device_segments_out_of_order_total", "Segments of connections with an ID seen out of order."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_LATE:               newMetric("layertrace_device_segments_late_total", "Segments of messages already emitted."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_RING_FULL:          newMetric("layertrace_sightings_ring_full_total", "Messages lost because the ring buffer was full (raise ring-bytes)."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_MAP_FULL:           newMetric("layertrace_device_map_full_total", "Segments of connections that could not be followed because the table was full (raise max-connections)."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_FRAGMENT:           newMetric("layertrace_device_packets_fragmented_total", "IP fragments, which are skipped."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_TRUNCATED:          newMetric("layertrace_device_packets_truncated_total", "TCP packets shorter than their headers say."),
	bpf.DeviceDeviceCounterDEVICE_COUNTER_SCRATCH_BUSY:       newMetric("layertrace_device_options_skipped_total", "Options not read because the working memory of their CPU was in use."),
}

// Counters of the reader.
var (
	sightingsReceived   = newMetric("layertrace_sightings_received_total", "Messages read from the ring buffer.")
	sightingsUnreadable = newMetric("layertrace_sightings_unreadable_total", "Records that could not be decoded.")
	sightingsTxMissing  = newMetric("layertrace_sightings_tx_missing_total", "Messages whose first or last byte was not seen in the qdisc that they passed: the time in it counts as that of the link.")
)

// DeviceMetrics collects every counter of a Device, each with value 0.
type DeviceMetrics struct{}

// Describe sends the descriptions of all counters.
func (DeviceMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range deviceCounters {
		out <- m.desc
	}
	for _, m := range []metric{sightingsReceived, sightingsUnreadable, sightingsTxMissing} {
		out <- m.desc
	}
}

// Collect sends the counters.
func (DeviceMetrics) Collect(out chan<- prometheus.Metric) {
	for _, m := range deviceCounters {
		out <- value{m, 0}.sample()
	}
	for _, m := range []metric{sightingsReceived, sightingsUnreadable, sightingsTxMissing} {
		out <- value{m, 0}.sample()
	}
}

// Describe sends the descriptions of all counters.
func (*Device) Describe(out chan<- *prometheus.Desc) { DeviceMetrics{}.Describe(out) }

// Collect sends the counters. An error makes the scrape report this collector as failed.
func (d *Device) Collect(out chan<- prometheus.Metric) {
	values, err := readCounters(d.objects.Maps[bpf.DeviceMapDeviceCounters], deviceCounters[:])
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	values = append(values,
		value{sightingsReceived, d.received.Load()},
		value{sightingsUnreadable, d.unreadable.Load()},
		value{sightingsTxMissing, d.txMissing.Load()})
	for _, v := range values {
		out <- v.sample()
	}
}
