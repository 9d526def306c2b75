// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/printable"
	"github.com/layertrace/layertrace/internal/screen"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/install"
)

// clusterFlags select a cluster.
type clusterFlags struct{ kubeconfig, context string }

func (f *clusterFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: $KUBECONFIG, else ~/.kube/config)")
	fs.StringVar(&f.context, "context", "", "`NAME` of the kubeconfig's context (default: the current one)")
}

func (f *clusterFlags) connect() (*install.Cluster, error) {
	return install.Connect(f.kubeconfig, f.context)
}

// namespaceFlags select the namespaces of the agents and of Istio.
func namespaceFlags(fs *pflag.FlagSet, o *install.Options) {
	fs.StringVar(&o.Namespace, "namespace", install.DefaultNamespace, "`NAMESPACE` of the agents")
	fs.StringVar(&o.IstioNamespace, "istio-namespace", install.DefaultIstioNamespace, "Istio's root `NAMESPACE`")
}

// requestTimeout limits the time of a command that uses a cluster.
const requestTimeout = 2 * time.Minute

func newInstall() *cobra.Command {
	var (
		o       install.Options
		cluster clusterFlags
		dryRun  bool
		yes     bool
	)
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install agents and header reordering into a cluster with Istio",
		Long: `Install agents and header reordering into a cluster with Istio.

Preflight checks come first: where layertrace cannot work, nothing is changed.
Objects are applied server-side with the field manager "layertrace". If a step
fails, the changes before it are rolled back. A repeated installation changes only
what differs.

Methods to move the trace context to the start of the headers (--reorder), and what
they take in each sidecar (the Wasm filter as compact module: 19 MiB):
  wasmplugin                 the Wasm filter, fetched by a WasmPlugin and run as
                             an upstream HTTP filter of the router; 73 MiB
  wasmplugin-inline-headers  the Wasm filter in the connection manager; pods
                             need an annotation and a restart; 75 MiB
  envoyfilter                the Wasm filter as an upstream HTTP filter, without
                             a WasmPlugin; 73 MiB
  lua                        a Lua script as an upstream HTTP filter; nothing to
                             fetch; 3 MiB
  patched                    a proxy image with a patched Envoy
  none                       no reordering: the agents search further. A good
                             first step: layertrace status then says what
                             reordering would save

To try it small: --namespace-selector, --workload-selector and --revision leave all
other proxies as they are. Agents run on each node, but report only requests of the
selected namespaces.`,
		Example: `  # one namespace, nothing to fetch
  layertrace install --reorder lua \
      --namespace-selector kubernetes.io/metadata.name=shop

  # the canary control plane of the whole mesh
  layertrace install --reorder lua --revision canary

  # the objects, for a repository
  layertrace install --reorder lua --monitoring --dry-run`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return usage(err)
			}
			if dryRun {
				objects, err := install.Render(o)
				if err != nil {
					return usage(err)
				}
				return install.Write(cmd.OutOrStdout(), objects)
			}
			c, err := cluster.connect()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), requestTimeout)
			defer cancel()
			return runInstall(ctx, cmd, c, o, yes)
		},
	}
	fs := cmd.Flags()
	cluster.add(fs)
	namespaceFlags(fs, &o)
	fs.StringVar(&o.Reorder, "reorder", install.Reorders[0], "reordering `METHOD`: "+strings.Join(install.Reorders, ", "))
	fs.StringVar(&o.MTLS, "mtls", install.MTLSModes[0], "spans of encrypted hops, by records that the proxies send: `MODE` auto (if the mesh encrypts; with --dry-run: on), on or off")
	fs.StringVar(&o.MTLSLog, "mtls-log", install.MTLSLogs[0], "how to make the proxies send records: `METHOD` envoyfilter, or telemetry (no EnvoyFilter; less exact, and the mesh configuration needs two providers)")
	fs.StringVar(&o.TracingProvider, "tracing-provider", "", "`NAME` of the extension provider that traces the whole mesh (default: keep the tracing configuration)")
	fs.Float64Var(&o.Sampling, "sampling", 1, "`PERCENT` of requests to trace, with --tracing-provider")
	fs.StringVar(&o.OTLPEndpoint, "otlp-endpoint", "jaeger-collector.istio-system.svc:4317", "`HOST:PORT` of the OTLP/gRPC receiver of the agents' spans")
	fs.BoolVar(&o.OTLPInsecure, "otlp-insecure", true, "use OTLP without TLS; --otlp-insecure=false: with TLS")
	fs.StringVar(&o.Spans, "spans", config.SpansInterfaces, "`KIND` of the agents' spans: interfaces, or layers (captures at sockets too)")
	fs.StringArrayVar(&o.AgentSettings, "agent-setting", nil, "more settings of the agents, `NAME=VALUE` such as pnic=eth0 (repeatable)")
	fs.StringVar(&o.Image, "image", "", "`IMAGE` of the agents, NAME:TAG or NAME@sha256:DIGITS (default: "+install.DefaultImage()+")")
	fs.StringVar(&o.WasmURL, "wasm-url", "", "`URL` of the Wasm filter: oci://, https:// or http://")
	fs.StringVar(&o.WasmSHA256, "wasm-sha256", "", "SHA-256 of the module in `HEX`, with oci:// of the image manifest (printed by make wasm)")
	fs.StringVar(&o.WasmPullSecret, "wasm-pull-secret", "", "`NAME` of the registry's pull secret in the WasmPlugin's namespace: Istio's root namespace, or each selected one")
	fs.StringVar(&o.Tracer, "tracer", install.Tracers[0], "`TRACER` of the proxies, for wasmplugin-inline-headers: "+strings.Join(install.Tracers, ", "))
	fs.StringSliceVar(&o.AppNamespaces, "app-namespace", nil, "`NAMESPACE` with sidecars, for wasmplugin-inline-headers (repeatable; default: the selected namespaces, else default)")
	fs.StringVar(&o.ProxyImage, "proxy-image", "", "`IMAGE` of the patched proxy, for patched")
	fs.StringVar(&o.NamespaceSelector, "namespace-selector", "", "change only proxies in the namespaces with these `LABELS`, such as team=web, and report only their requests")
	fs.StringVar(&o.WorkloadSelector, "workload-selector", "", "change only proxies of pods with these `LABELS`, KEY=VALUE,...")
	fs.StringVar(&o.Revision, "revision", "", "change only proxies of the control plane with this `REVISION`")
	fs.BoolVar(&o.Monitoring, "monitoring", false, "also install alert rules for the Prometheus operator, and a dashboard for Grafana's sidecar")
	fs.BoolVar(&dryRun, "dry-run", false, "print the YAML, without using a cluster")
	fs.StringVar(&o.IstioVersion, "istio-version", "", "`VERSION` of Istio if the cluster does not report it, and for --dry-run (default: the newest known)")
	fs.BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	return cmd
}

func runInstall(ctx context.Context, cmd *cobra.Command, c *install.Cluster, o install.Options, yes bool) error {
	out := printable.Writer{To: cmd.OutOrStdout()}
	findings, err := c.Preflight(ctx, &o)
	if err != nil {
		return err
	}
	count, err := installChecked(ctx, cmd, c, o, findings, yes)
	if err != nil {
		return err
	}
	if count[install.Created]+count[install.Changed]+count[install.Deleted] == 0 {
		fmt.Fprintln(out, "Nothing to change: the installation is up to date.")
		return nil
	}
	fmt.Fprintf(out, "Installed: %d created, %d changed, %d deleted, %d unchanged. See layertrace status.\n",
		count[install.Created], count[install.Changed], count[install.Deleted], count[install.Unchanged])
	if o.Reorder == install.ReorderNone {
		fmt.Fprintln(out, "No header is moved: after some traffic, layertrace status says what reordering would save.")
	}
	return nil
}

// installChecked reports the findings of the checks, and installs unless one is a refusal or the
// user says no. It returns how many objects were created, changed and so on.
func installChecked(ctx context.Context, cmd *cobra.Command, c *install.Cluster, o install.Options, findings []install.Finding, yes bool) (map[install.Action]int, error) {
	out := printable.Writer{To: cmd.OutOrStdout()}
	for _, f := range findings {
		fmt.Fprint(out, f.Line(screen.Width(cmd.OutOrStdout())))
	}
	if err := install.Refused(findings); err != nil {
		return nil, fmt.Errorf("nothing was changed: %w", err)
	}
	objects, err := install.Render(o)
	if err != nil {
		return nil, err
	}
	if err := c.AwaitRemoval(ctx, objects, reportWait(out)); err != nil {
		return nil, fmt.Errorf("nothing was changed: %w", err)
	}
	if err := c.DryRun(ctx, objects); err != nil {
		return nil, fmt.Errorf("nothing was changed: dry run on the API server: %w", err)
	}
	if err := confirm(cmd, yes, fmt.Sprintf("Install %d objects into %s (--reorder %s)?", len(objects), c.Name, o.Reorder)); err != nil {
		return nil, err
	}
	count := map[install.Action]int{}
	return count, c.Apply(ctx, objects, func(change install.Change) {
		count[change.Action]++
		fmt.Fprintf(out, "%-9s %s\n", change.Action, change.Object)
	})
}

// reportWait returns a function that reports that an object is being deleted.
func reportWait(out io.Writer) func(string) {
	return func(object string) { fmt.Fprintf(out, "waiting   for the deletion of %s\n", object) }
}

// confirm asks for confirmation unless yes is set. Empty or closed input means no.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	fmt.Fprint(cmd.OutOrStdout(), question+" [y/N] ")
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w; --yes skips the question", err)
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return errors.New("nothing was changed: the answer was not yes (--yes skips the question)")
	}
	return nil
}
