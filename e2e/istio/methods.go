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
	"strings"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// way is one of the ways in which install puts the trace headers in front.
type method struct {
	// reorder is the value of --reorder.
	reorder string
	// module says that a module is fetched.
	module bool
	// flags are further ones of install.
	flags []string
	// without is how trace headers stand when nothing reorders them.
	without orders
}

// ways are those that run a filter behind the tracer.
var methods = []method{
	{reorder: "wasmplugin", module: true, without: stock},
	{reorder: "envoyfilter", module: true, without: stock},
	{reorder: "lua", without: stock},
}

func (w method) steps() []step {
	all := []step{
		{w.reorder + ": istioctl finds nothing wrong in the manifests", false, w.validates},
		{w.reorder + ": refused beside another EnvoyFilter with upstream filters", false, w.refusesBesideForeign},
	}
	if w.module {
		all = append(all, step{w.reorder + ": installed under load without a module to be had, stock order", false, w.withoutModule})
	}
	all = append(all, step{w.reorder + ": installed under load, trace headers in front", false, w.installed})
	if w.module {
		all = append(all,
			step{w.reorder + ": module updated under load", false, w.updated},
			step{w.reorder + ": module server away, the module before stays", false, w.serverAway},
			step{w.reorder + ": module server sends garbage, the module before stays", false, w.garbage})
	}
	return append(all, step{w.reorder + ": uninstalled under load, stock order again", false, w.uninstalled})
}

// name is a module's name of this way alone: the agent would have another
// way's in its cache.
func (w method) name(kind string) string { return w.reorder + "-" + kind + ".wasm" }

// args are layertrace's for installing with a kind of module.
func (w method) args(r *chain, kind string) []string {
	args := append([]string{"install", "--reorder=" + w.reorder}, w.flags...)
	if w.module {
		args = append(args, "--wasm-url="+r.modules.URL(w.name(kind)))
	}
	return args
}

func (w method) install(ctx context.Context, r *chain, kind string) error {
	_, err := r.layertrace(ctx, append(w.args(r, kind), "--yes")...)
	return err
}

func (w method) installed(ctx context.Context, r *chain) error {
	if w.module {
		if _, err := r.putVariant(w.name("first")); err != nil {
			return err
		}
	}
	err := r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "first"); err != nil {
			return err
		}
		return r.awaitOrder(ctx, bothLeading)
	})
	if err != nil {
		return err
	}
	return r.orderHolds(ctx, bothLeading)
}

// updated changes the module's URL and awaits the new one in Envoy.
func (w method) updated(ctx context.Context, r *chain) error {
	sum, err := r.putVariant(w.name("second"))
	if err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "second"); err != nil {
			return err
		}
		if err := r.awaitModule(ctx, sum); err != nil {
			return err
		}
		// Envoy tells of the module a moment before its worker runs it.
		if err := r.awaitOrder(ctx, bothLeading); err != nil {
			return err
		}
		return r.orderHolds(ctx, bothLeading)
	})
}

// withoutModule installs a module for which the server hangs up: Envoy runs
// the default that stands beside the module's name.
func (w method) withoutModule(ctx context.Context, r *chain) error {
	r.modules.Handle(w.name("none"), hangUp)
	return w.bad(ctx, r, "none", w.without)
}

// serverAway changes to a module for which the server hangs up.
func (w method) serverAway(ctx context.Context, r *chain) error {
	r.modules.Handle(w.name("away"), hangUp)
	return w.bad(ctx, r, "away", bothLeading)
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// garbage changes to a module that is none.
func (w method) garbage(ctx context.Context, r *chain) error {
	r.modules.Put(w.name("garbage"), []byte("<html>It works!</html>"))
	return w.bad(ctx, r, "garbage", bothLeading)
}

// bad installs a module that cannot be had, under load. The agent gives up
// fetching and sends a filter of another kind in its place, which Envoy
// refuses: after that requests have to go as before.
func (w method) bad(ctx context.Context, r *chain, kind string, want orders) error {
	before, err := r.refusedExtensions(ctx)
	if err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, kind); err != nil {
			return err
		}
		err := sandbox.Await(ctx, "refusal of "+w.name(kind), configLimit, 100*time.Millisecond, func(ctx context.Context) error {
			now, err := r.refusedExtensions(ctx)
			if err == nil && now <= before {
				err = fmt.Errorf("%d extensions were refused, as before; the module was asked for %d times",
					now, r.modules.Requests(w.name(kind)))
			}
			return err
		})
		if err != nil {
			return err
		}
		return r.orderHolds(ctx, want)
	})
}

func (w method) uninstalled(ctx context.Context, r *chain) error {
	err := r.underLoad(ctx, func(ctx context.Context) error {
		if err := r.uninstall(ctx); err != nil {
			return err
		}
		return r.awaitOrder(ctx, w.without)
	})
	if err != nil {
		return err
	}
	return errors.Join(r.orderHolds(ctx, w.without), r.awaitGone(ctx))
}

// inline is the way in the connection manager. It works in pods that were
// started with the bootstrap that install adds to their namespace; the steps
// behind `restarted` look at such a pod.
var inlineMethod = method{
	reorder: "wasmplugin-inline-headers", module: true,
	flags: []string{"--tracer=opentelemetry", "--app-namespace=" + cluster.AppNamespace},
	// With the headers inline but no filter: the tracer writes the context
	// where the client put it, and otherwise last.
	without: orders{last, scattered},
}

func (w method) inlineSteps() []step {
	return []step{
		{w.reorder + ": istioctl finds nothing wrong in the manifests", false, w.validates},
		{w.reorder + ": installed under load, pods without the bootstrap go on", false, w.installedBeside},
		{w.reorder + ": pod with the bootstrap, trace headers in front", false, w.restarted},
		{w.reorder + ": module updated under load", false, w.updated},
		{w.reorder + ": module server sends garbage, no request fails", false, w.lost},
		{w.reorder + ": good module again", false, w.installed},
		{w.reorder + ": uninstalled under load, Envoy's own order again", false, w.uninstalled},
	}
}

// installedBeside installs while a pod runs that knows nothing of it.
func (w method) installedBeside(ctx context.Context, r *chain) error {
	sum, err := r.putVariant(w.name("first"))
	if err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "first"); err != nil {
			return err
		}
		return r.awaitModule(ctx, sum)
	})
}

// restarted makes a pod with the annotation sidecar.istio.io/bootstrapOverride,
// as the injector would: the ConfigMap's file is Envoy's.
func (w method) restarted(ctx context.Context, r *chain) error {
	const name = "layertrace-bootstrap"
	bootstrap, err := r.cluster.Client.CoreV1().ConfigMaps(cluster.AppNamespace).Get(ctx, name, meta.GetOptions{})
	if err != nil {
		return fmt.Errorf("get the bootstrap: %w", err)
	}
	r.client, err = r.mesh.AddPod(ctx, cluster.PodSpec{
		Name: "inline", IP: inlineIP, Sidecar: true, BootstrapOverride: bootstrap.Data["custom_bootstrap.json"],
	})
	if err != nil {
		return err
	}
	if err := r.awaitOrder(ctx, bothLeading); err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error { return r.orderHolds(ctx, bothLeading) })
}

// lost changes to a module that is none. In the connection manager Envoy takes
// what the agent sends in its place, a filter that lets everything pass.
func (w method) lost(ctx context.Context, r *chain) error {
	r.modules.Put(w.name("garbage"), []byte("<html>It works!</html>"))
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "garbage"); err != nil {
			return err
		}
		return r.awaitOrder(ctx, w.without)
	})
}

//go:embed foreign.yaml
var foreignManifest []byte

// foreignName is how foreign.yaml's EnvoyFilter is called.
const foreignName = "demo/someone-elses"

// refusesBesideForeign: with another EnvoyFilter that sets the router's
// upstream filters Envoy would refuse its listeners. Install says so, names the
// filter, and leaves everything as it is.
func (w method) refusesBesideForeign(ctx context.Context, r *chain) (err error) {
	if err := r.cluster.Apply(ctx, foreignManifest); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, r.cluster.Delete(ctx, foreignManifest), r.awaitOrder(ctx, stock))
	}()
	// Its header comes behind the tracer's.
	withForeign := orders{scattered, scattered}
	if err := r.awaitOrder(ctx, withForeign); err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error {
		out, err := r.layertrace(ctx, append(w.args(r, "first"), "--yes")...)
		if err == nil {
			return errors.New("install does not refuse")
		}
		if !strings.Contains(out, foreignName) {
			return fmt.Errorf("install does not name %s: %w", foreignName, err)
		}
		return r.orderHolds(ctx, withForeign)
	})
}

// validates lets istioctl look at what install would apply. It tells of an
// unknown field inside a typed_config in a warning only.
func (w method) validates(ctx context.Context, r *chain) error {
	manifest, err := r.layertrace(ctx, append(w.args(r, "first"), "--dry-run")...)
	if err != nil {
		return err
	}
	dir, err := r.cluster.Dir("manifests")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, w.reorder+".yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		return err
	}
	return errors.Join(
		r.istioctl(ctx, "validate", "-f", file),
		// IST0133 warns of every EnvoyFilter, that it is close to Envoy.
		r.istioctl(ctx, "analyze", "--use-kube=false", "--all-namespaces", "--failure-threshold=Warning",
			"--suppress=IST0133=EnvoyFilter istio-system/layertrace", file))
}

// istioctl runs Istio's own tool; it fails also when that finds an unknown
// field.
func (r *chain) istioctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, r.options.Tools.Mesh.Istioctl, args...).CombinedOutput()
	if err == nil && strings.Contains(string(out), "unknown field") {
		err = errors.New("it warns of an unknown field")
	}
	if err != nil {
		return fmt.Errorf("istioctl %v: %w\n%s", args, err, out)
	}
	return nil
}

// putVariant serves the filter with its own name in a custom section, so that
// it is a module of its own, and returns its SHA-256 in hex.
func (r *chain) putVariant(name string) (string, error) {
	wasm, err := os.ReadFile(r.options.Tools.Wasm)
	if err != nil {
		return "", fmt.Errorf("read the filter: %w", err)
	}
	// A custom section: ID 0, length, length of the name, name (WebAssembly
	// core specification, 5.5.3); lengths below 128 are one byte.
	section := append([]byte{0, byte(len(name) + 1), byte(len(name))}, name...)
	wasm = append(wasm, section...)
	r.modules.Put(name, wasm)
	sum := sha256.Sum256(wasm)
	return hex.EncodeToString(sum[:]), nil
}

// awaitModule returns when Envoy runs the module: the agent's file for it is
// named by its SHA-256.
func (r *chain) awaitModule(ctx context.Context, sum string) error {
	return sandbox.Await(ctx, "module "+sum, configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		dump, err := cluster.Get(ctx, r.client.HTTP, envoyAdmin+"/config_dump?resource=ecds_filters")
		if err == nil && !strings.Contains(dump, sum) {
			err = errors.New("it is not among Envoy's extensions")
		}
		return err
	})
}

// admin is where the sidecar's Envoy answers questions, seen from its pod.
const envoyAdmin = "http://127.0.0.1:15000"

// refusedExtensions is how many extension configurations the client's Envoy has
// refused since it started (counter update_rejected of extension discovery).
func (r *chain) refusedExtensions(ctx context.Context) (int, error) {
	text, err := cluster.Get(ctx, r.client.HTTP, envoyAdmin+"/stats?format=json&filter=extension_config_discovery.*update_rejected")
	if err != nil {
		return 0, err
	}
	var all struct {
		Stats []struct{ Value int }
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return 0, fmt.Errorf("read Envoy's counters: %w", err)
	}
	sum := 0
	for _, counter := range all.Stats {
		sum += counter.Value
	}
	return sum, nil
}
