// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// method is one of the methods of install to move the trace headers to the start.
type method struct {
	// reorder is the value of --reorder.
	reorder string
	// module is set for a method that fetches a module.
	module bool
	// flags are further flags of install.
	flags []string
	// without is the order of trace headers when nothing reorders them.
	without orders
}

// methods are those with a filter after the tracer.
var methods = []method{
	{reorder: "wasmplugin", module: true, without: stock},
	{reorder: "envoyfilter", module: true, without: stock},
	{reorder: "lua", without: stock},
}

func (m method) steps() []step {
	all := []step{
		{m.reorder + ": istioctl finds no error in the manifests", false, m.validates},
		{m.reorder + ": refused next to another EnvoyFilter with upstream filters", false, m.refusesBesideForeign},
	}
	if m.module {
		all = append(all, step{m.reorder + ": installed under load while the module is unavailable, stock order", false, m.withoutModule})
	}
	all = append(all, step{m.reorder + ": installed under load, trace headers leading", false, m.installed})
	if m.module {
		all = append(all,
			step{m.reorder + ": module updated under load", false, m.updated},
			step{m.reorder + ": module server unavailable, the previous module stays", false, m.serverAway},
			step{m.reorder + ": module server sends garbage, the previous module stays", false, m.garbage})
	}
	return append(all, step{m.reorder + ": uninstalled under load, stock order again", false, m.uninstalled})
}

// name returns the name of a module of this method alone: pilot-agent would have
// another method's in its cache.
func (m method) name(kind string) string { return m.reorder + "-" + kind + ".wasm" }

// args returns the arguments of layertrace to install with a kind of module.
func (m method) args(c *chain, kind string) []string {
	args := append([]string{"install", "--reorder=" + m.reorder}, m.flags...)
	if m.module {
		args = append(args, "--wasm-url="+c.modules.URL(m.name(kind)))
	}
	return args
}

func (m method) install(ctx context.Context, c *chain, kind string) error {
	_, err := c.layertrace(ctx, append(m.args(c, kind), "--yes")...)
	return err
}

func (m method) installed(ctx context.Context, c *chain) error {
	if m.module {
		if _, err := c.putVariant(m.name("first")); err != nil {
			return err
		}
	}
	err := c.underLoad(ctx, func(ctx context.Context) error {
		if err := m.install(ctx, c, "first"); err != nil {
			return err
		}
		return c.awaitOrder(ctx, bothLeading)
	})
	if err != nil {
		return err
	}
	return c.orderHolds(ctx, bothLeading)
}

// updated changes the module's URL and waits for the new module in Envoy.
func (m method) updated(ctx context.Context, c *chain) error {
	sum, err := c.putVariant(m.name("second"))
	if err != nil {
		return err
	}
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := m.install(ctx, c, "second"); err != nil {
			return err
		}
		if err := c.awaitModule(ctx, sum); err != nil {
			return err
		}
		// Envoy reports the module a moment before its worker runs it.
		if err := c.awaitOrder(ctx, bothLeading); err != nil {
			return err
		}
		return c.orderHolds(ctx, bothLeading)
	})
}

// withoutModule installs a module for which the server hangs up: Envoy runs the
// default configuration of the extension.
func (m method) withoutModule(ctx context.Context, c *chain) error {
	c.modules.Handle(m.name("none"), hangUp)
	return m.bad(ctx, c, "none", m.without)
}

// serverAway changes to a module for which the server hangs up.
func (m method) serverAway(ctx context.Context, c *chain) error {
	c.modules.Handle(m.name("away"), hangUp)
	return m.bad(ctx, c, "away", bothLeading)
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// garbage changes to a module that is not Wasm.
func (m method) garbage(ctx context.Context, c *chain) error {
	c.modules.Put(m.name("garbage"), []byte("<html>It works!</html>"))
	return m.bad(ctx, c, "garbage", bothLeading)
}

// bad installs an unavailable module under load. pilot-agent gives up fetching it and
// sends a filter of another kind in its place, which Envoy rejects: requests must
// keep their order after that.
func (m method) bad(ctx context.Context, c *chain, kind string, want orders) error {
	before, err := c.rejectedExtensions(ctx)
	if err != nil {
		return err
	}
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := m.install(ctx, c, kind); err != nil {
			return err
		}
		err := sandbox.Await(ctx, "the rejection of "+m.name(kind), configLimit, 100*time.Millisecond, func(ctx context.Context) error {
			now, err := c.rejectedExtensions(ctx)
			if err == nil && !now.since(before) {
				err = fmt.Errorf("extensions rejected: %v, as before; the module was requested %d times",
					now, c.modules.Requests(m.name(kind)))
			}
			return err
		})
		if err != nil {
			return err
		}
		return c.orderHolds(ctx, want)
	})
}

func (m method) uninstalled(ctx context.Context, c *chain) error {
	err := c.underLoad(ctx, func(ctx context.Context) error {
		if err := c.uninstall(ctx); err != nil {
			return err
		}
		return c.awaitOrder(ctx, m.without)
	})
	if err != nil {
		return err
	}
	return errors.Join(c.orderHolds(ctx, m.without), c.awaitGone(ctx))
}

// inlineMethod is the method in the connection manager. It works in pods that were
// started with the bootstrap that install adds to their namespace, such as the pod of
// the steps after `restarted`.
var inlineMethod = method{
	reorder: "wasmplugin-inline-headers", module: true,
	flags: []string{"--tracer=opentelemetry", "--app-namespace=" + cluster.AppNamespace},
	// With inline headers and without a filter, the tracer writes the context
	// where the client's was, or last.
	without: orders{last, scattered},
}

func (m method) inlineSteps() []step {
	return []step{
		{m.reorder + ": istioctl finds no error in the manifests", false, m.validates},
		{m.reorder + ": installed under load, pods without the bootstrap keep working", false, m.installedBeside},
		{m.reorder + ": pod with the bootstrap, trace headers leading", false, m.restarted},
		{m.reorder + ": module updated under load", false, m.updated},
		{m.reorder + ": module server sends garbage, no request fails", false, m.lost},
		{m.reorder + ": good module again", false, m.installed},
		{m.reorder + ": uninstalled under load, Envoy's own order again", false, m.uninstalled},
	}
}

// installedBeside installs while a pod without the bootstrap runs.
func (m method) installedBeside(ctx context.Context, c *chain) error {
	sum, err := c.putVariant(m.name("first"))
	if err != nil {
		return err
	}
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := m.install(ctx, c, "first"); err != nil {
			return err
		}
		return c.awaitModule(ctx, sum)
	})
}

// restarted adds a pod as with the annotation sidecar.istio.io/bootstrapOverride: the
// ConfigMap's file is merged into Envoy's bootstrap.
func (m method) restarted(ctx context.Context, c *chain) error {
	const name = "layertrace-bootstrap"
	bootstrap, err := c.cluster.Client.CoreV1().ConfigMaps(cluster.AppNamespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the bootstrap: %w", err)
	}
	c.client, err = c.mesh.AddPod(ctx, cluster.PodSpec{
		Name: "inline", IP: inlineIP, Sidecar: true, BootstrapOverride: bootstrap.Data["custom_bootstrap.json"],
	})
	if err != nil {
		return err
	}
	if err := c.awaitOrder(ctx, bothLeading); err != nil {
		return err
	}
	return c.underLoad(ctx, func(ctx context.Context) error { return c.orderHolds(ctx, bothLeading) })
}

// lost changes to a module that is not Wasm. In the connection manager Envoy accepts
// what pilot-agent sends in its place, a filter that does nothing.
func (m method) lost(ctx context.Context, c *chain) error {
	c.modules.Put(m.name("garbage"), []byte("<html>It works!</html>"))
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := m.install(ctx, c, "garbage"); err != nil {
			return err
		}
		return c.awaitOrder(ctx, m.without)
	})
}

//go:embed foreign.yaml
var foreignManifest []byte

// foreignName is the name of the EnvoyFilter in foreign.yaml.
const foreignName = "demo/someone-elses"

// refusesBesideForeign: next to another EnvoyFilter that sets the router's upstream
// filters, Envoy would reject its listeners. Install reports that, names the filter,
// and changes nothing.
func (m method) refusesBesideForeign(ctx context.Context, c *chain) (err error) {
	if err := c.cluster.Apply(ctx, foreignManifest); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.cluster.Delete(ctx, foreignManifest), c.awaitOrder(ctx, stock))
	}()
	// Its header comes after the tracer's.
	withForeign := orders{scattered, scattered}
	if err := c.awaitOrder(ctx, withForeign); err != nil {
		return err
	}
	return c.underLoad(ctx, func(ctx context.Context) error {
		out, err := c.layertrace(ctx, append(m.args(c, "first"), "--yes")...)
		if err == nil {
			return errors.New("install does not fail")
		}
		if !strings.Contains(out, foreignName) {
			return fmt.Errorf("install does not name %s: %w", foreignName, err)
		}
		return c.orderHolds(ctx, withForeign)
	})
}

// validates runs istioctl on the manifests that install would apply.
func (m method) validates(ctx context.Context, c *chain) error {
	manifest, err := c.layertrace(ctx, append(m.args(c, "first"), "--dry-run")...)
	if err != nil {
		return err
	}
	dir, err := c.cluster.Dir("manifests")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, m.reorder+".yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		return err
	}
	return c.checkManifest(ctx, file)
}

// checkManifest lets istioctl check a file.
func (c *chain) checkManifest(ctx context.Context, file string) error {
	return errors.Join(
		c.istioctl(ctx, "validate", "-f", file),
		// IST0133 warns of every EnvoyFilter.
		c.istioctl(ctx, "analyze", "--use-kube=false", "--all-namespaces", "--failure-threshold=Warning",
			"--suppress=IST0133=EnvoyFilter istio-system/layertrace", "--suppress=IST0133=EnvoyFilter istio-system/layertrace-mtls", file))
}

// istioctl runs istioctl. An unknown field, of which istioctl only warns inside a
// typed_config, is an error as well.
func (c *chain) istioctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, c.options.Tools.Mesh.Istioctl, args...).CombinedOutput()
	if err == nil && strings.Contains(string(out), "unknown field") {
		err = errors.New("warning about an unknown field")
	}
	if err != nil {
		return fmt.Errorf("istioctl %v: %w\n%s", args, err, out)
	}
	return nil
}

// putVariant serves the filter with its name in a custom section, which makes it a
// module of its own, and returns its SHA-256 in hex.
func (c *chain) putVariant(name string) (string, error) {
	return c.putModule(name, c.options.Tools.Wasm)
}

// putModule does the same with the module of a file.
func (c *chain) putModule(name, file string) (string, error) {
	wasm, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the filter: %w", err)
	}
	// A custom section: ID 0, length, length of the name, name (WebAssembly
	// core specification, 5.5.3); lengths below 128 are one byte.
	section := append([]byte{0, byte(len(name) + 1), byte(len(name))}, name...)
	wasm = append(wasm, section...)
	c.modules.Put(name, wasm)
	sum := sha256.Sum256(wasm)
	return hex.EncodeToString(sum[:]), nil
}

// moduleFile is how pilot-agent names the file of a module.
var moduleFile = regexp.MustCompile(`[0-9a-f]{64}\.wasm`)

// awaitModule waits until Envoy runs the module. pilot-agent's file for it is named
// by its SHA-256.
func (c *chain) awaitModule(ctx context.Context, sum string) error {
	return sandbox.Await(ctx, "module "+sum, configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		// The first has filters of one kind only: a proxy that ever had some in the connection
		// manager does not show upstream filters there.
		var found []string
		for _, query := range []string{"?resource=ecds_filters", ""} {
			dump, err := sandbox.Get(ctx, c.client.HTTP, envoyAdmin+"/config_dump"+query)
			if err != nil {
				return err
			}
			if strings.Contains(string(dump), sum) {
				return nil
			}
			found = append(found, moduleFile.FindAllString(string(dump), -1)...)
		}
		return fmt.Errorf("not among Envoy's extensions, which have %v", found)
	})
}

// envoyAdmin is the admin interface of the sidecar's Envoy, in its pod.
const envoyAdmin = "http://127.0.0.1:15000"

// rejections is how often Envoy rejected the configuration of each extension, by the names of
// its counters.
type rejections map[string]int

// since reports whether there are more than before. Envoy removes a counter with the last
// listener that had its extension, and begins anew: before forgets what is gone.
func (r rejections) since(before rejections) bool {
	for name, n := range before {
		before[name] = min(n, r[name])
	}
	for name, n := range r {
		if n > before[name] {
			return true
		}
	}
	return false
}

// rejectedExtensions asks the client's proxy.
func (c *chain) rejectedExtensions(ctx context.Context) (rejections, error) {
	text, err := sandbox.Get(ctx, c.client.HTTP, envoyAdmin+"/stats?format=json&filter=extension_config_discovery.*update_rejected")
	if err != nil {
		return nil, err
	}
	var all struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read Envoy's counters: %w", err)
	}
	counted := rejections{}
	for _, counter := range all.Stats {
		counted[counter.Name] = counter.Value
	}
	return counted, nil
}
