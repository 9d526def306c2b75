// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"log/slog"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/probe"
)

// kernelProbe is the probe as the agent wants it.
type kernelProbe struct{ *probe.Probe }

// Counters returns the probe's counters.
func (k kernelProbe) Counters() ([]agent.Counter, error) {
	counters, err := k.Probe.Counters()
	if err != nil {
		return nil, err
	}
	converted := make([]agent.Counter, len(counters))
	for i, c := range counters {
		converted[i] = agent.Counter(c)
	}
	return converted, nil
}

func openProbe(cfg *config.Config, log *slog.Logger) (agent.Probe, error) {
	p, err := probe.Open(probeOptions(cfg, log))
	if err != nil {
		return nil, err
	}
	return kernelProbe{p}, nil
}

func probeOptions(cfg *config.Config, log *slog.Logger) probe.Options {
	headers := make([]probe.ContextHeader, len(cfg.ContextHeaders))
	for i, h := range cfg.ContextHeaders {
		headers[i] = probe.ContextHeader(h)
	}
	return probe.Options{
		Mode:             probe.Mode(cfg.Mode),
		Ports:            cfg.Ports,
		PrefixWindow:     cfg.PrefixWindow,
		Deep:             cfg.Deep,
		DeepWindow:       cfg.DeepWindow,
		ContextHeaders:   headers,
		MaxConnections:   cfg.MaxConnections,
		RingBytes:        cfg.RingBytes,
		IdleTimeout:      cfg.IdleTimeout,
		RequestTimeout:   cfg.RequestTimeout,
		TrustedPrefixes:  cfg.TrustedPrefixes,
		TCPOption:        probe.OptionLayout(cfg.TCPOption),
		TCPOptionCgroups: cfg.TCPOptionCgroups,
		TCPOptionPorts:   cfg.TCPOptionPorts,
		Sockets:          len(cfg.SocketCgroups) > 0,
		SocketCgroups:    cfg.SocketCgroups,
		Drivers:          cfg.Layers(),
		Log:              log,
	}
}
