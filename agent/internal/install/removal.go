// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// removalPoll is the time between two looks at an object that is being removed.
const removalPoll = 250 * time.Millisecond

// AwaitRemoval returns when none of the objects is being removed any more: a
// namespace takes some seconds, and nothing can be made in it meanwhile. progress
// is told of each object that has to be waited for.
func (c *Cluster) AwaitRemoval(ctx context.Context, objects []*unstructured.Unstructured, progress func(object string)) error {
	for _, o := range objects {
		told := false
		for {
			now, err := c.get(ctx, o)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", describe(o), err)
			}
			if err == nil && (now == nil || now.GetDeletionTimestamp() == nil) {
				break
			}
			if !told {
				told = true
				progress(describe(o))
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is still being removed: see its status.conditions (kubectl get -o yaml), and try again when it is gone", describe(o))
			case <-time.After(removalPoll):
			}
		}
	}
	return nil
}
