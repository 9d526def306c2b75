// SPDX-License-Identifier: Apache-2.0

// Package probe is the kernel side of the agent: it loads the BPF programs,
// attaches them to interfaces and cgroups, and returns one observation per
// request and capture point.
package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Mode is the kernel hook that sees the packets of an interface.
type Mode string

// Modes. Auto is TCX where the kernel has it (6.6), else clsact.
const (
	ModeAuto         Mode = "auto"
	ModeTCX          Mode = "tcx"
	ModeClsact       Mode = "clsact"
	ModeSocketFilter Mode = "socket-filter"
)

// DeepMode is whether requests are searched for a trace context beyond the prefix window:
// in the rest of their first segment, and in later ones.
type DeepMode string

// Deep modes. Auto searches a request there if its window has no context, within
// Options.DeepBudget; on searches every request and has no budget.
const (
	DeepAuto DeepMode = "auto"
	DeepOn   DeepMode = "true"
	DeepOff  DeepMode = "false"
)

// OptionLayout is the layout of the TCP options that are written.
type OptionLayout string

// Layouts: docs/tcp-options.md.
const (
	OptionOff     OptionLayout = "off"
	OptionCompact OptionLayout = "compact"
	OptionPaper   OptionLayout = "paper"
)

// Defaults of Options, which are those of the agent's flags too.
const (
	DefaultMaxConnections = 65536
	DefaultRingBytes      = 4 << 20
	DefaultReadInterval   = time.Second
	DefaultIdleTimeout    = 2 * time.Second
	DefaultRequestTimeout = 15 * time.Minute
	DefaultOpenSpanAfter  = 30 * time.Second
	DefaultDeepBudget     = int(bpf.CaptureWindowDEEP_BUDGET_DEFAULT)
)

// Limits of Options.
const (
	MinPrefixWindow = int(bpf.CaptureWindowWINDOW_MIN)
	MaxPrefixWindow = int(bpf.CaptureWindowWINDOW_MAX)
	MaxDeepWindow   = int(bpf.CaptureWindowDEEP_WINDOW_MAX)
	MinDeepBudget   = int(bpf.CaptureWindowDEEP_BUDGET_MIN)
	MaxDeepBudget   = int(bpf.CaptureWindowDEEP_BUDGET_MAX)
)

// Options of a Probe. The zero value of a field means its default.
type Options struct {
	// Mode, default ModeAuto.
	Mode Mode
	// Ports are the TCP ports (of either end) to capture; none: all.
	Ports []uint16
	// PrefixWindow is the number of bytes of a request's first segment that are
	// searched for a trace context.
	PrefixWindow int
	// Deep, default DeepAuto, continues the search beyond the prefix window, up to
	// DeepWindow bytes of the request in total.
	Deep       DeepMode
	DeepWindow int
	// DeepBudget is how many bytes DeepAuto searches beyond the prefix window at most, per
	// second and CPU.
	DeepBudget int
	// ContextHeaders are additional header names.
	ContextHeaders []tracecontext.ContextHeader
	// ContextFormats are the formats to read, the most preferred one first; none:
	// all, and the first sampled context on the wire is taken.
	ContextFormats []tracecontext.Format
	// AllRequests also captures requests without a sampled trace context: their
	// observations have IDs that the capture points of this machine make up alike, and
	// HasContext reports false.
	AllRequests bool
	// MaxConnections is the maximum number of tracked connections.
	MaxConnections int
	// RingBytes is the size of the ring buffer, a power of two of at least 4,096.
	RingBytes int
	// ReadInterval is the longest time that a record waits in the ring buffer,
	// unless maxWakeupFill bytes or a quarter of it are full.
	ReadInterval time.Duration
	// IdleTimeout is the time without a packet after which an exchange whose response
	// has ended is reported, RequestTimeout that for one that has not ended.
	IdleTimeout, RequestTimeout time.Duration
	// OpenSpanAfter is the age at which an exchange that goes on is reported with
	// observe.FlagStillOpen; negative: never.
	OpenSpanAfter time.Duration
	// HoldAfter is the age at which it is reported in the same way for the first time,
	// so that the receiver keeps its trace; 0: never.
	HoldAfter time.Duration
	// TrustedPrefixes are the sources whose TCP options are trusted; none: the
	// private and local ranges.
	TrustedPrefixes []netip.Prefix
	// TCPOption (default OptionOff) is written for sockets in TCPOptionCgroups on
	// connections to TCPOptionPorts (none: all).
	TCPOption        OptionLayout
	TCPOptionCgroups []string
	TCPOptionPorts   []uint16
	// SocketCgroups are directories of the cgroup2 mount: capture also at the
	// sockets of the processes in them. SocketCgroupAuto alone means the cgroups of
	// the node's pods, or without Cluster and pods all processes.
	SocketCgroups []string
	// Cluster: the machine is a node of a cluster, whose pods are to be captured.
	Cluster bool
	// Drivers also reports when the drivers of the interfaces transmit, and which
	// packets are dropped there.
	Drivers bool
	// Log, default slog.Default.
	Log *slog.Logger

	sweepSlice int // tests have a smaller one
}

// privatePrefixes: RFC 1918, RFC 6598, RFC 3927, RFC 4193, loopback.
var privatePrefixes = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::1/128"),
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (o *Options) complete() error {
	orDefault(&o.Mode, ModeAuto)
	orDefault(&o.PrefixWindow, tracecontext.DefaultPrefixWindow)
	orDefault(&o.Deep, DeepAuto)
	orDefault(&o.DeepWindow, tracecontext.DefaultDeepWindow)
	orDefault(&o.DeepBudget, DefaultDeepBudget)
	orDefault(&o.MaxConnections, DefaultMaxConnections)
	orDefault(&o.RingBytes, DefaultRingBytes)
	orDefault(&o.ReadInterval, DefaultReadInterval)
	orDefault(&o.IdleTimeout, DefaultIdleTimeout)
	orDefault(&o.RequestTimeout, DefaultRequestTimeout)
	orDefault(&o.OpenSpanAfter, DefaultOpenSpanAfter)
	orDefault(&o.TCPOption, OptionOff)
	orDefault(&o.Log, slog.Default())
	orDefault(&o.sweepSlice, sweepSlice)
	if len(o.TrustedPrefixes) == 0 {
		o.TrustedPrefixes = privatePrefixes
	}
	return o.validate()
}

func (o *Options) validate() error {
	switch o.Mode {
	case ModeAuto, ModeTCX, ModeClsact, ModeSocketFilter:
	default:
		return fmt.Errorf("unknown mode %q: use auto, tcx, clsact or socket-filter", o.Mode)
	}
	switch o.TCPOption {
	case OptionOff:
	case OptionCompact, OptionPaper:
		if len(o.TCPOptionCgroups) == 0 {
			return fmt.Errorf("TCP option %q: at least one cgroup is required", o.TCPOption)
		}
	default:
		return fmt.Errorf("unknown TCP option layout %q: use off, compact or paper", o.TCPOption)
	}
	if o.PrefixWindow < MinPrefixWindow || o.PrefixWindow > MaxPrefixWindow {
		return fmt.Errorf("prefix window of %d bytes: use %d to %d, or deep for more", o.PrefixWindow, MinPrefixWindow, MaxPrefixWindow)
	}
	if o.DeepWindow < o.PrefixWindow || o.DeepWindow > MaxDeepWindow {
		return fmt.Errorf("deep window of %d bytes: use the prefix window (%d) to %d", o.DeepWindow, o.PrefixWindow, MaxDeepWindow)
	}
	if _, known := deepModes[o.Deep]; !known {
		return fmt.Errorf("unknown deep mode %q: use auto, true or false", o.Deep)
	}
	if o.DeepBudget < MinDeepBudget || o.DeepBudget > MaxDeepBudget {
		return fmt.Errorf("deep budget of %d bytes per second: use %d to %d", o.DeepBudget, MinDeepBudget, MaxDeepBudget)
	}
	if o.RingBytes < 4096 || o.RingBytes&(o.RingBytes-1) != 0 {
		return fmt.Errorf("ring of %d bytes: use a power of two of at least 4096", o.RingBytes)
	}
	return errors.Join(tracecontext.ValidateContextHeaders(o.ContextHeaders), tracecontext.ValidatePreferences(o.ContextFormats))
}

// Probe is the kernel side of one agent, and the prometheus.Collector of its
// counters. Its methods may be called concurrently.
type Probe struct {
	log     *slog.Logger
	opts    Options
	kernel  *kernelSide
	options *optionWriter
	sockets *sockets // nil: no capture at sockets
	drivers *drivers // nil: drivers are not watched
	reader  *ring
	ring    sync.Mutex // guards the reader against Close
	closed  bool

	mu       sync.Mutex
	mode     Mode
	attached map[int]attachment
	ownOnly  ownOnly

	received, unreadable, txMissing atomic.Uint64

	// Owned by the goroutine that sweeps.
	swept    swept
	sweeping *sweeping  // nil: none goes on
	walks    *link.Iter // over the connections
}

// Open loads the programs and starts writing TCP options if configured. Capture
// starts with Attach, and Run returns what was captured.
func Open(opts Options) (*Probe, error) {
	p, err := open(opts)
	if err != nil {
		return nil, err
	}
	if _, _, err := p.programs(true); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// open is Open without the capture programs.
func open(opts Options) (*Probe, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	opts.resolveSocketCgroups(cgroupMounts)
	kernel, err := loadKernelSide(&opts)
	if err != nil {
		return nil, err
	}
	return openOn(kernel, opts)
}

// openOn is open on loaded programs and maps, which it closes on an error.
func openOn(kernel *kernelSide, opts Options) (_ *Probe, err error) {
	p := &Probe{
		log: opts.Log, opts: opts, kernel: kernel, mode: opts.Mode,
		attached: map[int]attachment{},
		ownOnly:  ownOnly{programs: kernel.OwnOnlyInterfaces, interfaces: map[int]bool{}},
	}
	if p.reader, err = openRing(kernel.Exchanges); err != nil {
		return nil, errors.Join(err, kernel.Close())
	}
	if p.walks, err = attachWalk(kernel.walk, kernel.Connections); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if opts.TCPOption != OptionOff {
		if p.options, err = openOptionWriter(&opts); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	if len(opts.SocketCgroups) > 0 {
		p.sockets, err = openSockets(&opts, kernel)
		if err := warnUnsupported(err, "no capture at sockets: layers come from interfaces only", opts.Log); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	if opts.Drivers {
		p.drivers, err = openDrivers(&opts, kernel)
		if err := warnUnsupported(err, "drivers are not watched: node driver time counts as relay network, drops are unknown", opts.Log); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// warnUnsupported logs an error of the kind ebpf.ErrNotSupported, which disables
// a part of the capture, and returns any other.
func warnUnsupported(err error, consequence string, log *slog.Logger) error {
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	log.Warn(consequence, "reason", err)
	return nil
}

// Run reads and sweeps until ctx is done, then flushes open exchanges. take gets the
// captured exchanges from one goroutine, some at a time. The slice is valid during the
// call only; the observations in it may be copied. A take that is slow lets the ring
// buffer fill up; the programs count the exchanges lost then.
func (p *Probe) Run(ctx context.Context, take func([]observe.Observation)) error {
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	ended := make(chan struct{})
	group.Go(func() error { defer close(ended); return p.read(reading, take) })
	group.Go(func() error {
		defer stop()
		return p.sweepUntil(ctx, ended)
	})
	return group.Wait()
}

// IsCrowded reports whether more than a quarter of the ring waits to be read.
func (p *Probe) IsCrowded() bool {
	p.ring.Lock()
	defer p.ring.Unlock()
	return !p.closed && p.reader.AvailableBytes() > p.reader.BufferSize()/4
}

// Close detaches all programs and unloads them. Run must have returned or never
// been called.
func (p *Probe) Close() error {
	p.ring.Lock()
	p.closed = true
	p.ring.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for ifindex, a := range p.attached {
		if err := a.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detach from interface %d: %w", ifindex, err))
		}
		delete(p.attached, ifindex)
	}
	if p.options != nil {
		errs = append(errs, p.options.Close())
	}
	if p.sockets != nil {
		errs = append(errs, p.sockets.Close())
	}
	if p.drivers != nil {
		errs = append(errs, p.drivers.Close())
	}
	if p.walks != nil {
		errs = append(errs, p.walks.Close())
	}
	return errors.Join(append(errs, p.reader.Close(), p.kernel.Close())...)
}
