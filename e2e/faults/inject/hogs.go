// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	// A quota as small, and a period as long, as the kernel takes
	// (tg_set_cfs_bandwidth in kernel/sched/core.c): who has spent the quota mostly
	// stands for longer than any fault. When the next period begins is the kernel's.
	quota  = time.Millisecond
	period = time.Second
	// Who has not run for this long does not just wait for its turn on a CPU.
	stands = 2 * time.Millisecond
)

// hogs take what a cgroup's limit leaves of the CPUs, one on each.
type hogs []*exec.Cmd

// spend limits the CPU time of a group and has it spent: when it returns, nothing
// in the group runs until the limit is lifted or the next period begins.
func spend(ctx context.Context, limit *sandbox.CPULimit) (err error) {
	var h hogs
	defer func() {
		// They go before the request comes, so that what was starved does not
		// have to share.
		err = errors.Join(err, h.end(limit))
		if err != nil {
			err = errors.Join(err, limit.Lift())
		}
	}()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("ask which CPUs there are: %w", err)
	}
	for cpu := 0; len(h) < cpus.Count(); cpu++ {
		if !cpus.IsSet(cpu) {
			continue
		}
		hog := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			return fmt.Errorf("start a hog: %w", err)
		}
		h = append(h, hog)
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(hog.Process.Pid, &set); err != nil {
			return fmt.Errorf("bind a hog to CPU %d: %w", cpu, err)
		}
		if err := limit.Add(hog.Process.Pid); err != nil {
			return err
		}
	}
	before, err := limit.CPU()
	if err != nil {
		return err
	}
	if err := limit.Set(quota); err != nil {
		return err
	}
	last, ranAt := before, time.Now()
	return sandbox.Await(ctx, "a group to have spent its CPU time", period/2, stands/10, func(context.Context) error {
		now, err := limit.CPU()
		if err != nil {
			return err
		}
		if now > last {
			last, ranAt = now, time.Now()
		}
		if last-before < quota || time.Since(ranAt) < stands {
			return fmt.Errorf("it ran for %v, last %v ago", last-before, time.Since(ranAt))
		}
		return nil
	})
}

// end takes the hogs out of the group, in which they could not even die, and
// kills them.
func (h hogs) end(limit *sandbox.CPULimit) error {
	var errs []error
	for _, hog := range h {
		errs = append(errs, limit.Release(hog.Process.Pid), hog.Process.Kill())
		var killed *exec.ExitError
		if err := hog.Wait(); !errors.As(err, &killed) {
			errs = append(errs, fmt.Errorf("end a hog: %w", err))
		}
	}
	return errors.Join(errs...)
}
