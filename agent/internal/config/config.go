// SPDX-License-Identifier: Apache-2.0

// Package config reads the agent's settings from flags, LAYERTRACE_* environment
// variables and a YAML file. The names of all three derive from one flag set. A flag
// overrides the environment, which overrides the file.
package config

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/flaghelp"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Exporters, the values of --export.
const (
	ExportOTLPGRPC = "otlp-grpc"
	ExportOTLPHTTP = "otlp-http"
	ExportStdout   = "stdout"
	exportNone     = "none"
)

// Exporters are all values of --export.
var Exporters = []string{ExportOTLPGRPC, ExportOTLPHTTP, ExportStdout, exportNone}

// Kinds of spans, the values of --spans.
const (
	SpansInterfaces = "interfaces"
	SpansLayers     = "layers"
)

// SocketCgroupAuto as the only --socket-cgroup is the pods' cgroup of this node, or
// without pods all cgroups; SocketCgroupNone is no cgroup.
const (
	SocketCgroupAuto = probe.SocketCgroupAuto
	SocketCgroupNone = "none"
)

// DefaultAccessLogAddress is the default of --access-log-address.
const DefaultAccessLogAddress = ":4327"

// KeyValue is a header of each OTLP request.
type KeyValue struct{ Key, Value string }

// Config holds the settings of `layertrace agent`, described in
// docs/configuration.md. The fields are named like the flags.
type Config struct {
	File string // --config

	VNIC, PNIC  []string // interface patterns
	VNICDefault bool     // VNIC was not set

	Mode        probe.Mode
	HeadersOnly bool
	Search
	IdleTimeout    time.Duration
	RequestTimeout time.Duration
	OpenSpanAfter  time.Duration // 0: never
	RequestPaths   bool
	DeepBudget     int // bytes per second and CPU
	MaxConnections int
	RingBytes      int // 0: by the memory of the container
	ReadInterval   time.Duration

	Spans            string
	SocketCgroups    []string // or only SocketCgroupAuto
	LayerMinDuration time.Duration
	SidecarUID       uint32

	TCPOption        probe.OptionLayout
	TCPOptionCgroups []string
	TCPOptionPorts   []uint16
	TrustedPrefixes  []netip.Prefix

	MTLS             bool
	AccessLogAddress string // empty: no receiver
	MTLSPorts        []uint16
	MTLSConnections  int // 0: MaxConnections
	MTLSTurns        int
	MTLSInfer        bool

	Identity string // file name
	Node     string // empty: the identity file's node, else the host name

	Namespaces []string // of the workloads whose exchanges are reported; empty: all

	Kubernetes bool
	Kubeconfig string // file name; empty: the service account of the pod

	Export       []string
	OTLPEndpoint string // empty: the protocol's default port on this machine
	OTLPInsecure bool
	OTLPHeaders  []KeyValue
	SpanRate     int // spans per second and capture point; 0: no limit
	TraceSpans   int // spans of one trace within 10 s; 0: no limit
	QueueSize    int // spans
	KeepSpans    int // spans; 0: none

	CPULimit       float64 // CPUs; 0: no limit
	MetricsAddress string
	// MetricsNamespaces may read the metrics, with Kubernetes; empty: all.
	MetricsNamespaces []string
	LogLevel          string
	LogFormat         string
	ShutdownTimeout   time.Duration

	// Watched: someone looks at the requests as they come (layertrace try --local), so that
	// those without a sampled trace context are captured too. It has no flag.
	Watched bool
}

// Search is where requests and their trace contexts are searched for: flags that
// `layertrace agent` and `layertrace decode` share.
type Search struct {
	Ports          []uint16 // empty: all
	PrefixWindow   int      // bytes
	Deep           probe.DeepMode
	DeepWindow     int // bytes
	ContextHeaders []tracecontext.ContextHeader
	ContextFormats []tracecontext.Format // in order of preference; empty: all, the first on the wire
}

// Layers reports whether requests are split into layers.
func (c *Config) Layers() bool { return c.Spans == SpansLayers }

// Exports reports whether an exporter is enabled.
func (c *Config) Exports(exporter string) bool { return slices.Contains(c.Export, exporter) }

// Define adds the agent's flags to fs and returns the Config that they set.
// Environment variables and YAML keys derive from this flag set.
func Define(fs *pflag.FlagSet) *Config {
	c := &Config{}
	fs.StringVar(&c.File, configFlag, "", "YAML `FILE` with settings, keyed by flag name")
	for _, s := range []struct {
		title  string
		define func(*pflag.FlagSet, *Config)
	}{
		{"Interfaces", defineInterfaces},
		{"Capture", defineCapture},
		{"Layers", defineLayers},
		{"Mutual TLS", defineMTLS},
		{"TCP options", defineOptions},
		{"Names", defineNames},
		{"Export", func(fs *pflag.FlagSet, c *Config) { defineExport(fs, c); defineKeep(fs, c) }},
		{"Agent", func(fs *pflag.FlagSet, c *Config) { defineLimit(fs, c); defineAgent(fs, c) }},
	} {
		part := pflag.NewFlagSet(s.title, pflag.ContinueOnError)
		part.SortFlags = false
		s.define(part, c)
		flaghelp.SetSection(part, s.title)
		fs.AddFlagSet(part)
	}
	return c
}

func defineInterfaces(fs *pflag.FlagSet, c *Config) {
	fs.Var(newList(&c.VNIC, "PATTERN", parseText, "kind:veth"), vnicFlag,
		"virtual interfaces to capture at: name, glob or kind:KIND (repeatable)")
	fs.Var(newList(&c.PNIC, "PATTERN", parseText, "kind:physical"), "pnic",
		"physical interfaces to capture at; overrides --vnic (repeatable)")
}

func defineCapture(fs *pflag.FlagSet, c *Config) {
	fs.Var(newChoice(&c.Mode, probe.ModeAuto, probe.ModeAuto, probe.ModeTCX, probe.ModeClsact, probe.ModeSocketFilter), "mode", "kernel hook")
	fs.BoolVar(&c.HeadersOnly, "headers-only", false, "on a network device: read nothing but headers, at the interfaces of --pnic, and send what passed to layertrace join")
	DefineSearch(fs, &c.Search)
	fs.IntVar(&c.DeepBudget, "deep-budget", probe.DefaultDeepBudget, "with --deep=auto: search at most so many `BYTES` beyond the prefix window, per second and CPU")
	fs.DurationVar(&c.IdleTimeout, "idle-timeout", probe.DefaultIdleTimeout, "report an exchange whose response has ended after this `TIME` without a packet")
	fs.DurationVar(&c.RequestTimeout, "request-timeout", probe.DefaultRequestTimeout, "report an exchange that is not complete after this `TIME` without a packet")
	fs.DurationVar(&c.OpenSpanAfter, "open-span-after", probe.DefaultOpenSpanAfter, "send a preliminary span of an exchange that goes on after this `TIME`; 0: never")
	fs.BoolVar(&c.RequestPaths, "request-paths", true, "keep the path of requests, without query")
	fs.IntVar(&c.MaxConnections, "max-connections", probe.DefaultMaxConnections, "track at most `N` connections")
	fs.IntVar(&c.RingBytes, "ring-bytes", 0, "size of the ring buffer between kernel and agent in `BYTES`, a power of two; 0: 4 MiB, with --spans=layers by the memory of the agent's container")
	fs.DurationVar(&c.ReadInterval, "read-interval", probe.DefaultReadInterval, "maximum `TIME` between two reads of the ring buffer, which is also read when 128 KiB or a quarter of it are full")
}

// DefineSearch adds the flags of a search to fs.
func DefineSearch(fs *pflag.FlagSet, s *Search) {
	fs.Var(newList(&s.Ports, "PORT", parsePort), "ports", "TCP ports to track, of either end; empty: all")
	fs.IntVar(&s.PrefixWindow, "prefix-window", tracecontext.DefaultPrefixWindow, "search the first `BYTES` of a request's first segment for the trace context")
	fs.Var(newChoice(&s.Deep, probe.DeepAuto, probe.DeepAuto, probe.DeepOn, probe.DeepOff), deepFlag,
		"search for the trace context beyond the prefix window too, over any number of segments, up to --deep-window; auto: of requests without one in the window, within --deep-budget")
	fs.Lookup(deepFlag).NoOptDefVal = string(probe.DeepOn)
	fs.IntVar(&s.DeepWindow, "deep-window", tracecontext.DefaultDeepWindow, "search at most the first `BYTES` of a request with --deep")
	fs.Var(newList(&s.ContextHeaders, "NAME=FORMAT", tracecontext.ParseContextHeader), "context-header",
		fmt.Sprintf("additional header with a trace context (repeatable, at most %d); FORMAT is one of %v",
			tracecontext.MaxContextHeaders, tracecontext.SingleHeaderFormats()))
	fs.Var(newList(&s.ContextFormats, "FORMAT", tracecontext.ParsePreference), "context-format",
		fmt.Sprintf("read only trace contexts of these formats, the most preferred first (of %v); empty: all, the first sampled one of a request",
			tracecontext.PreferenceNames()))
}

func defineLayers(fs *pflag.FlagSet, c *Config) {
	fs.Var(newChoice(&c.Spans, SpansInterfaces, SpansInterfaces, SpansLayers), "spans",
		"interfaces: a span for each interface; layers: also for each socket and each layer")
	fs.Var(newList(&c.SocketCgroups, "PATH", parseText), "socket-cgroup",
		"cgroup2 directory whose sockets are captured with --spans=layers (repeatable); auto (default): the pods' cgroup, or all without pods; none: no sockets")
	fs.DurationVar(&c.LayerMinDuration, "layer-min-duration", 0, "minimum `TIME` in a layer for a span with --spans=layers; metrics include all")
	fs.Uint32Var(&c.SidecarUID, "sidecar-uid", 1337, "user `ID` of the proxies, which distinguishes their sockets from the applications'")
}

func defineMTLS(fs *pflag.FlagSet, c *Config) {
	fs.BoolVar(&c.MTLS, "mtls", false, "follow the connections that proxies encrypt, and join them with the proxies' access log")
	fs.StringVar(&c.AccessLogAddress, "access-log-address", DefaultAccessLogAddress,
		"`ADDRESS` of the receiver for Envoy's OpenTelemetry access log with --mtls; empty: off")
	fs.Var(newList(&c.MTLSPorts, "PORT", parsePort), "mtls-ports", "server ports of the connections to follow with --mtls; empty: all")
	fs.IntVar(&c.MTLSConnections, "mtls-connections", 0, "follow at most `N` encrypted connections with --mtls, each counted once for each capture point; 0: as many as --max-connections")
	fs.IntVar(&c.MTLSTurns, "mtls-turns", probe.DefaultTurns, "keep the last `N` turns of all encrypted connections with --mtls, a power of two")
	fs.BoolVar(&c.MTLSInfer, "mtls-infer", false,
		"with --mtls and --spans=layers: join what no record names by the plain text inside of the pod; such spans are marked inferred")
}

func defineOptions(fs *pflag.FlagSet, c *Config) {
	fs.Var(newChoice(&c.TCPOption, probe.OptionOff, probe.OptionOff, probe.OptionCompact, probe.OptionPaper), "tcp-option", "TCP options to write")
	fs.Var(newList(&c.TCPOptionCgroups, "PATH", parseText), "tcp-option-cgroup",
		"cgroup2 directory whose sockets write options (repeatable)")
	fs.Var(newList(&c.TCPOptionPorts, "PORT", parsePort), "tcp-option-ports",
		"server ports of the connections that write options; empty: all")
	fs.Var(newList(&c.TrustedPrefixes, "PREFIX", parsePrefix), "trusted-prefix",
		"addresses whose TCP options are trusted (repeatable); empty: private and local addresses")
}

func defineNames(fs *pflag.FlagSet, c *Config) {
	fs.StringVar(&c.Identity, "identity", "", "YAML `FILE` with the workloads of interfaces and addresses")
	fs.StringVar(&c.Node, "node", "", "`NAME` of this node (default: from the identity file, else the host name)")
	fs.Var(newList(&c.Namespaces, "NAMESPACE", parseText), "namespaces",
		"report only exchanges with a workload of these namespaces at one end (repeatable); empty: all")
	fs.BoolVar(&c.Kubernetes, "kubernetes", false, "read names from the Kubernetes cluster of this node")
	fs.StringVar(&c.Kubeconfig, "kubeconfig", "", "kubeconfig `FILE` for the API server (default: the pod's service account)")
}

func defineExport(fs *pflag.FlagSet, c *Config) {
	fs.Var(newList(&c.Export, "EXPORTER", oneOf(Exporters), ExportOTLPGRPC), "export",
		"where to send exchanges: otlp-grpc or otlp-http (spans), stdout (JSON lines), none")
	fs.StringVar(&c.OTLPEndpoint, "otlp-endpoint", "",
		"`HOST:PORT` (otlp-grpc, default localhost:4317) or URL (otlp-http, default http://localhost:4318)")
	fs.BoolVar(&c.OTLPInsecure, insecureFlag, false, "use otlp-grpc without TLS; if not set, only to this machine and to services of the cluster")
	fs.Var(newList(&c.OTLPHeaders, "KEY=VALUE", parseKeyValue), "otlp-header",
		"header of each OTLP request (repeatable)")
	fs.IntVar(&c.SpanRate, "span-rate", 50000, "make at most `N` spans per second at each capture point; 0: no limit")
	fs.IntVar(&c.TraceSpans, "trace-spans", 4096, "make at most `N` spans of one trace within 10 s; 0: no limit")
	fs.IntVar(&c.QueueSize, "queue-size", 8192, "queue up to `N` spans while the receiver is slow or unreachable")
}

func defineKeep(fs *pflag.FlagSet, c *Config) {
	fs.IntVar(&c.KeepSpans, "keep-spans", 0, "keep up to `N` spans until they are read at /spans of the metrics address, beside --export; 0: none")
}

func defineLimit(fs *pflag.FlagSet, c *Config) {
	fs.Float64Var(&c.CPULimit, "cpu-limit", 0,
		"leave work out, in steps, to take less than so many `CPUS`, with the BPF programs: layers, then contexts beyond the prefix window, then new requests; 0: no limit")
}

func defineAgent(fs *pflag.FlagSet, c *Config) {
	fs.StringVar(&c.MetricsAddress, "metrics-address", "127.0.0.1:9464",
		"`ADDRESS` of /metrics, /healthz and /readyz; empty: off")
	fs.Var(newList(&c.MetricsNamespaces, "NAMESPACE", parseText, "layertrace-system", "kube-system", "monitoring", "prometheus", "observability", "istio-system"), "metrics-namespaces",
		"with --kubernetes: namespaces whose pods may read /metrics; empty: all (repeatable)")
	fs.Var(newChoice(&c.LogLevel, "info", "debug", "info", "warn", "error"), "log-level", "minimum level of log lines")
	fs.Var(newChoice(&c.LogFormat, "text", "text", "json"), "log-format", "format of log lines on stderr")
	fs.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", 10*time.Second, "maximum `TIME` to drain and detach at the end")
}
