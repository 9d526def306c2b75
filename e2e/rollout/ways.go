// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// way is one of the ways in which install puts the trace headers in front.
type way struct {
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
var ways = []way{
	{reorder: "wasmplugin", module: true, without: stock},
	{reorder: "envoyfilter", module: true, without: stock},
	{reorder: "lua", without: stock},
}

func (w way) steps() []step {
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
func (w way) name(kind string) string { return w.reorder + "-" + kind + ".wasm" }

// args are layertrace's for installing with a kind of module.
func (w way) args(r *rollout, kind string) []string {
	args := append([]string{"install", "--reorder=" + w.reorder}, w.flags...)
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
		// Envoy tells of the module a moment before its worker runs it.
		if err := r.awaitOrder(ctx, inFront); err != nil {
			return err
		}
		return r.staysSo(ctx, inFront)
	})
}

// withoutModule installs a module for which the server hangs up: Envoy runs
// the default that stands beside the module's name.
func (w way) withoutModule(ctx context.Context, r *rollout) error {
	r.modules.Handle(w.name("none"), hangUp)
	return w.bad(ctx, r, "none", w.without)
}

// serverAway changes to a module for which the server hangs up.
func (w way) serverAway(ctx context.Context, r *rollout) error {
	r.modules.Handle(w.name("away"), hangUp)
	return w.bad(ctx, r, "away", inFront)
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// garbage changes to a module that is none.
func (w way) garbage(ctx context.Context, r *rollout) error {
	r.modules.Put(w.name("garbage"), []byte("<html>It works!</html>"))
	return w.bad(ctx, r, "garbage", inFront)
}

// bad installs a module that cannot be had, under load. The agent gives up
// fetching and sends a filter of another kind in its place, which Envoy
// refuses: after that requests have to go as before.
func (w way) bad(ctx context.Context, r *rollout, kind string, want orders) error {
	before, err := r.refusedExtensions(ctx)
	if err != nil {
		return err
	}
	return r.underLoad(ctx, func(ctx context.Context) error {
		if err := w.install(ctx, r, kind); err != nil {
			return err
		}
		err := sandbox.Await(ctx, "refusal of "+w.name(kind), limit, 100*time.Millisecond, func(ctx context.Context) error {
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
		return r.staysSo(ctx, want)
	})
}

func (w way) uninstalled(ctx context.Context, r *rollout) error {
	err := r.underLoad(ctx, func(ctx context.Context) error {
		if err := r.uninstall(ctx); err != nil {
			return err
		}
		return r.awaitOrder(ctx, w.without)
	})
	if err != nil {
		return err
	}
	return errors.Join(r.staysSo(ctx, w.without), r.awaitGone(ctx))
}
