// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// validate checks what a single flag cannot. The messages name the flag, which
// is the name in the environment and the file too.
func (c *Config) validate() error {
	checks := []func() error{
		c.validatePatterns, c.validateCapture, c.validateOptions, c.validateNames, c.validateExport, c.validateMetrics,
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
				return fmt.Errorf("--%s: %q is no valid pattern: %w", flag, p, err)
			}
			if p == "kind:" {
				return fmt.Errorf("--%s: kind: wants a kind behind it, such as kind:veth", flag)
			}
		}
	}
	return nil
}

func (c *Config) validateCapture() error {
	between := []struct {
		flag           string
		value, low, hi int
	}{
		{"prefix-window", c.PrefixWindow, 64, 4096},
		{"deep-window", c.DeepWindow, c.PrefixWindow, 1 << 24},
		{"max-connections", c.MaxConnections, 16, 1 << 22},
		{"ring-bytes", c.RingBytes, os.Getpagesize(), 1 << 30},
		{"queue-size", c.QueueSize, 1, 1 << 24},
	}
	for _, b := range between {
		if b.value < b.low || b.value > b.hi {
			return fmt.Errorf("--%s is %d: choose %d to %d", b.flag, b.value, b.low, b.hi)
		}
	}
	if c.RingBytes&(c.RingBytes-1) != 0 {
		return fmt.Errorf("--ring-bytes is %d: choose a power of two, such as %d", c.RingBytes, 4<<20)
	}
	if err := tracecontext.ValidateContextHeaders(c.ContextHeaders); err != nil {
		return fmt.Errorf("--context-header: %w", err)
	}
	for flag, d := range map[string]time.Duration{
		"idle-timeout": c.IdleTimeout, "request-timeout": c.RequestTimeout, "read-interval": c.ReadInterval,
		"shutdown-timeout": c.ShutdownTimeout,
	} {
		if d <= 0 {
			return fmt.Errorf("--%s is %v: choose a time above 0, such as 2s", flag, d)
		}
	}
	return nil
}

func (c *Config) validateOptions() error {
	if len(c.SocketCgroups) > 0 && !c.Layers() {
		return fmt.Errorf("--socket-cgroup has no effect without --spans=%s: set both or none", SpansLayers)
	}
	if len(c.SocketCgroups) > 1 && slices.Contains(c.SocketCgroups, SocketCgroupAuto) {
		return fmt.Errorf("--socket-cgroup: %s cannot stand beside others: name all directories, or none", SocketCgroupAuto)
	}
	if c.LayerMinDuration < 0 {
		return fmt.Errorf("--layer-min-duration is %v: choose 0 or more, such as 20us", c.LayerMinDuration)
	}
	if c.LayerMinDuration > 0 && !c.Layers() {
		return fmt.Errorf("--layer-min-duration has no effect without --spans=%s: set both or none", SpansLayers)
	}
	if c.Layers() && c.Kubernetes && len(c.SocketCgroups) == 0 {
		c.SocketCgroups = []string{SocketCgroupAuto}
	}
	if c.TCPOption != "off" && len(c.TCPOptionCgroups) == 0 {
		return fmt.Errorf("--tcp-option %s needs --tcp-option-cgroup: name the cgroup2 directories whose sockets may write options", c.TCPOption)
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
	case c.Exports(ExportNone) && len(c.Export) > 1:
		return fmt.Errorf("--export: none cannot stand beside %s", strings.Join(c.Export, ","))
	case c.Exports(ExportOTLPGRPC) && c.Exports(ExportOTLPHTTP):
		return fmt.Errorf("--export: choose one of otlp-grpc and otlp-http, there is one --otlp-endpoint")
	case c.Exports(ExportOTLPGRPC):
		if c.OTLPEndpoint == "" {
			c.OTLPEndpoint = "localhost:4317"
		}
		if _, _, err := net.SplitHostPort(c.OTLPEndpoint); err != nil || strings.Contains(c.OTLPEndpoint, "/") {
			return fmt.Errorf("--otlp-endpoint %q: otlp-grpc wants HOST:PORT, such as localhost:4317", c.OTLPEndpoint)
		}
	case c.Exports(ExportOTLPHTTP):
		if c.OTLPEndpoint == "" {
			c.OTLPEndpoint = "http://localhost:4318"
		}
		u, err := url.Parse(c.OTLPEndpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("--otlp-endpoint %q: otlp-http wants a URL, such as http://localhost:4318", c.OTLPEndpoint)
		}
	}
	return nil
}

func (c *Config) validateMetrics() error {
	if c.MetricsAddress == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(c.MetricsAddress); err != nil {
		return fmt.Errorf("--metrics-address %q: write HOST:PORT, such as 127.0.0.1:9464", c.MetricsAddress)
	}
	return nil
}
