// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Define adds the agent's flags to fs and returns the Config that they write
// to. The flag set is the only list of names: environment variables and YAML
// keys are derived from it.
func Define(fs *pflag.FlagSet) *Config {
	c := &Config{}
	fs.StringVar(&c.File, configFlag, "", "YAML `FILE` with settings, keys as the flags here")

	fs.Var(newList(&c.VNIC, "pattern", parseText, "kind:veth"), "vnic",
		"virtual interfaces to watch: name, glob or kind:KIND")
	fs.Var(newList(&c.PNIC, "pattern", parseText, "kind:physical"), "pnic",
		"physical interfaces to watch; wins where both match")

	defineCapture(fs, c)
	defineLayers(fs, c)
	defineOptions(fs, c)

	fs.StringVar(&c.Identity, "identity", "", "YAML `FILE` that tells which workload is behind an interface or address")
	fs.StringVar(&c.Node, "node", "", "`NAME` of this node (default: the identity file's, else the host name)")

	fs.BoolVar(&c.Kubernetes, "kubernetes", false, "take names from the Kubernetes cluster that this node is in")
	fs.StringVar(&c.Kubeconfig, "kubeconfig", "", "`FILE` that tells how to reach the API server (default: as in a pod)")

	defineExport(fs, c)

	fs.StringVar(&c.MetricsAddress, "metrics-address", "127.0.0.1:9464",
		"`ADDRESS` of /metrics, /healthz and /readyz; empty: off")
	fs.Var(newChoice(&c.LogLevel, "info", "debug", "info", "warn", "error"), "log-level", "least level that is logged")
	fs.Var(newChoice(&c.LogFormat, "text", "text", "json"), "log-format", "form of the log lines on stderr")
	fs.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", 10*time.Second, "time to drain and detach when told to stop")
	return c
}

func defineCapture(fs *pflag.FlagSet, c *Config) {
	fs.Var(newChoice(&c.Mode, "auto", "auto", "tcx", "clsact", "socket-filter"), "mode", "kernel hook")
	fs.Var(newList(&c.Ports, "port", parsePort), "ports", "TCP ports to look at, at either end; empty: all")
	fs.IntVar(&c.PrefixWindow, "prefix-window", 1024, "`BYTES` at the start of a request that are searched")
	fs.BoolVar(&c.Deep, "deep", false, "search over several segments, up to --deep-window")
	fs.IntVar(&c.DeepWindow, "deep-window", 65536, "`BYTES` of a request that --deep searches")
	fs.Var(newList(&c.ContextHeaders, "name=format", tracecontext.ParseContextHeader), "context-header",
		"further header with a trace context (repeatable, at most 4); formats: w3c, b3, jaeger, skywalking")
	fs.Var(newList(&c.TrustedPrefixes, "prefix", parsePrefix), "trusted-prefix",
		"addresses whose TCP options are believed (repeatable); empty: private and local ones")
	fs.DurationVar(&c.IdleTimeout, "idle-timeout", 2*time.Second, "a complete exchange is reported after so long without a packet")
	fs.DurationVar(&c.RequestTimeout, "request-timeout", time.Minute, "a request without response is reported after so long")
	fs.IntVar(&c.MaxConnections, "max-connections", 65536, "connections followed at once")
	fs.IntVar(&c.RingBytes, "ring-bytes", 4<<20, "`BYTES` of the ring buffer between kernel and agent, a power of two")
	fs.DurationVar(&c.ReadInterval, "read-interval", time.Second, "the ring buffer is read so often, and when a quarter of it is full")
}

func defineLayers(fs *pflag.FlagSet, c *Config) {
	fs.Var(newChoice(&c.Spans, SpansInterfaces, SpansInterfaces, SpansLayers), "spans",
		"interfaces: a span for each interface; layers: sockets as well, and a span for each layer")
	fs.Var(newList(&c.SocketCgroups, "path", parseText), "socket-cgroup",
		"cgroup2 directory whose sockets are watched for --spans=layers (repeatable); auto: the pods' (default with --kubernetes)")
	fs.DurationVar(&c.LayerMinDuration, "layer-min-duration", 0, "shortest `TIME` in a layer that gets a span with --spans=layers; metrics have all")
	fs.Uint32Var(&c.SidecarUID, "sidecar-uid", 1337, "user `ID` of the proxies: tells their sockets from the applications'")
}

func defineOptions(fs *pflag.FlagSet, c *Config) {
	fs.Var(newChoice(&c.TCPOption, "off", "off", "compact", "paper"), "tcp-option", "TCP options to write")
	fs.Var(newList(&c.TCPOptionCgroups, "path", parseText), "tcp-option-cgroup",
		"cgroup2 directory whose sockets write options (repeatable)")
	fs.Var(newList(&c.TCPOptionPorts, "port", parsePort), "tcp-option-ports",
		"server ports of the connections that write options; empty: all")
}

func defineExport(fs *pflag.FlagSet, c *Config) {
	ways := []string{ExportOTLPGRPC, ExportOTLPHTTP, ExportStdout, ExportNone}
	fs.Var(newList(&c.Export, "way", oneOf(ways), ExportOTLPGRPC), "export",
		"where exchanges go: otlp-grpc or otlp-http (spans), stdout (JSON lines), none")
	fs.StringVar(&c.OTLPEndpoint, "otlp-endpoint", "",
		"`HOST:PORT` (otlp-grpc, default localhost:4317) or URL (otlp-http, default http://localhost:4318)")
	fs.BoolVar(&c.OTLPInsecure, "otlp-insecure", false, "speak otlp-grpc without TLS")
	fs.Var(newList(&c.OTLPHeaders, "key=value", parseKeyValue), "otlp-header",
		"header sent with each OTLP request (repeatable)")
	fs.IntVar(&c.QueueSize, "queue-size", 8192, "`SPANS` kept while the receiver is slow or away")
}
