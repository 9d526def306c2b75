// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/internal/printable"
)

const tryClusterHelp = `Try layertrace in one namespace of a cluster: check, install agents, wait for a
traced request of the namespace, and print where its time went, layer by layer.

Only proxies of the namespace are changed: they sample more (--sampling), and where
the mesh encrypts they report sampled requests to the agents. No header is moved
unless you choose --reorder lua, and nothing is fetched but the agents' image. No
trace store is needed: the agents keep their spans, and try reads them through the
API server (permissions: those of install, and get pods/proxy).

try waits for requests of others. With --send it sends some itself: to a URL from
here, or to a service of the namespace through the API server (permission: get
services/proxy).

layertrace try --remove removes what try installed, and refuses to remove what
layertrace install did.

The exit code is 0 if the layers of a trace were printed, 3 if the namespace does not
exist or no traced request was seen in time, 1 if something failed, 2 for wrong flags.`

const tryClusterExample = `  # wait for a request of namespace shop
  layertrace try --namespace shop

  # send requests to a service, and remove everything afterwards
  layertrace try --namespace shop --send cart:8080/items
  layertrace try --remove`

// tryCluster are the flags of layertrace try in a cluster.
type tryCluster struct {
	cluster clusterFlags
	trial   install.Trial
	send    string
	timeout time.Duration
	html    string
	remove  bool
	yes     bool
}

// define adds the flags.
func (f *tryCluster) define(fs *pflag.FlagSet) {
	f.cluster.add(fs)
	fs.StringVar(&f.trial.Namespace, "namespace", "", "the `NAMESPACE` to try")
	fs.StringVar(&f.trial.IstioNamespace, "istio-namespace", install.DefaultIstioNamespace, "Istio's root `NAMESPACE`")
	fs.StringVar(&f.trial.Reorder, "reorder", install.TrialReorders[0], "reordering `METHOD`: none (agents search for contexts), or lua (a script in each sidecar; 3 MiB)")
	fs.StringVar(&f.trial.Image, "image", "", "`IMAGE` of the agents, NAME:TAG or NAME@sha256:DIGITS (default: "+install.DefaultImage()+")")
	fs.StringVar(&f.trial.TracingProvider, "tracing-provider", "", "`NAME` of the extension provider that traces the namespace (default: that of the mesh)")
	fs.Float64Var(&f.trial.Sampling, "sampling", 100, "`PERCENT` of the requests of the namespace's proxies to trace")
	fs.StringArrayVar(&f.trial.AgentSettings, "agent-setting", nil, "more settings of the agents, `NAME=VALUE` such as pnic=eth0 (repeatable)")
	fs.StringVar(&f.send, "send", "", "send a request every second, with a trace context of its own, to this `TARGET`: a URL, or SERVICE:PORT/PATH of the namespace")
	fs.DurationVar(&f.timeout, "timeout", 5*time.Minute, "wait this `TIME` for the agents and a trace")
	fs.StringVar(&f.html, "html", "", "also write a page to `FILE`")
	fs.BoolVar(&f.remove, "remove", false, "remove what try installed")
	fs.BoolVarP(&f.yes, "yes", "y", false, "do not ask for confirmation")
}

func (f *tryCluster) run(cmd *cobra.Command) error {
	if f.remove {
		for _, name := range []string{"namespace", "istio-namespace", "reorder", "image", "tracing-provider", "sampling", "agent-setting", "send", "html", "timeout"} {
			if cmd.Flags().Changed(name) {
				return usage(fmt.Errorf("--%s has no effect with --remove, which removes all that try installed: omit it", name))
			}
		}
	}
	target, err := parseTarget(f.send)
	f.trial.Sends = target != nil
	switch {
	case err != nil:
		return usage(err)
	case f.timeout <= 0:
		return usage(fmt.Errorf("--timeout is %v: choose a time above 0, such as 5m", f.timeout))
	case f.html == "-":
		return usage(errors.New("--html is -: name a file, as the report goes to standard output"))
	case f.remove:
	default:
		if err := f.trial.Check(); err != nil {
			return usage(err)
		}
	}
	c, err := f.cluster.connect()
	if err != nil {
		return err
	}
	if f.remove {
		ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
		defer cancel()
		if _, err := c.Trial(ctx); err != nil {
			return fmt.Errorf("nothing was removed: %w", err)
		}
		return runUninstall(ctx, cmd, c, f.yes)
	}
	return f.try(cmd, c, target)
}

// try installs, waits and reports.
func (f *tryCluster) try(cmd *cobra.Command, c *install.Cluster, target *target) error {
	out := printable.Writer{To: cmd.OutOrStdout()}
	began := time.Now()
	plan, err := f.install(cmd, c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), f.timeout, errTryTimeout)
	defer cancel()
	w := &tryWait{cluster: c, namespace: f.trial.Namespace, root: f.trial.IstioNamespace, target: target, say: (&changes{to: out}).say}
	err = w.agents(ctx)
	var seen *sight
	if err == nil {
		seen, err = w.trace(ctx)
	}
	if err != nil && cmd.Context().Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		// The trial stays, so that it can be looked at, and repeated.
		return fmt.Errorf("%w; layertrace status shows more, layertrace try --remove removes the trial", err)
	}
	fmt.Fprintln(out)
	report := output{stdout: cmd.OutOrStdout(), html: f.html}
	if err := report.reports([]*explain.Report{seen.report}); err != nil {
		return err
	}
	writeNext(out, plan.UI, seen, time.Since(began))
	return nil
}

// install checks and installs.
func (f *tryCluster) install(cmd *cobra.Command, c *install.Cluster) (*install.TrialPlan, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
	defer cancel()
	plan, err := c.PreflightTrial(ctx, f.trial)
	if errors.Is(err, install.ErrNoNamespace) {
		return nil, nothing{err}
	}
	if err != nil {
		return nil, err
	}
	_, err = installChecked(ctx, cmd, c, plan.Options, plan.Findings, f.yes)
	return plan, err
}

// writeNext says which trace it was, and what can be done now.
func writeNext(out io.Writer, ui *install.UI, seen *sight, took time.Duration) {
	id := seen.report.TraceID
	fmt.Fprintf(out, "\nThis is trace %s,\nseen at %s on %s: the best seen of %s.\nIt took %v to get here.\n",
		id, several(seen.points, "capture point"), several(seen.nodes, "node"), several(seen.traces, "trace"), took.Round(time.Second))
	if seen.dropped > 0 {
		fmt.Fprintf(out, "Dropped, as there were too many: %s. Traces may lack some.\n", several(seen.dropped, "span"))
	}
	switch {
	case ui != nil && seen.exported > 0:
		fmt.Fprintf(out, "\nThe same trace in the UI, and compared with others:\n  %s &\n  %s\n  layertrace explain --url http://localhost:%d %s\n",
			ui.Forward(), ui.URL(id), ui.Product, id)
	case ui != nil && seen.lost > 0:
		fmt.Fprintf(out, "\nThe trace store in %s has no spans of the agents: %s lost, as it is unreachable, slow or refuses them;\nsee layertrace status.\n",
			ui.Namespace, several(int(seen.lost), "span"))
	case ui != nil:
		fmt.Fprintf(out, "\nThe trace store in %s has no spans of the agents: they have sent none so far.\nSee layertrace status.\n", ui.Namespace)
	default:
		fmt.Fprint(out, "\nThe mesh has no trace store that takes the agents' spans. With one,\nlayertrace explain compares traces (docs/install.md).\n")
	}
	fmt.Fprint(out, "\nAnother trace: the same command again; --html FILE also writes a page.\nRemove everything: layertrace try --remove\n")
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// changes says lines that differ from the one before.
type changes struct {
	to   io.Writer
	last string
}

func (c *changes) say(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); line != c.last {
		c.last = line
		fmt.Fprintf(c.to, "%-9s %s\n", "waiting", line)
	}
}
