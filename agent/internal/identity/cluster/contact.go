// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// contact keeps how the requests of one feed went.
type contact struct {
	what string
	log  *slog.Logger

	mu       sync.Mutex
	failures uint64
	since    time.Time // of the first failure in a row, zero: it works
	last     error
}

// outcome takes the result of a request. Only a change is logged.
func (c *contact) outcome(err error) {
	if errors.Is(err, context.Canceled) { // told to stop
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil || answered(err) {
		if !c.since.IsZero() {
			c.log.Info("the API server answers again", "for", c.what, "away", time.Since(c.since).Round(time.Second))
		}
		c.since, c.last = time.Time{}, nil
		return
	}
	c.failures++
	if c.since.IsZero() {
		c.since = time.Now()
		c.log.Warn("cannot read from the API server; going on with what is known, and trying again", "for", c.what, "error", explain(err))
	}
	c.last = explain(err)
}

// answered reports whether an error is the server's way to say "list again" or
// "I cannot stream a list", which the reflector does and knows.
func answered(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err)
}

func explain(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		return fmt.Errorf("%w; grant list and watch on pods to the agent's service account", err)
	}
	return err
}

// trouble returns since when requests fail, and why.
func (c *contact) trouble() (since time.Time, failures uint64, last error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.failures, c.last
}
