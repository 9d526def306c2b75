// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"log/slog"
)

// quiet passes client-go's messages on as debugging ones, without its verbose
// levels: what matters of them contact tells once, client-go at each attempt.
type quiet struct{ slog.Handler }

// Enabled is slog.Handler's.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo && q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle is slog.Handler's.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs is slog.Handler's.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup is slog.Handler's.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
