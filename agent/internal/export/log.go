// SPDX-License-Identifier: Apache-2.0

package export

import (
	"log/slog"
	"sync"
	"time"
)

// warnInterval is the least time between two equal warnings.
const warnInterval = 10 * time.Second

// rateLimited passes one warning per interval; counters tell the rest.
type rateLimited struct {
	log  *slog.Logger
	mu   sync.Mutex
	last time.Time
}

func newRateLimited(log *slog.Logger) *rateLimited { return &rateLimited{log: log} }

func (r *rateLimited) warn(message string, args ...any) {
	r.mu.Lock()
	due := time.Since(r.last) >= warnInterval
	if due {
		r.last = time.Now()
	}
	r.mu.Unlock()
	if due {
		r.log.Warn(message, args...)
	}
}

// attempts tells about the receiver once when it goes away and once when it
// is back, however often it is tried between.
type attempts struct {
	log      *slog.Logger
	endpoint string
	mu       sync.Mutex
	failing  time.Time // zero: the last attempt worked
}

func (a *attempts) done(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil && a.failing.IsZero():
		a.failing = time.Now()
		a.log.Warn("cannot deliver spans; buffering and trying again", "endpoint", a.endpoint, "error", err)
	case err == nil && !a.failing.IsZero():
		a.log.Info("delivering spans again", "endpoint", a.endpoint, "away_for", time.Since(a.failing).Round(time.Millisecond))
		a.failing = time.Time{}
	}
}
