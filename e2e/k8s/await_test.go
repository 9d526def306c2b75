// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// limit is how long a condition may take to come true on a slow machine.
const limit = 2 * time.Minute

// awaitNil calls ready until it returns nil.
func awaitNil(t *testing.T, what string, ready func() error) {
	t.Helper()
	err := sandbox.Await(interrupted, what, limit, 50*time.Millisecond, func(context.Context) error { return ready() })
	if err != nil {
		t.Fatal(err)
	}
}
