// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"log/slog"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/probe"
)

func openProbe(cfg *config.Config, log *slog.Logger) (agent.Probe, error) {
	p, err := probe.Open(probeOptions(cfg, log))
	if err != nil {
		return nil, err // not p, which would be a non-nil interface
	}
	return p, nil
}

func probeOptions(cfg *config.Config, log *slog.Logger) probe.Options {
	return probe.Options{
		Mode:             probe.Mode(cfg.Mode),
		Ports:            cfg.Ports,
		PrefixWindow:     cfg.PrefixWindow,
		Deep:             cfg.Deep,
		DeepWindow:       cfg.DeepWindow,
		ContextHeaders:   cfg.ContextHeaders,
		MaxConnections:   cfg.MaxConnections,
		RingBytes:        cfg.RingBytes,
		ReadInterval:     cfg.ReadInterval,
		IdleTimeout:      cfg.IdleTimeout,
		RequestTimeout:   cfg.RequestTimeout,
		TrustedPrefixes:  cfg.TrustedPrefixes,
		TCPOption:        probe.OptionLayout(cfg.TCPOption),
		TCPOptionCgroups: cfg.TCPOptionCgroups,
		TCPOptionPorts:   cfg.TCPOptionPorts,
		SocketCgroups:    cfg.SocketCgroups,
		Drivers:          cfg.Layers(),
		Log:              log,
	}
}
