// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/await"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// readyLimit is how long a process may take. Loading BPF programs and compiling
// the Wasm module take seconds of CPU in each agent and Envoy; on a machine that
// does other things as well they add up.
const readyLimit = 3 * time.Minute

// ready waits until a process answers, and fails at once when it ends.
func (l *Lab) ready(ctx context.Context, p *process.Process, answers func(context.Context) error) error {
	l.waiting.add(p.Name())
	defer l.waiting.remove(p.Name())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ended error
	err := await.Until(ctx, p.Name(), readyLimit, 20*time.Millisecond, func(ctx context.Context) error {
		if ended = p.Running(); ended != nil {
			cancel()
			return ended
		}
		return answers(ctx)
	})
	switch {
	case ended != nil:
		return ended
	case err != nil:
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}

// waiting is the names of the processes that are not ready yet.
type waiting struct {
	mu    sync.Mutex
	names map[string]bool
}

func (w *waiting) add(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		w.names = map[string]bool{}
	}
	w.names[name] = true
}

func (w *waiting) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.names, name)
}

// report tells every few seconds what is not ready yet, until stop is called.
func (w *waiting) report(progress func(string, ...any)) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				w.mu.Lock()
				names := slices.Sorted(maps.Keys(w.names))
				w.mu.Unlock()
				progress("not ready yet: %s", strings.Join(names, ", "))
			}
		}
	}()
	return func() { close(quit); <-done }
}
