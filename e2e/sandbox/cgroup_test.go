// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCPUReadsTheUsage(t *testing.T) {
	g := &Group{Path: t.TempDir()}
	if _, err := g.CPU(); err == nil {
		t.Error("no error without cpu.stat")
	}
	for text, want := range map[string]time.Duration{
		"usage_usec 1500\nuser_usec 900\nsystem_usec 600\n": 1500 * time.Microsecond,
		"usage_usec x\n":  -1,
		"user_usec 900\n": -1,
	} {
		if err := os.WriteFile(filepath.Join(g.Path, "cpu.stat"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := g.CPU()
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("of %q: %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestLimit(t *testing.T) {
	child, err := newGroup(t).Child("busy")
	if err != nil {
		t.Fatal(err)
	}
	busy := exec.Command("/bin/sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	reaped := make(chan error, 1)
	go func() { reaped <- busy.Wait() }()
	t.Cleanup(func() {
		if err := busy.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-reaped
	})
	if err := os.WriteFile(child.Path+"/cgroup.procs", fmt.Append(nil, busy.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	const period = time.Second
	limit, err := child.LimitCPU(period)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := limit.Set(time.Millisecond); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		last, ranAt := time.Duration(0), began
		throttled := wait(t, "to be throttled", func() error {
			if now := cpuTime(t, busy.Process.Pid); now > last {
				last, ranAt = now, time.Now()
			}
			if since := time.Since(ranAt); since < 20*time.Millisecond {
				return fmt.Errorf("ran %v ago", since)
			}
			return nil
		})
		t.Logf("throttled after %v", throttled)
		if err := limit.Lift(); err != nil {
			t.Fatal(err)
		}
		before := cpuTime(t, busy.Process.Pid)
		// Without a limit it soon takes more than the quota of each period allows.
		continued := wait(t, "to continue", func() error {
			allowed := time.Duration(int(time.Since(began)/period)+1) * 10 * time.Millisecond
			if took := cpuTime(t, busy.Process.Pid) - before; took < 2*allowed {
				return fmt.Errorf("ran for %v", took)
			}
			return nil
		})
		t.Logf("continued after %v", continued)
	}
}

// A process that was added to a limit ends with the group, in every hierarchy.
func TestRemoveEndsWhatWasAdded(t *testing.T) {
	g, err := NewGroup(fmt.Sprintf("layertrace-test-added-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	limit, err := g.LimitCPU(time.Second)
	if err != nil {
		t.Fatal(errors.Join(err, g.Remove(t.Context())))
	}
	busy := exec.Command("/bin/sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(errors.Join(err, g.Remove(t.Context())))
	}
	ended := make(chan error, 1)
	go func() { ended <- busy.Wait() }()
	err = errors.Join(limit.Add(busy.Process.Pid), limit.Set(time.Millisecond), g.Remove(t.Context()))
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		err = errors.Join(err, errors.New("the process still runs"), busy.Process.Kill())
	}
	if err != nil {
		t.Error(err)
	}
}

// A process within its memory is not harmed, one beyond it is killed, and both are reported.
func TestLimitMemory(t *testing.T) {
	const limit = 32 << 20
	g := newGroup(t)
	memory, err := g.LimitMemory(limit)
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := NewNamespace(fmt.Sprintf("lt-memory%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespace.Delete(); err != nil {
			t.Error(err)
		}
	})
	for _, test := range []struct {
		bytes string // that a process keeps
		kills int
	}{{"1000000", 0}, {"100000000", 1}} {
		p, err := Start(Spec{
			Name: "memory", Path: "/bin/sh", Args: []string{"-c", "head -c " + test.bytes + " /dev/zero | tail -n 1 >/dev/null"},
			Namespace: namespace, Cgroup: g, Memory: memory, Stderr: filepath.Join(t.TempDir(), "log"),
		})
		if err != nil {
			t.Fatal(err)
		}
		<-p.done
		kills, err := memory.Kills()
		if err != nil || kills != test.kills {
			t.Errorf("%s bytes: %d processes killed, want %d; %v\n%s", test.bytes, kills, test.kills, err, p.Tail())
		}
		peak, err := memory.Peak()
		if err != nil || peak == 0 || peak > limit {
			t.Errorf("%s bytes: %d bytes at most, want up to %d; %v", test.bytes, peak, limit, err)
		}
	}
}

func TestLimitThatTheKernelRefuses(t *testing.T) {
	limit, err := newGroup(t).LimitCPU(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, quota := range []time.Duration{0, time.Microsecond} {
		if err := limit.Set(quota); !errors.Is(err, unix.EINVAL) {
			t.Errorf("a quota of %v: %v", quota, err)
		}
	}
	if err := limit.Add(1 << 30); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

// newGroup creates a cgroup, and checks that nothing of it remains.
func newGroup(t *testing.T) *Group {
	t.Helper()
	g, err := NewGroup(fmt.Sprintf("layertrace-test-limit-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(context.Background()); err != nil {
			t.Error(err)
		}
		for _, path := range []string{g.Path, mirrorOf(t, g, "cpu"), mirrorOf(t, g, "memory")} {
			if _, err := os.Stat(path); path != "" && err == nil {
				t.Errorf("%s still exists", path)
			}
		}
	})
	return g
}

func mirrorOf(t *testing.T, g *Group, controller string) string {
	_, mirror, err := g.mirror(controller)
	if err != nil {
		t.Fatal(err)
	}
	return mirror
}

func wait(t *testing.T, what string, ready func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := Await(t.Context(), what, 10*time.Second, time.Millisecond, func(context.Context) error {
		return ready()
	}); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	took, err := ProcessCPU(pid)
	if err != nil {
		t.Fatal(err)
	}
	return took
}
