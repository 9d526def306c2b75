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

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/install"
)

// clusterFlags say which cluster is meant.
type clusterFlags struct{ kubeconfig, context string }

func (f *clusterFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: KUBECONFIG, else ~/.kube/config)")
	fs.StringVar(&f.context, "context", "", "`NAME` of the kubeconfig's context (default: the current one)")
}

func (f *clusterFlags) connect() (*install.Cluster, error) {
	return install.Connect(f.kubeconfig, f.context)
}

// namespaceFlags say where things are.
func namespaceFlags(fs *pflag.FlagSet, o *install.Options) {
	fs.StringVar(&o.Namespace, "namespace", install.DefaultNamespace, "`NAMESPACE` of the agents")
	fs.StringVar(&o.IstioNamespace, "istio-namespace", install.DefaultIstioNamespace, "Istio's root `NAMESPACE`")
}

// requestTimeout bounds a command that talks to a cluster.
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
		Short: "Install the agents and the reordering of headers into a cluster with Istio",
		Long: `Install the agents and the reordering of headers into a cluster with Istio.

The cluster is looked at first, and nothing is changed where layertrace could
not work. Everything is applied by server-side apply as field manager
"layertrace"; when a step fails, what was done is undone. Installing again
changes what is different, and nothing when nothing is.

Ways to put the trace context in front (--reorder):
  wasmplugin                 the Wasm filter, fetched by a WasmPlugin and run as
                             an upstream HTTP filter of the proxies' routers
  wasmplugin-inline-headers  the Wasm filter in the connection manager; pods need
                             the annotation that docs/install.md tells, and a restart
  envoyfilter                the Wasm filter as an upstream HTTP filter, without a
                             WasmPlugin
  lua                        a Lua script as an upstream HTTP filter: nothing to fetch
  patched                    a patched Envoy in the proxy's image
  none                       the order stays as it is`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			if dryRun {
				objects, err := install.Render(o)
				if err != nil {
					return err
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
	fs.StringVar(&o.Reorder, "reorder", install.Reorders[0], "how the trace context comes to the front: "+strings.Join(install.Reorders, ", "))
	fs.StringVar(&o.TracingProvider, "tracing-provider", "", "extension provider of the mesh configuration that traces the whole mesh (default: tracing is left as it is)")
	fs.Float64Var(&o.Sampling, "sampling", 1, "`PERCENT` of requests that are traced, with --tracing-provider")
	fs.StringVar(&o.OTLPEndpoint, "otlp-endpoint", "jaeger-collector.istio-system.svc:4317", "`HOST:PORT` that takes the agents' spans (OTLP, gRPC)")
	fs.BoolVar(&o.OTLPInsecure, "otlp-insecure", true, "speak to it without TLS")
	fs.StringVar(&o.Spans, "spans", config.SpansInterfaces, "what the agents tell: interfaces, or layers, for which sockets are watched as well")
	fs.StringArrayVar(&o.AgentSettings, "agent-setting", nil, "further `NAME=VALUE` of the agents' settings, such as pnic=eth0 (repeatable)")
	fs.StringVar(&o.Image, "image", "", "the agents' image (default: layertrace/agent:devel)")
	fs.StringVar(&o.WasmURL, "wasm-url", "", "the Wasm filter: oci://, https:// or http:// `URL`")
	fs.StringVar(&o.WasmSHA256, "wasm-sha256", "", "SHA-256 in `HEX`: of the module, or with oci:// of the image's manifest (make wasm prints it)")
	fs.StringVar(&o.WasmPullSecret, "wasm-pull-secret", "", "`NAME` of a Secret in Istio's root namespace that gives access to the registry")
	fs.StringVar(&o.Tracer, "tracer", install.Tracers[0], "the proxies' tracer, for wasmplugin-inline-headers: "+strings.Join(install.Tracers, ", "))
	fs.StringSliceVar(&o.AppNamespaces, "app-namespace", nil, "`NAMESPACE` with sidecars, for wasmplugin-inline-headers (repeatable; default: default)")
	fs.StringVar(&o.ProxyImage, "proxy-image", "", "the patched proxy's image, for patched")
	fs.BoolVar(&dryRun, "dry-run", false, "print the YAML and do nothing; needs no cluster")
	fs.StringVar(&o.IstioVersion, "istio-version", "", "`VERSION` of Istio where the cluster does not tell it, and for --dry-run (default: the newest known)")
	fs.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func runInstall(ctx context.Context, cmd *cobra.Command, c *install.Cluster, o install.Options, yes bool) error {
	out := cmd.OutOrStdout()
	findings, err := c.Preflight(ctx, &o)
	if err != nil {
		return err
	}
	for _, f := range findings {
		fmt.Fprintf(out, "%-9s %-17s %s\n", f.Level, f.Check, f.Text)
	}
	if err := install.Refused(findings); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	objects, err := install.Render(o)
	if err != nil {
		return err
	}
	if err := c.AwaitRemoval(ctx, objects, waiting(out)); err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if err := c.DryRun(ctx, objects); err != nil {
		return fmt.Errorf("nothing was changed: the API server would refuse %w", err)
	}
	if err := confirm(cmd, yes, fmt.Sprintf("Install %d objects into %s (--reorder %s)?", len(objects), c.Name, o.Reorder)); err != nil {
		return err
	}
	count := map[install.Action]int{}
	err = c.Apply(ctx, objects, func(change install.Change) {
		count[change.Action]++
		fmt.Fprintf(out, "%-9s %s\n", change.Action, change.Object)
	})
	if err != nil {
		return err
	}
	if count[install.Created]+count[install.Changed]+count[install.Deleted] == 0 {
		fmt.Fprintln(out, "Nothing to change: all is there as it should be.")
		return nil
	}
	fmt.Fprintf(out, "Installed: %d created, %d changed, %d deleted, %d unchanged. See layertrace status.\n",
		count[install.Created], count[install.Changed], count[install.Deleted], count[install.Unchanged])
	return nil
}

// waiting tells what is waited for.
func waiting(out io.Writer) func(string) {
	return func(object string) { fmt.Fprintf(out, "waiting   until %s is gone\n", object) }
}

// confirm asks, unless told not to. An empty or closed input means no.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	if yes {
		return nil
	}
	fmt.Fprint(cmd.OutOrStdout(), question+" [y/N] ")
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w; --yes does not ask", err)
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return errors.New("nothing was changed: the answer was not yes (--yes does not ask)")
	}
	return nil
}
