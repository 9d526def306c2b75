// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab/await"
)

// way is one of the ways in which install puts the trace headers in front.
type way struct {
	// reorder is the value of --reorder.
	reorder string
	// module says that a module is fetched.
	module bool
}

var ways = []way{
	{reorder: "wasmplugin", module: true},
	{reorder: "envoyfilter", module: true},
	{reorder: "lua"},
}

func (w way) steps() []step {
	all := []step{
		{w.reorder + ": istioctl finds nothing wrong in the manifests", false, w.validates},
		{w.reorder + ": refused beside another EnvoyFilter with upstream filters", false, w.refusesBesideForeign},
		{w.reorder + ": installed under load, trace headers in front", false, w.installed},
	}
	if w.module {
		all = append(all,
			step{w.reorder + ": module updated under load", false, w.updated},
			step{w.reorder + ": module server away, no request fails", false, w.serverAway},
			step{w.reorder + ": server sends garbage, no request fails", false, w.garbage},
			step{w.reorder + ": good module again, trace headers in front", false, w.installed})
	}
	return append(all, step{w.reorder + ": uninstalled under load, stock order again", false, w.uninstalled})
}

// name is a module's name of this way alone: the agent would have another
// way's in its cache.
func (w way) name(kind string) string { return w.reorder + "-" + kind + ".wasm" }

// args are layertrace's for installing with a kind of module.
func (w way) args(r *rollout, kind string) []string {
	args := []string{"install", "--reorder=" + w.reorder}
	if w.module {
		args = append(args, "--wasm-url="+r.modules.URL(w.name(kind)))
	}
	return args
}

func (w way) install(ctx context.Context, r *rollout, kind string) error {
	_, err := r.layertrace(ctx, append(w.args(r, kind), "--yes")...)
	return err
}

func (w way) installed(ctx context.Context, r *rollout) error {
	if w.module {
		if _, err := r.putVariant(w.name("first")); err != nil {
			return err
		}
	}
	err := r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, "first"); err != nil {
			return err
		}
		return r.awaitOrder(ctx, inFront)
	})
	if err != nil {
		return err
	}
	return r.staysSo(ctx, inFront)
}

// updated changes the module's URL and awaits the new one in Envoy.
func (w way) updated(ctx context.Context, r *rollout) error {
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
		return r.staysSo(ctx, inFront)
	})
}

// serverAway names a module for which the server hangs up.
func (w way) serverAway(ctx context.Context, r *rollout) error {
	r.modules.Handle(w.name("away"), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	return w.bad(ctx, r, "away")
}

// garbage names a module that is none.
func (w way) garbage(ctx context.Context, r *rollout) error {
	r.modules.Put(w.name("garbage"), []byte("<html>It works!</html>"))
	return w.bad(ctx, r, "garbage")
}

// bad installs a module that cannot be had, under load, and returns when the
// agent has asked for it and requests go their way.
func (w way) bad(ctx context.Context, r *rollout, kind string) error {
	name := w.name(kind)
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, kind); err != nil {
			return err
		}
		err := await.Until(ctx, "request for "+name, limit, 100*time.Millisecond, func(context.Context) error {
			if r.modules.Requests(name) == 0 {
				return fmt.Errorf("the agent has not asked for it")
			}
			return nil
		})
		if err != nil {
			return err
		}
		// Fetching is given up, and the filter stays away, by its default.
		return r.awaitOrder(ctx, stock)
	})
}

func (w way) uninstalled(ctx context.Context, r *rollout) error {
	err := r.underLoad(ctx, func(ctx context.Context) error {
		if err := r.uninstall(ctx); err != nil {
			return err
		}
		return r.awaitOrder(ctx, stock)
	})
	if err != nil {
		return err
	}
	return r.staysSo(ctx, stock)
}

// putVariant serves the filter with its own name in a custom section, so that
// it is a module of its own, and returns its SHA-256 in hex.
func (r *rollout) putVariant(name string) (string, error) {
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
func (r *rollout) awaitModule(ctx context.Context, sum string) error {
	return await.Until(ctx, "module "+sum, limit, 100*time.Millisecond, func(ctx context.Context) error {
		dump, err := cluster.Get(ctx, r.client.HTTP, "http://127.0.0.1:15000/config_dump?resource=ecds_filters")
		if err == nil && !strings.Contains(dump, sum) {
			err = fmt.Errorf("Envoy's extensions do not name it")
		}
		return err
	})
}
