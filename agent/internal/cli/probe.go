// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"log/slog"
	"slices"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/podcgroup"
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
	cgroups := socketCgroups(cfg, podcgroup.Mounts, log)
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
		Sockets:          len(cgroups) > 0,
		SocketCgroups:    cgroups,
		Drivers:          cfg.Layers(),
		Log:              log,
	}
}

// socketCgroups returns the cgroups whose sockets are watched. Where the pods'
// are to be found by itself and are not, the rest of the agent works.
func socketCgroups(cfg *config.Config, mounts []string, log *slog.Logger) []string {
	if !slices.Equal(cfg.SocketCgroups, []string{config.SocketCgroupAuto}) {
		return cfg.SocketCgroups
	}
	found, err := podcgroup.Find(mounts)
	if err != nil {
		log.Warn("no sockets are watched: layers are told by interfaces alone", "reason", err)
		return nil
	}
	log.Info("watching the sockets of the pods", "cgroups", found)
	return found
}
