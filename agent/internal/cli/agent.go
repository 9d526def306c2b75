// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/doctor"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/spf13/cobra"
)

func newAgent() *cobra.Command {
	var cfg *config.Config
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Capture requests at this node's interfaces and send spans",
		Long: `Capture requests at this node's interfaces and send a span for each request and
interface, in the trace that the request belongs to.

Each flag is also an environment variable (--queue-size: LAYERTRACE_QUEUE_SIZE) and
a key of the YAML file (queue-size). A flag overrides the environment, and the
environment overrides the file.`,
		Example: `  # a JSON line for each request at this machine's interfaces
  layertrace agent --export stdout

  # layers of the services of this machine, to a store on it
  layertrace agent --spans layers --socket-cgroup auto \
      --otlp-endpoint 127.0.0.1:4317`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags(), cfg, os.Environ()); err != nil {
				return usage(err)
			}
			if err := doctor.Preflight(); err != nil {
				return err
			}
			beModest(cfg.Layers(), memoryMax)
			log := newLog(cmd.ErrOrStderr(), cfg)
			claim, err := probe.Claim(log)
			if err != nil {
				return err
			}
			defer claim.Close()
			opts := agent.Options{
				Config: cfg, OpenProbe: openProbe, OpenEncrypted: openEncrypted, Stdout: cmd.OutOrStdout(),
				Log: log, Version: Version(),
			}
			if cfg.HeadersOnly {
				return agent.RunDevice(cmd.Context(), opts, openDevice)
			}
			return agent.Run(cmd.Context(), opts)
		},
	}
	cmd.Flags().SortFlags = false // keep the order of the sections
	cfg = config.Define(cmd.Flags())
	return cmd
}

func newLog(out io.Writer, cfg *config.Config) *slog.Logger {
	var level slog.Level
	// The flag accepts only names that UnmarshalText accepts.
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}

func openProbe(cfg *config.Config, log *slog.Logger) (agent.Probe, error) {
	p, err := probe.Open(probeOptions(cfg, log))
	if err != nil {
		return nil, err // not p, which would be a non-nil interface
	}
	return p, nil
}

func openEncrypted(cfg *config.Config, log *slog.Logger) (agent.Encrypted, error) {
	e, err := probe.OpenEncrypted(probe.EncryptedOptions{
		Mode: cfg.Mode, Ports: cfg.MTLSPorts, MaxConnections: cmp.Or(cfg.MTLSConnections, cfg.MaxConnections), Turns: cfg.MTLSTurns,
		SocketCgroups: cfg.SocketCgroups, Cluster: cfg.Kubernetes, Drivers: cfg.Layers(), Log: log,
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

func openDevice(cfg *config.Config, log *slog.Logger) (agent.Device, error) {
	d, err := probe.OpenDevice(probeOptions(cfg, log))
	if err != nil {
		return nil, err
	}
	return d, nil
}

func probeOptions(cfg *config.Config, log *slog.Logger) probe.Options {
	return probe.Options{
		Mode:             cfg.Mode,
		Ports:            cfg.Ports,
		PrefixWindow:     cfg.PrefixWindow,
		Deep:             cfg.Deep,
		DeepWindow:       cfg.DeepWindow,
		DeepBudget:       cfg.DeepBudget,
		ContextHeaders:   cfg.ContextHeaders,
		ContextFormats:   cfg.ContextFormats,
		MaxConnections:   cfg.MaxConnections,
		RingBytes:        ringBytes(cfg, memoryMax),
		ReadInterval:     cfg.ReadInterval,
		IdleTimeout:      cfg.IdleTimeout,
		RequestTimeout:   cfg.RequestTimeout,
		OpenSpanAfter:    neverIfZero(cfg.OpenSpanAfter),
		HoldAfter:        holdAfter(cfg),
		TrustedPrefixes:  cfg.TrustedPrefixes,
		TCPOption:        cfg.TCPOption,
		TCPOptionCgroups: cfg.TCPOptionCgroups,
		TCPOptionPorts:   cfg.TCPOptionPorts,
		SocketCgroups:    cfg.SocketCgroups,
		Cluster:          cfg.Kubernetes,
		Drivers:          cfg.Layers(),
		AllRequests:      cfg.Watched,
		Log:              log,
	}
}

// holdAfter returns the age at which an open exchange makes the pipeline keep its trace:
// before the trace buffer's time for the others of the trace is over. Only layers need it.
func holdAfter(cfg *config.Config) time.Duration {
	if !cfg.Layers() {
		return 0
	}
	return cfg.IdleTimeout
}

// neverIfZero translates a setting of 0, which means never, for an option whose 0 means
// its default.
func neverIfZero(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// An agent shares its node with what it watches. It takes one CPU at a time: a second one
// would be woken for every batch and every garbage collection, with cold caches. Layers have
// work for two, as traces are split beside the reading.

// memoryMax is the limit of the container's memory (Linux, cgroup-v2.rst): a container sees
// its own cgroup at the root of the mount.
const memoryMax = "/sys/fs/cgroup/memory.max"

// heapPercent is the part of the container's memory that the heap may take. The rest is for
// the BPF maps, which count too, and for Go's own.
const heapPercent = 50

// layersGarbage is how much the heap grows between two collections with layers, in percent.
// Traces that wait make it large, and a collection cheap for its size: they have few pointers.
const layersGarbage = 50

// beModest limits the CPUs at a time and paces the garbage collection by a memory limit,
// unless the user set GOMAXPROCS, GOGC or GOMEMLIMIT.
func beModest(layers bool, memoryMax string) {
	if _, set := os.LookupEnv("GOMAXPROCS"); !set {
		most := 1
		if layers {
			most = 2
		}
		runtime.GOMAXPROCS(min(most, runtime.GOMAXPROCS(0)))
	}
	if _, set := os.LookupEnv("GOGC"); layers && !set {
		debug.SetGCPercent(layersGarbage)
	}
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return
	}
	if limit, limited := memoryLimit(memoryMax); limited {
		debug.SetMemoryLimit(limit / 100 * heapPercent)
	}
}

// memoryLimit returns the limit in bytes in a file like memoryMax, if there is one.
func memoryLimit(path string) (limit int64, limited bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false // cgroup v1, or not in a container
	}
	limit, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return limit, err == nil // else "max"
}

// The ring with layers: twice the records of a request, and a reader that shares its CPUs with
// the splitting of traces.
const (
	layersRing    = 8 << 20  // bytes, in a container without a limit
	maxLayersRing = 32 << 20 // bytes
	ringShare     = 32       // part of the container's memory: 8 of 256 MiB
)

// ringBytes returns the size of the ring, 0 for the default.
func ringBytes(cfg *config.Config, memoryMax string) int {
	if cfg.RingBytes != 0 || !cfg.Layers() {
		return cfg.RingBytes
	}
	limit, limited := memoryLimit(memoryMax)
	if !limited {
		return layersRing
	}
	size := probe.DefaultRingBytes
	for size < maxLayersRing && int64(size)*2*ringShare <= limit {
		size *= 2
	}
	return size
}
