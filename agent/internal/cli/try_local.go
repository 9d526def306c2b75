// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layertrace/layertrace/agent/internal/agent"
	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/doctor"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/watch"
	"github.com/layertrace/layertrace/internal/printable"
)

const tryLocalHelp = `With --local, watch this machine: one line for each HTTP/1 request that passes, with the
layer where most of its time went. Nothing has to be set up, and nothing is stored. It needs
root, and a kernel that layertrace doctor finds good.

In a terminal, space or p pauses and q ends. Marks in front of the layer:

  !  the end was not seen, or not all of it: times are not those of the whole
     request
  ?  something was guessed or is missing
  *  no sampled trace context: what the application calls counts as its own time

The lines at the end, on stderr, say what did not match, was not read, or was lost.`

const tryLocalExample = `  # watch the requests of this machine
  sudo layertrace try --local
  sudo layertrace try --local --status 5xx --min-duration 100ms
  sudo layertrace try --local --service nginx --path '/api/*' --output json`

// tryLocal are the flags of layertrace try --local.
type tryLocal struct {
	on       bool
	filter   watch.FilterOptions
	ports    []string
	output   string
	count    uint64
	duration time.Duration
	cpuLimit float64
}

const outputText, outputJSON = "text", "json"

// localCPULimit is the default of --cpu-limit: all requests of a busy machine are too many to
// look at.
const localCPULimit = 1.0

// localRingBytes is larger than an agent's: it takes bursts of all requests, not of the sampled
// ones.
const localRingBytes = 16 << 20

// define adds the flags.
func (l *tryLocal) define(part *pflag.FlagSet) {
	part.BoolVar(&l.on, "local", false, "watch this machine")
	part.StringArrayVar(&l.filter.Services, "service", nil, "show requests from or to this `SERVICE` only; * is any text (repeatable)")
	part.StringArrayVar(&l.filter.Paths, "path", nil, "show requests with this `PATH` only; * is any text (repeatable)")
	part.StringSliceVar(&l.filter.Statuses, "status", nil, "show responses with these `STATUS` codes only: 5xx, 404, >=400, 400-499, none (repeatable)")
	part.DurationVar(&l.filter.MinDuration, "min-duration", 0, "show requests that took at least this `TIME` only")
	part.StringSliceVar(&l.filter.Layers, "layer", nil, "show requests with most of their time in this `LAYER` only: application, protocol-stack, virtual-network, node-driver, relay-network, unknown (repeatable)")
	part.StringSliceVar(&l.ports, "ports", nil, "capture at these TCP `PORT`s only, of either end, which leaves all else out in the kernel (repeatable)")
	part.StringVar(&l.output, "output", outputText, "`FORM` of the lines: text or json")
	part.Uint64Var(&l.count, "count", 0, "end after `N` lines; 0: no end")
	part.DurationVar(&l.duration, "for", 0, "end after this `TIME`; 0: no end")
	part.Float64Var(&l.cpuLimit, "cpu-limit", localCPULimit, "leave work out, in steps, to take less than so many `CPUS`; 0: no limit")
}

// options returns the options of the view that the flags choose.
func (l *tryLocal) options() (o watch.Options, err error) {
	if o.Filter, err = watch.NewFilter(l.filter); err != nil {
		return o, err
	}
	if l.output != outputText && l.output != outputJSON {
		return o, fmt.Errorf("--output %q: use text or json", l.output)
	}
	if l.duration < 0 {
		return o, fmt.Errorf("--for %v: use a duration above 0, such as 30s", l.duration)
	}
	o.JSON, o.Count, o.For = l.output == outputJSON, l.count, l.duration
	return o, nil
}

// settings are those of the agent that captures: layers without an exporter, and short times,
// as someone waits for the lines.
func (l *tryLocal) settings() (*config.Config, error) {
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	cfg := config.Define(fs)
	err := fs.Parse([]string{
		"--spans=" + config.SpansLayers, "--export=none", "--metrics-address=", "--log-level=warn",
		"--idle-timeout=300ms", "--read-interval=100ms", fmt.Sprintf("--cpu-limit=%v", l.cpuLimit),
		fmt.Sprintf("--ring-bytes=%d", localRingBytes), "--ports=" + strings.Join(l.ports, ","),
	})
	if err == nil {
		err = config.Load(fs, cfg, nil)
	}
	if err != nil {
		return nil, err
	}
	cfg.Watched = true
	return cfg, nil
}

// run captures and shows requests.
func (l *tryLocal) run(cmd *cobra.Command) error {
	opts, err := l.options()
	if err != nil {
		return usage(err)
	}
	cfg, err := l.settings()
	if err != nil {
		return usage(err)
	}
	if err := doctor.Preflight(); err != nil {
		return fmt.Errorf("watch this machine: %w", err)
	}
	beModest(cfg.Layers(), memoryMax)
	opts.Out, opts.Err = cmd.OutOrStdout(), cmd.ErrOrStderr()
	log := newLog(printable.Writer{To: opts.Err}, cfg)
	claim, err := probe.Claim(log)
	if err != nil {
		return err
	}
	defer claim.Close()

	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	// Each of them would end the process at once, with the terminal as it is.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	defer signal.Stop(ended)
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	keys, err := useTerminal(&opts)
	if err != nil {
		return err
	}
	defer restore(keys, log)
	return watchAgent(ctx, opts, cfg, log, func() { restore(keys, log) })
}

// watchAgent runs an agent and a view of it until the view ends, or the agent fails. ending is
// called before the agent is stopped.
func watchAgent(ctx context.Context, opts watch.Options, cfg *config.Config, log *slog.Logger, ending func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts.Stop = func() { ending(); cancel() }
	view := watch.New(opts)
	captured := make(chan struct{})
	var failure error // of the agent, when captured is closed
	go func() {
		defer close(captured)
		failure = agent.Run(ctx, agent.Options{
			Config: cfg, OpenProbe: openProbe, Stdout: io.Discard, Log: log, Version: Version(),
			Watch: &agent.Watch{
				Trace:   func(t agent.Trace) { view.Trace(t.Tree, t.Cut, t.Again, t.Wall) },
				Metrics: view.Metrics,
			},
		})
	}()
	err := view.Run(ctx, captured)
	<-captured
	switch {
	case failure != nil:
		return failure
	case errors.Is(err, unix.EPIPE): // the reader of the lines has ended, such as head
		return nil
	case err != nil:
		return fmt.Errorf("write a line: %w", err)
	}
	return nil
}

// useTerminal sets what the view needs of the terminal, where there is one: its width, and
// keys. The result is nil where no keys can be read.
func useTerminal(opts *watch.Options) (*watch.Keys, error) {
	out, isFile := opts.Out.(*os.File)
	if !isFile || !term.IsTerminal(int(out.Fd())) {
		return nil, nil
	}
	opts.Header = true
	opts.Width = func() int {
		width, _, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return 80
		}
		return width
	}
	keys, err := watch.OpenKeys(os.Stdin)
	if keys != nil {
		opts.Keys = keys.Pressed
	}
	return keys, err
}

// restore restores the terminal.
func restore(keys *watch.Keys, log *slog.Logger) {
	if err := keys.Close(); err != nil {
		log.Warn("the terminal may behave strangely: the command reset helps", "error", err)
	}
}
