// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/front"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/await"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// starve stops a pod's Envoy until the request has been at the pod's interface
// for some time. What that took from the request is by how much longer it was on
// its way through Envoy than others lately: who waited before it is served first,
// and Envoy needs time to begin again.
func (b *Bench) starve(ctx context.Context, c faults.Case, r Request) (injected time.Duration, err error) {
	p, err := b.openPassage(c.Pod)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	usual, err := b.usualPassage(ctx, p, c, r)
	if err != nil {
		return 0, err
	}
	arrived := p.expect(r.TraceID)
	sidecar := b.run.Envoy(c.Pod)
	if err := stop(ctx, sidecar); err != nil {
		return 0, errors.Join(err, sidecar.Signal(syscall.SIGCONT))
	}
	resumed := make(chan error, 1)
	go func() {
		select {
		case <-arrived:
			time.Sleep(c.Magnitude)
		case <-time.After(5 * time.Second): // missed
		}
		resumed <- sidecar.Signal(syscall.SIGCONT)
	}()
	err = errors.Join(r.Send(ctx), <-resumed)
	took := p.took()
	if took < c.Magnitude {
		return met(0, err)
	}
	return met(took-usual, err)
}

// usualPassage is how long requests without a fault are on their way through a
// pod's Envoy.
func (b *Bench) usualPassage(ctx context.Context, p *passage, c faults.Case, r Request) (time.Duration, error) {
	for range plainBefore {
		traceID := front.NewTraceID()
		p.expect(traceID)
		if err := r.Plain(ctx, traceID); err != nil {
			return 0, err
		}
		if took := p.took(); took > 0 {
			b.passages.Add(alike(c), took)
		}
	}
	return b.passages.Median(alike(c)), nil
}

// stop stops a process, and returns when all its threads stand.
func stop(ctx context.Context, p *process.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return await.Until(ctx, p.Name()+" to stand", 5*time.Second, time.Millisecond, func(context.Context) error {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		if err != nil {
			return err
		}
		for _, path := range stats {
			stat, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// PID (NAME) STATE
			if i := bytes.LastIndexByte(stat, ')'); i < 0 || !bytes.HasPrefix(stat[i:], []byte(") T")) {
				return errors.New("a thread runs")
			}
		}
		return nil
	})
}

func podIP(name string) string {
	pod, err := lab.PodByName(name)
	if err != nil {
		return ""
	}
	return pod.IP
}
