// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed foreign.yaml
var foreignManifest []byte

// foreignName is how foreign.yaml's EnvoyFilter is called.
const foreignName = "demo/someone-elses"

// refusesBesideForeign: with another EnvoyFilter that sets the router's
// upstream filters Envoy would refuse its listeners. Install says so, names the
// filter, and leaves everything as it is.
func (w way) refusesBesideForeign(ctx context.Context, r *rollout) (err error) {
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
		return r.staysSo(ctx, withForeign)
	})
}
