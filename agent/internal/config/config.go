// SPDX-License-Identifier: Apache-2.0

// Package config reads the agent's settings from flags, LAYERTRACE_*
// environment variables and a YAML file. All three use the names of one flag
// set, and one setting comes from one place: flag > environment > file >
// default.
package config

import (
	"net/netip"
	"time"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Ways to export, the values of --export.
const (
	ExportOTLPGRPC = "otlp-grpc"
	ExportOTLPHTTP = "otlp-http"
	ExportStdout   = "stdout"
	ExportNone     = "none"
)

// What spans are made of, the values of --spans.
const (
	SpansInterfaces = "interfaces"
	SpansLayers     = "layers"
)

// SocketCgroupAuto as the one --socket-cgroup: the pods' cgroup of this node.
const SocketCgroupAuto = "auto"

// KeyValue is one header that goes out with each OTLP request.
type KeyValue struct{ Key, Value string }

// Config holds the settings of `layertrace agent`. docs/configuration.md tells
// what each one does; the field names follow the flag names.
type Config struct {
	File string // --config

	VNIC, PNIC []string // interface patterns

	Mode            string
	Ports           []uint16 // empty: all
	PrefixWindow    int      // bytes
	Deep            bool
	DeepWindow      int // bytes
	ContextHeaders  []tracecontext.ContextHeader
	TrustedPrefixes []netip.Prefix
	IdleTimeout     time.Duration
	RequestTimeout  time.Duration
	MaxConnections  int
	RingBytes       int
	ReadInterval    time.Duration

	Spans            string
	SocketCgroups    []string // or SocketCgroupAuto alone
	LayerMinDuration time.Duration
	SidecarUID       uint32

	TCPOption        string
	TCPOptionCgroups []string
	TCPOptionPorts   []uint16

	Identity string // file name
	Node     string // empty: the identity file's node, else the host name

	Kubernetes bool
	Kubeconfig string // file name; empty: what a pod finds in its container

	Export       []string
	OTLPEndpoint string // empty: this machine, the protocol's usual port
	OTLPInsecure bool
	OTLPHeaders  []KeyValue
	QueueSize    int // spans

	MetricsAddress  string
	LogLevel        string
	LogFormat       string
	ShutdownTimeout time.Duration
}

// Layers reports whether the time of requests is split into layers.
func (c *Config) Layers() bool { return c.Spans == SpansLayers }

// Exports reports whether way is among the chosen exports.
func (c *Config) Exports(way string) bool {
	for _, e := range c.Export {
		if e == way {
			return true
		}
	}
	return false
}
