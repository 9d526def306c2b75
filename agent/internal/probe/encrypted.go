// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// Numbers of turns: the default of EncryptedOptions.Turns, which takes 13.5 MiB, and the least
// and the most that a ring should have.
const (
	DefaultTurns = 65536
	MinTurns     = 1024
	MaxTurns     = 1 << 24
)

// EncryptedOptions are the options of an Encrypted. The zero value of a field means its
// default.
type EncryptedOptions struct {
	// Mode, default ModeAuto.
	Mode Mode
	// Ports are the TCP ports (of either end) of connections to follow at interfaces;
	// none: all.
	Ports []uint16
	// MaxConnections is the maximum number of connections followed, counted once for each
	// capture point. Default DefaultMaxConnections.
	MaxConnections int
	// Turns is the number of finished turns that are kept, of all capture points, rounded up
	// to a power of two.
	Turns int
	// SocketCgroups, Cluster and Drivers are those of Options.
	SocketCgroups []string
	Cluster       bool
	Drivers       bool
	// Log, default slog.Default.
	Log *slog.Logger
}

// Encrypted follows encrypted connections (bpf/encrypted.bpf.c), and is the
// prometheus.Collector of its counters. Its methods may be called concurrently.
type Encrypted struct {
	log     *slog.Logger
	max     int
	objects *ebpf.Collection
	// Programs at interfaces are loaded on first use.
	spec     *ebpf.CollectionSpec
	programs map[string]*ebpf.Program
	links    attachments // to cgroups and tracepoints, and the walks
	turns    []byte      // the ring of finished turns, mapped
	// Owned by the goroutine that sweeps: over the tables of encryptedWalks.
	walks      []*link.Iter
	sweepSlice int // tests have a smaller one
	// Packets that leave the qdiscs of interfaces are seen.
	dequeues bool

	mu       sync.Mutex
	mode     Mode
	attached map[int]attachment
	watched  watchedInterfaces

	overwritten, unstable, tooMany atomic.Uint64
}

// Tracepoints of the programs for encrypted connections. One of the write points is used.
var (
	encryptedWritePoints = []tracepoint{
		{bpf.EncryptedProgEncryptedWrite, "tcp_sendmsg_locked", 2, writesUnknown},
		{bpf.EncryptedProgEncryptedWrote, "sock_send_length", 2, writesUnknown},
	}
	encryptedReadPoint    = tracepoint{bpf.EncryptedProgEncryptedRead, "tcp_rcv_space_adjust", 1, "read times of processes are unknown: time in a receiver's queue counts as the application's"}
	encryptedDropPoint    = tracepoint{bpf.EncryptedProgEncryptedDrop, "kfree_skb", 3, "drops of encrypted packets are unknown"}
	encryptedDequeuePoint = tracepoint{bpf.EncryptedProgEncryptedDequeue, "qdisc_dequeue", 4, "driver transmit times of encrypted messages are unknown: node driver time counts as relay network"}
)

// selectPoints removes the programs at tracepoints that are not wanted, or that this kernel
// lacks, and returns the tracepoints of the others.
func (o *EncryptedOptions) selectPoints(spec *ebpf.CollectionSpec, sockets bool, log *slog.Logger) (points []tracepoint, err error) {
	if sockets {
		write, _ := firstSupported(encryptedWritePoints) // removeUnsupported handles the error
		points = append(points, write, encryptedReadPoint)
	}
	if o.Drivers {
		points = append(points, encryptedDequeuePoint)
	}
	if sockets || o.Drivers {
		points = append(points, encryptedDropPoint)
	}
	for _, p := range append(slices.Clone(encryptedWritePoints), encryptedReadPoint, encryptedDequeuePoint, encryptedDropPoint) {
		if !slices.Contains(points, p) {
			delete(spec.Programs, p.program)
		}
	}
	_, err = removeUnsupported(spec, points, log)
	return points, err
}

// OpenEncrypted loads the programs, and attaches those at sockets and tracepoints.
func OpenEncrypted(opts EncryptedOptions) (*Encrypted, error) {
	common := Options{Mode: opts.Mode, MaxConnections: opts.MaxConnections, SocketCgroups: opts.SocketCgroups, Cluster: opts.Cluster, Log: opts.Log}
	if err := common.complete(); err != nil {
		return nil, err
	}
	common.resolveSocketCgroups(cgroupMounts)
	orDefault(&opts.Turns, DefaultTurns)
	if opts.Turns < 0 || opts.Turns > MaxTurns {
		return nil, fmt.Errorf("ring of %d turns: use 1 to %d", opts.Turns, MaxTurns)
	}
	size := 1 << bits.Len(uint(opts.Turns-1))
	spec, err := bpf.LoadEncrypted()
	if err != nil {
		return nil, fmt.Errorf("read programs for encrypted connections: %w", err)
	}
	spec.Maps[bpf.EncryptedMapTurns].MaxEntries = uint32(size)
	spec.Maps[bpf.EncryptedMapConnections].MaxEntries = uint32(common.MaxConnections)
	spec.Maps[bpf.EncryptedMapPointsOfEnds].MaxEntries = uint32(common.MaxConnections)
	netns, err := ownNetns()
	if err != nil {
		return nil, err
	}
	if err := setAll(spec, map[string]any{
		bpf.EncryptedVarFilterPorts:  len(opts.Ports) > 0,
		bpf.EncryptedVarPorts:        portBits(opts.Ports),
		bpf.EncryptedVarTurnsSize:    uint64(size),
		bpf.EncryptedVarWatchedNetns: netns,
	}); err != nil {
		return nil, err
	}
	points, err := opts.selectPoints(spec, len(common.SocketCgroups) > 0, common.Log)
	if err != nil {
		return nil, err
	}
	writes := spec.Programs[bpf.EncryptedProgEncryptedWrite] != nil || spec.Programs[bpf.EncryptedProgEncryptedWrote] != nil
	receiver := haveTracepoint("kfree_skb", dropReceiver)
	if receiver != nil && !errors.Is(receiver, ebpf.ErrNotSupported) {
		return nil, receiver
	}
	if err := setAll(spec, map[string]any{bpf.EncryptedVarHaveWrites: writes, bpf.EncryptedVarHaveRxSk: receiver == nil}); err != nil {
		return nil, err
	}
	_ = rlimit.RemoveMemlock() // see loadKernelSide
	e := &Encrypted{log: common.Log, max: common.MaxConnections, sweepSlice: common.sweepSlice, mode: common.Mode, attached: map[int]attachment{}, spec: spec, programs: map[string]*ebpf.Program{}}
	first := spec.Copy()
	for name, p := range first.Programs {
		if p.Type == ebpf.SchedCLS || p.Type == ebpf.SocketFilter || p.Type == ebpf.CGroupSKB && len(common.SocketCgroups) == 0 {
			delete(first.Programs, name)
		}
	}
	if e.objects, err = ebpf.NewCollection(first); err != nil {
		return nil, loadError("encrypted", err)
	}
	e.watched = watchedBy(e.objects)
	ring := e.objects.Maps[bpf.EncryptedMapTurns]
	if e.turns, err = unix.Mmap(ring.FD(), 0, size*turnSize, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the ring of %d turns: %w", size, err), e.Close())
	}
	e.dequeues = e.objects.Programs[bpf.EncryptedProgEncryptedDequeue] != nil
	if err := e.links.trace(e.objects, points); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if err := e.attachWalks(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if err := e.attachSockets(common.SocketCgroups); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// program returns a program for interfaces, loading it on first use. All share their maps,
// the variables too.
func (e *Encrypted) program(name string) (*ebpf.Program, error) {
	if p, ok := e.programs[name]; ok {
		return p, nil
	}
	spec := e.spec.Copy()
	for other := range spec.Programs {
		if other != name {
			delete(spec.Programs, other)
		}
	}
	one, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: e.objects.Maps})
	if err != nil {
		return nil, loadError("encrypted", err)
	}
	defer one.Close()
	e.programs[name] = one.DetachProgram(name)
	return e.programs[name], nil
}

func (e *Encrypted) attachSockets(cgroups []string) error {
	for _, path := range cgroups {
		for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
			l, err := link.AttachCgroup(link.CgroupOptions{
				Path: path, Attach: hook, Program: e.objects.Programs[bpf.EncryptedProgEncryptedSocket],
			})
			if err != nil {
				return fmt.Errorf("follow encrypted connections at the sockets of cgroup %s (is it a directory of the cgroup2 mount?): %w", path, err)
			}
			e.links = append(e.links, l)
		}
	}
	return nil
}

// Attach attaches the programs to the interface with this index in the network namespace of
// the process. Attaching twice has no effect.
func (e *Encrypted) Attach(ifindex int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.attached[ifindex]; ok {
		return nil
	}
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("find interface %d: %w", ifindex, err)
	}
	forIn, forOut := e.mode.programs(bpf.EncryptedProgEncryptedIn, bpf.EncryptedProgEncryptedOut, bpf.EncryptedProgEncryptedSock, hasEthernet(nic))
	in, err := e.program(forIn)
	if err != nil {
		return err
	}
	out, err := e.program(forOut)
	if err != nil {
		return err
	}
	a, err := e.mode.attach(ifindex, in, out, isLoopback(nic), encryptedFilter, e.log)
	if err != nil {
		return fmt.Errorf("attach programs for encrypted connections to %s: %w", nic.Attrs().Name, err)
	}
	e.attached[ifindex] = a
	if err := e.watched.set(ifindex, true); err != nil {
		e.log.Warn("transmit times of this interface's driver will be unknown", "interface", nic.Attrs().Name, "error", err)
	}
	return nil
}

// Detach detaches the programs from an interface, which may be gone already.
func (e *Encrypted) Detach(ifindex int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	a, ok := e.attached[ifindex]
	if !ok {
		return fmt.Errorf("interface %d: %w", ifindex, errNotAttached)
	}
	delete(e.attached, ifindex)
	if err := errors.Join(a.Close(), e.watched.set(ifindex, false)); err != nil {
		return fmt.Errorf("detach programs for encrypted connections from interface %d: %w", ifindex, err)
	}
	return nil
}

// Times after which a connection is forgotten: after its end, when the proxy's record of its
// last exchange must have come; without a segment; and without one while the table is more
// than half full.
const (
	forgetEnded     = 10 * time.Second
	forgetQuiet     = time.Hour
	forgetQuietFull = time.Minute
)

// Run forgets connections that have ended until ctx is done.
func (e *Encrypted) Run(ctx context.Context) error {
	tick := time.NewTicker(forgetEnded / 4)
	defer tick.Stop()
	quiet := forgetQuiet
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			left, err := e.sweep(forgetEnded, quiet)
			if err != nil {
				return err
			}
			quiet = forgetQuiet
			if left > uint64(e.max/2) {
				quiet = forgetQuietFull
			}
		}
	}
}

// encryptedWalks are those of a sweep, in this order: the points that see a connection are
// forgotten after it.
var encryptedWalks = []struct{ program, table string }{
	{bpf.EncryptedProgEncryptedWalk, bpf.EncryptedMapConnections},
	{bpf.EncryptedProgEncryptedWalkDisorders, bpf.EncryptedMapDisorders},
	{bpf.EncryptedProgEncryptedWalkPoints, bpf.EncryptedMapPointsOfEnds},
}

// attachWalks takes the programs of the sweep out of the collection, whose run time counts: they
// run in the agent's own time.
func (e *Encrypted) attachWalks() error {
	for _, w := range encryptedWalks {
		program := e.objects.DetachProgram(w.program)
		e.links = append(e.links, program)
		walks, err := attachWalk(program, e.objects.Maps[w.table])
		if err != nil {
			return err
		}
		e.walks, e.links = append(e.walks, walks), append(e.links, walks)
	}
	return nil
}

// sweep forgets connections that ended, or were idle, for longer. It returns the number of
// those that are left.
func (e *Encrypted) sweep(ended, idle time.Duration) (left uint64, err error) {
	s := bpf.EncryptedEncryptedSweep{Now: now(), Ended: uint64(ended), Idle: uint64(idle)}
	sweeping := e.objects.Variables[bpf.EncryptedVarEncryptedSweeping]
	if err := sweeping.Set(s); err != nil {
		return 0, fmt.Errorf("forget encrypted connections: %w", err)
	}
	for _, walks := range e.walks {
		if err := walk(walks, e.sweepSlice); err != nil {
			return 0, fmt.Errorf("forget encrypted connections: %w", err)
		}
	}
	if err := sweeping.Get(&s); err != nil {
		return 0, fmt.Errorf("count encrypted connections: %w", err)
	}
	return s.Left, nil
}

// Close detaches all programs and unloads them. No other method may run.
func (e *Encrypted) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var errs []error
	for ifindex, a := range e.attached {
		if err := a.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach from interface %d: %w", ifindex, err))
		}
		delete(e.attached, ifindex)
	}
	errs = append(errs, e.links.Close())
	if e.turns != nil {
		errs = append(errs, unix.Munmap(e.turns))
		e.turns = nil
	}
	for _, p := range e.programs {
		errs = append(errs, p.Close())
	}
	e.objects.Close()
	return errors.Join(errs...)
}

// encryptedCounters has a metric for each counter of the programs.
var encryptedCounters = [...]metric{
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_FOLLOWED:       newMetric("layertrace_encrypted_connections_followed_total", "Encrypted connections followed, once for each capture point."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_FROM_MIDDLE:    newMetric("layertrace_encrypted_connections_from_middle_total", "Encrypted connections whose handshake was not seen: their first turn is not complete."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_ABANDONED:      newMetric("layertrace_encrypted_connections_abandoned_total", "Connections not followed any more because what passed was not TLS, or its records could not be found again."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_TURNS:          newMetric("layertrace_encrypted_turns_total", "Turns of encrypted connections written to the ring."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_UNCONFIRMED:    newMetric("layertrace_encrypted_turns_unconfirmed_total", "Turns not kept because the connection is not known to be encrypted."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_RECORDS_BEYOND: newMetric("layertrace_encrypted_records_beyond_total", "Segments with more records than are read: the sizes of the turn are unknown."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_DESYNCHRONIZED: newMetric("layertrace_encrypted_desynchronized_total", "Streams whose next record header was missed: the sizes of the turn are unknown."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_RESYNCHRONIZED: newMetric("layertrace_encrypted_resynchronized_total", "Streams whose record headers were found again."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_RETRANSMITTED:  newMetric("layertrace_encrypted_segments_retransmitted_total", "Segments of encrypted connections seen again."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_OUT_OF_ORDER:   newMetric("layertrace_encrypted_segments_out_of_order_total", "Segments of encrypted connections seen out of order."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_HOLES:          newMetric("layertrace_encrypted_holes_total", "Segments of encrypted connections before which bytes had not passed."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_WAITED:         newMetric("layertrace_encrypted_headers_awaited_total", "Streams whose next record header was in a lost or late segment."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_CONTENDED:      newMetric("layertrace_encrypted_segments_contended_total", "Segments not read because another CPU was reading one of the same connection."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_MAP_FULL:       newMetric("layertrace_encrypted_map_full_total", "Encrypted connections not followed because the table was full (raise mtls-connections)."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_POINTS_FULL:    newMetric("layertrace_encrypted_points_full_total", "Capture points that see an encrypted connection, beyond those that are remembered for it."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_FRAGMENT:       newMetric("layertrace_encrypted_packets_fragmented_total", "IP fragments, which are skipped."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_TRUNCATED:      newMetric("layertrace_encrypted_packets_truncated_total", "TCP packets shorter than their headers say."),
	bpf.EncryptedEncryptedCounterENCRYPTED_COUNTER_DROPPED:        newMetric("layertrace_encrypted_packets_dropped_total", "Packets of encrypted connections that the kernel dropped."),
}

// Counters of the reader.
var (
	turnsOverwritten = newMetric("layertrace_encrypted_turns_overwritten_total", "Reads of a connection's turns that ended at one that the ring had overwritten: it is too small for the requests of the node (raise mtls-turns).")
	turnsUnstable    = newMetric("layertrace_encrypted_reads_unstable_total", "Reads of a connection given up because it changed all the time.")
	turnsTooMany     = newMetric("layertrace_encrypted_reads_cut_total", "Reads of a connection's turns cut because there were too many.")
)

// EncryptedMetrics collects every counter of an Encrypted, each with value 0.
type EncryptedMetrics struct{}

func encryptedMetrics() []metric {
	return append(slices.Clone(encryptedCounters[:]), turnsOverwritten, turnsUnstable, turnsTooMany)
}

// Describe sends the descriptions of all counters.
func (EncryptedMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range encryptedMetrics() {
		out <- m.desc
	}
}

// Collect sends the counters.
func (EncryptedMetrics) Collect(out chan<- prometheus.Metric) {
	for _, m := range encryptedMetrics() {
		out <- value{m, 0}.sample()
	}
}

// Describe sends the descriptions of all counters.
func (*Encrypted) Describe(out chan<- *prometheus.Desc) { EncryptedMetrics{}.Describe(out) }

// Collect sends the counters. An error makes the scrape report this collector as failed.
func (e *Encrypted) Collect(out chan<- prometheus.Metric) {
	values, err := readCounters(e.objects.Maps[bpf.EncryptedMapEncryptedCounters], encryptedCounters[:])
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	values = append(values,
		value{turnsOverwritten, e.overwritten.Load()},
		value{turnsUnstable, e.unstable.Load()},
		value{turnsTooMany, e.tooMany.Load()})
	for _, v := range values {
		out <- v.sample()
	}
}
