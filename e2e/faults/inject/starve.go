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
	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/await"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// starve stops a pod's Envoy until the request has been at the pod's interface
// for some time.
func (b *Bench) starve(ctx context.Context, c faults.Case, r Request) (injected time.Duration, err error) {
	arrived := make(chan time.Time, 1)
	watch, err := tap.Open(b.lab.PodSpace(c.Pod), "eth0", func(s tap.Segment) {
		request := s.Dst.Port() == lab.AppPort || s.Dst.Port() == lab.GatewayPort
		if own := podIP(c.Pod) == s.Dst.Addr().String(); own && request && bytes.Contains(s.Data, []byte(r.TraceID)) {
			select {
			case arrived <- s.Time:
			default:
			}
		}
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, watch.Close()) }()

	sidecar := b.run.Envoy(c.Pod)
	if err := stop(ctx, sidecar); err != nil {
		return 0, errors.Join(err, sidecar.Signal(syscall.SIGCONT))
	}
	type end struct {
		after time.Duration
		err   error
	}
	resumed := make(chan end, 1)
	go func() {
		var came time.Time
		select {
		case came = <-arrived:
			time.Sleep(time.Until(came.Add(c.Magnitude)))
		case <-time.After(5 * time.Second):
			came = time.Now() // so that the time is 0: missed
		}
		// Taken before: what is resumed may run at once in place of this.
		after := time.Since(came)
		resumed <- end{after, sidecar.Signal(syscall.SIGCONT)}
	}()
	err = r.Send(ctx)
	e := <-resumed
	if e.after < c.Magnitude {
		e.after = 0
	}
	return met(e.after, errors.Join(err, e.err))
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
