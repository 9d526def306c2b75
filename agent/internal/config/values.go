// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// listValue is a flag with a list: comma-separated and repeatable. The first Set
// replaces the default, later ones append.
type listValue[T any] struct {
	dst   *[]T
	parse func(string) (T, error)
	kind  string
	text  []string
	set   bool
}

func newList[T any](dst *[]T, kind string, parse func(string) (T, error), defaults ...string) *listValue[T] {
	v := &listValue[T]{dst: dst, parse: parse, kind: kind}
	if err := v.Replace(defaults); err != nil {
		panic(fmt.Sprintf("default of a flag: %v", err)) // a bug that every test finds
	}
	return v
}

// Set parses a comma-separated list.
func (v *listValue[T]) Set(s string) error {
	items := splitList(s)
	if v.set {
		items = append(append([]string{}, v.text...), items...)
	}
	v.set = true
	return v.Replace(items)
}

// Replace sets the whole list.
func (v *listValue[T]) Replace(items []string) error {
	parsed := make([]T, 0, len(items))
	for _, item := range items {
		p, err := v.parse(item)
		if err != nil {
			return err
		}
		parsed = append(parsed, p)
	}
	*v.dst, v.text = parsed, items
	return nil
}

// Append adds one item.
func (v *listValue[T]) Append(item string) error {
	return v.Replace(append(append([]string{}, v.text...), item))
}

// GetSlice returns the items as text.
func (v *listValue[T]) GetSlice() []string { return v.text }

// String returns the list as an argument of the flag.
func (v *listValue[T]) String() string { return strings.Join(v.text, ",") }

// Type names the items in help texts.
func (v *listValue[T]) Type() string { return v.kind }

func splitList(s string) []string {
	var items []string
	for _, item := range strings.Split(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func parseText(s string) (string, error) { return s, nil }

func parsePort(s string) (uint16, error) {
	p, err := strconv.ParseUint(s, 10, 16)
	if err != nil || p == 0 {
		return 0, fmt.Errorf("%q is not a TCP port (1 to 65535)", s)
	}
	return uint16(p), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not an address or prefix (such as 10.244.0.0/16)", s)
	}
	return p.Masked(), nil
}

func parseKeyValue(s string) (KeyValue, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return KeyValue{}, fmt.Errorf("%q is not KEY=VALUE", s)
	}
	return KeyValue{Key: strings.TrimSpace(k), Value: strings.TrimSpace(v)}, nil
}

// choice is a flag with a fixed set of values.
type choice[T ~string] struct {
	dst     *T
	allowed []string
}

func newChoice[T ~string](dst *T, def T, allowed ...T) *choice[T] {
	*dst = def
	c := &choice[T]{dst: dst}
	for _, a := range allowed {
		c.allowed = append(c.allowed, string(a))
	}
	return c
}

// Set accepts one of the allowed values.
func (c *choice[T]) Set(s string) error {
	v, err := oneOf(c.allowed)(s)
	if err != nil {
		return err
	}
	*c.dst = T(v)
	return nil
}

// String returns the value.
func (c *choice[T]) String() string { return string(*c.dst) }

// Type names the allowed values in help texts.
func (c *choice[T]) Type() string { return strings.Join(c.allowed, "|") }

func oneOf(allowed []string) func(string) (string, error) {
	return func(s string) (string, error) {
		for _, a := range allowed {
			if a == s {
				return s, nil
			}
		}
		if near := nearest(s, allowed); near != "" {
			return "", fmt.Errorf("%q is not one of %s; did you mean %s?", s, strings.Join(allowed, ", "), near)
		}
		return "", fmt.Errorf("%q is not one of %s", s, strings.Join(allowed, ", "))
	}
}

// validate checks ranges and combinations of settings. Errors name the flag, which
// is also the name in the environment and in the file.
func (c *Config) validate() error {
	checks := []func() error{
		c.validatePatterns, c.validateCapture, c.validateDevice, c.validateOptions, c.validateMTLS, c.validateNames, c.validateExport, c.validateMetrics,
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) validatePatterns() error {
	if len(c.VNIC)+len(c.PNIC) == 0 {
		return fmt.Errorf("--vnic and --pnic are both empty: name at least one interface")
	}
	for flag, patterns := range map[string][]string{"vnic": c.VNIC, "pnic": c.PNIC} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("--%s: %q is not a valid pattern: %w", flag, p, err)
			}
			if p == "kind:" {
				return fmt.Errorf("--%s: kind: needs a kind, such as kind:veth", flag)
			}
		}
	}
	return nil
}

// Least and most connections that a table may have.
const minConnections, maxConnections = 16, 1 << 22

// Least and most CPUs of a limit: below, an idle agent is above it.
const minCPULimit, maxCPULimit = 0.02, 4096.0

// maxKeepSpans are some 20 MB, which one response has.
const maxKeepSpans = 32768

func (c *Config) validateCapture() error {
	between := []struct {
		flag           string
		value, low, hi int
	}{
		{"prefix-window", c.PrefixWindow, probe.MinPrefixWindow, probe.MaxPrefixWindow},
		{"deep-window", c.DeepWindow, c.PrefixWindow, probe.MaxDeepWindow},
		{"deep-budget", c.DeepBudget, probe.MinDeepBudget, probe.MaxDeepBudget},
		{"max-connections", c.MaxConnections, minConnections, maxConnections},
		{"span-rate", c.SpanRate, 0, 1 << 24},
		{"trace-spans", c.TraceSpans, 0, 1 << 24},
		{"queue-size", c.QueueSize, 1, 1 << 24},
		{"keep-spans", c.KeepSpans, 0, maxKeepSpans},
	}
	for _, b := range between {
		if b.value < b.low || b.value > b.hi {
			return fmt.Errorf("--%s is %d: choose %d to %d", b.flag, b.value, b.low, b.hi)
		}
	}
	if c.RingBytes != 0 && (c.RingBytes < os.Getpagesize() || c.RingBytes > 1<<30 || c.RingBytes&(c.RingBytes-1) != 0) {
		return fmt.Errorf("--ring-bytes is %d: choose a power of two from %d to %d, such as %d, or 0 for a size by the agent's memory", c.RingBytes, os.Getpagesize(), 1<<30, probe.DefaultRingBytes)
	}
	if err := c.ValidateHeaders(); err != nil {
		return err
	}
	for flag, d := range map[string]time.Duration{
		"idle-timeout": c.IdleTimeout, "request-timeout": c.RequestTimeout, "read-interval": c.ReadInterval,
		"shutdown-timeout": c.ShutdownTimeout,
	} {
		if d <= 0 {
			return fmt.Errorf("--%s is %v: choose a time above 0, such as 2s", flag, d)
		}
	}
	if c.CPULimit != 0 && !(c.CPULimit >= minCPULimit && c.CPULimit <= maxCPULimit) { // also NaN
		return fmt.Errorf("--cpu-limit is %v: choose %v to %v CPUs, or 0 for no limit", c.CPULimit, minCPULimit, maxCPULimit)
	}
	if c.OpenSpanAfter < 0 {
		return fmt.Errorf("--open-span-after is %v: choose 0 (never) or more, such as 30s", c.OpenSpanAfter)
	}
	return nil
}

// validateDevice checks that nothing needs more than headers.
func (c *Config) validateDevice() error {
	if !c.HeadersOnly {
		return nil
	}
	switch {
	case !c.VNICDefault:
		return fmt.Errorf("--vnic has no effect with --headers-only: name all interfaces with --pnic")
	case len(c.PNIC) == 0:
		return fmt.Errorf("--pnic is empty: name the interfaces of this device")
	case c.Layers():
		return fmt.Errorf("--spans=%s has no effect with --headers-only: remove one of them", SpansLayers)
	case c.TCPOption != probe.OptionOff:
		return fmt.Errorf("--tcp-option has no effect with --headers-only: devices only read options; set it on the nodes")
	case c.MTLS:
		return fmt.Errorf("--mtls has no effect with --headers-only: encrypted connections are joined on the nodes; remove one of them")
	case c.CPULimit != 0:
		return fmt.Errorf("--cpu-limit has no effect with --headers-only: the programs of a device have nothing to leave out; remove one of them")
	case c.KeepSpans != 0:
		return fmt.Errorf("--keep-spans has no effect with --headers-only: a device makes no spans of requests; remove one of them")
	case c.Kubernetes:
		return fmt.Errorf("--kubernetes has no effect with --headers-only: a device has no pods; remove one of them")
	case c.Deep == probe.DeepOn || len(c.ContextHeaders) > 0 || len(c.ContextFormats) > 0:
		return fmt.Errorf("--deep, --context-header and --context-format have no effect with --headers-only: no payload is read; remove them")
	}
	return nil
}

// ValidateHeaders checks the additional headers, and the preferred formats, against
// each other.
func (s *Search) ValidateHeaders() error {
	if err := tracecontext.ValidateContextHeaders(s.ContextHeaders); err != nil {
		return fmt.Errorf("--context-header: %w", err)
	}
	if err := tracecontext.ValidatePreferences(s.ContextFormats); err != nil {
		return fmt.Errorf("--context-format: %w", err)
	}
	return nil
}

func (c *Config) validateOptions() error {
	if len(c.SocketCgroups) > 0 && !c.Layers() {
		return fmt.Errorf("--socket-cgroup has no effect without --spans=%s: set both or none", SpansLayers)
	}
	if len(c.SocketCgroups) > 1 && slices.Contains(c.SocketCgroups, SocketCgroupAuto) {
		return fmt.Errorf("--socket-cgroup: %s cannot be combined with others: name all directories, or none", SocketCgroupAuto)
	}
	if len(c.SocketCgroups) > 1 && slices.Contains(c.SocketCgroups, SocketCgroupNone) {
		return fmt.Errorf("--socket-cgroup: %s cannot be combined with others: remove it", SocketCgroupNone)
	}
	if c.LayerMinDuration < 0 {
		return fmt.Errorf("--layer-min-duration is %v: choose 0 or more, such as 20us", c.LayerMinDuration)
	}
	if c.LayerMinDuration > 0 && !c.Layers() {
		return fmt.Errorf("--layer-min-duration has no effect without --spans=%s: set both or none", SpansLayers)
	}
	switch {
	case slices.Equal(c.SocketCgroups, []string{SocketCgroupNone}):
		c.SocketCgroups = nil
	case c.Layers() && len(c.SocketCgroups) == 0:
		c.SocketCgroups = []string{SocketCgroupAuto}
	}
	if c.TCPOption != probe.OptionOff && len(c.TCPOptionCgroups) == 0 {
		return fmt.Errorf("--tcp-option %s needs --tcp-option-cgroup: name the cgroup2 directories whose sockets write options", c.TCPOption)
	}
	return nil
}

func (c *Config) validateMTLS() error {
	switch {
	case !c.MTLS && c.MTLSInfer:
		return fmt.Errorf("--mtls-infer has no effect without --mtls: set both or none")
	case !c.MTLS && len(c.MTLSPorts) > 0:
		return fmt.Errorf("--mtls-ports has no effect without --mtls: set both or none")
	case !c.MTLS && c.MTLSConnections != 0:
		return fmt.Errorf("--mtls-connections has no effect without --mtls: set both or none")
	case !c.MTLS && c.MTLSTurns != probe.DefaultTurns:
		return fmt.Errorf("--mtls-turns has no effect without --mtls: set both or none")
	case !c.MTLS:
		return nil
	case c.MTLSConnections != 0 && (c.MTLSConnections < minConnections || c.MTLSConnections > maxConnections):
		return fmt.Errorf("--mtls-connections is %d: choose %d to %d, or 0 for as many as --max-connections", c.MTLSConnections, minConnections, maxConnections)
	case c.MTLSTurns < probe.MinTurns || c.MTLSTurns > probe.MaxTurns:
		return fmt.Errorf("--mtls-turns is %d: choose %d to %d", c.MTLSTurns, probe.MinTurns, probe.MaxTurns)
	case c.MTLSTurns&(c.MTLSTurns-1) != 0:
		return fmt.Errorf("--mtls-turns is %d: choose a power of two, such as %d", c.MTLSTurns, probe.DefaultTurns)
	case c.MTLSInfer && !c.Layers():
		return fmt.Errorf("--mtls-infer needs --spans=%s: the plain text inside of the pods is seen at sockets only", SpansLayers)
	case c.AccessLogAddress == "" && !c.MTLSInfer:
		return fmt.Errorf("--mtls needs --access-log-address, such as %s, or --mtls-infer: without either no encrypted connection is joined", DefaultAccessLogAddress)
	case c.AccessLogAddress == "":
		return nil
	}
	if _, _, err := net.SplitHostPort(c.AccessLogAddress); err != nil {
		return fmt.Errorf("--access-log-address %q: write HOST:PORT, such as %s", c.AccessLogAddress, DefaultAccessLogAddress)
	}
	return nil
}

func (c *Config) validateNames() error {
	if c.Kubeconfig != "" && !c.Kubernetes {
		return fmt.Errorf("--kubeconfig has no effect without --kubernetes: set both or none")
	}
	return nil
}

func (c *Config) validateExport() error {
	switch {
	case len(c.Export) == 0:
		return fmt.Errorf("--export is empty: choose otlp-grpc, otlp-http, stdout or none")
	case c.Exports(exportNone) && len(c.Export) > 1:
		return fmt.Errorf("--export %s: none cannot be combined with others", strings.Join(c.Export, ","))
	case c.Exports(ExportOTLPGRPC) && c.Exports(ExportOTLPHTTP):
		return fmt.Errorf("--export: choose one of otlp-grpc and otlp-http, as there is only one --otlp-endpoint")
	case c.Exports(ExportOTLPGRPC):
		if c.OTLPEndpoint == "" {
			c.OTLPEndpoint = "localhost:4317"
		}
		if _, _, err := net.SplitHostPort(c.OTLPEndpoint); err != nil || strings.Contains(c.OTLPEndpoint, "/") {
			return fmt.Errorf("--otlp-endpoint %q: otlp-grpc needs HOST:PORT, such as localhost:4317", c.OTLPEndpoint)
		}
	case c.Exports(ExportOTLPHTTP):
		if c.OTLPEndpoint == "" {
			c.OTLPEndpoint = "http://localhost:4318"
		}
		u, err := url.Parse(c.OTLPEndpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("--otlp-endpoint %q: otlp-http needs a URL, such as http://localhost:4318", c.OTLPEndpoint)
		}
	}
	return nil
}

func (c *Config) validateMetrics() error {
	if c.MetricsAddress == "" {
		if c.KeepSpans > 0 {
			return fmt.Errorf("--keep-spans needs a --metrics-address, where they are read: set both or none")
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(c.MetricsAddress); err != nil {
		return fmt.Errorf("--metrics-address %q: write HOST:PORT, such as 127.0.0.1:9464", c.MetricsAddress)
	}
	return nil
}
