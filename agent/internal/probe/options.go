// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

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

// OptionLayout is the form of the TCP options that are written.
type OptionLayout string

// Layouts: docs/tcp-options.md.
const (
	OptionOff     OptionLayout = "off"
	OptionCompact OptionLayout = "compact"
	OptionPaper   OptionLayout = "paper"
)

// Options of a Probe. The zero value of a field means its default.
type Options struct {
	// Mode, default auto.
	Mode Mode
	// Ports are the TCP ports (of either end) to look at; none: all.
	Ports []uint16
	// PrefixWindow is how much of a request's first segment is searched,
	// 64 to 4,096 bytes, default 1,024.
	PrefixWindow int
	// Deep goes on over later segments, DeepWindow bytes (default 65,536) in all.
	Deep       bool
	DeepWindow int
	// ContextHeaders are further header names.
	ContextHeaders []tracecontext.ContextHeader
	// MaxConnections that are known at a time, default 65,536.
	MaxConnections int
	// RingBytes is the size of the ring buffer, a power of two of at least
	// 4,096, default 4 MiB.
	RingBytes int
	// ReadInterval is how long a record waits in the ring buffer at most, unless a
	// quarter of it is full; default 1 s.
	ReadInterval time.Duration
	// IdleTimeout after which an exchange with a response is taken to be over,
	// default 2 s; RequestTimeout for one without, default 60 s.
	IdleTimeout, RequestTimeout time.Duration
	// TrustedPrefixes are the sources whose TCP options are believed; none:
	// the private and local ranges.
	TrustedPrefixes []netip.Prefix
	// TCPOption, default off; written for sockets in the cgroups, towards the
	// ports (none: all).
	TCPOption        OptionLayout
	TCPOptionCgroups []string
	TCPOptionPorts   []uint16
	// Sockets captures also at the sockets of the processes in SocketCgroups,
	// directories of the cgroup2 mount.
	Sockets       bool
	SocketCgroups []string
	// Drivers tells also when the drivers of the interfaces transmit, and what
	// is dropped there.
	Drivers bool
	// Log, default slog.Default.
	Log *slog.Logger
}

const (
	windowMin       = 64
	windowMax       = 4096
	deepWindowMax   = 1 << 24
	defaultIdle     = 2 * time.Second
	defaultRequest  = 60 * time.Second
	defaultMaxConns = 65536
	defaultRing     = 4 << 20
	defaultRead     = time.Second
)

// privatePrefixes: RFC 1918, RFC 6598, RFC 3927, RFC 4193, loopback.
var privatePrefixes = []string{
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
	"127.0.0.0/8", "169.254.0.0/16", "fc00::/7", "fe80::/10", "::1/128",
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (o *Options) complete() error {
	orDefault(&o.Mode, ModeAuto)
	orDefault(&o.PrefixWindow, 1024)
	orDefault(&o.DeepWindow, 65536)
	orDefault(&o.MaxConnections, defaultMaxConns)
	orDefault(&o.RingBytes, defaultRing)
	orDefault(&o.ReadInterval, defaultRead)
	orDefault(&o.IdleTimeout, defaultIdle)
	orDefault(&o.RequestTimeout, defaultRequest)
	orDefault(&o.TCPOption, OptionOff)
	orDefault(&o.Log, slog.Default())
	if len(o.TrustedPrefixes) == 0 {
		for _, p := range privatePrefixes {
			o.TrustedPrefixes = append(o.TrustedPrefixes, netip.MustParsePrefix(p))
		}
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
			return fmt.Errorf("TCP option %q needs at least one cgroup whose sockets write it", o.TCPOption)
		}
	default:
		return fmt.Errorf("unknown TCP option layout %q: use off, compact or paper", o.TCPOption)
	}
	if o.Sockets && len(o.SocketCgroups) == 0 {
		return errors.New("capture at sockets needs at least one cgroup whose sockets are meant")
	}
	if o.PrefixWindow < windowMin || o.PrefixWindow > windowMax {
		return fmt.Errorf("prefix window of %d bytes: use %d to %d, or deep for more", o.PrefixWindow, windowMin, windowMax)
	}
	if o.DeepWindow < o.PrefixWindow || o.DeepWindow > deepWindowMax {
		return fmt.Errorf("deep window of %d bytes: use the prefix window (%d) to %d", o.DeepWindow, o.PrefixWindow, deepWindowMax)
	}
	if o.RingBytes < 4096 || o.RingBytes&(o.RingBytes-1) != 0 {
		return fmt.Errorf("ring of %d bytes: use a power of two of at least 4096", o.RingBytes)
	}
	return tracecontext.ValidateContextHeaders(o.ContextHeaders)
}
