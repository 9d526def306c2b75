// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// output runs a shell command with Start and returns its output.
func output(t *testing.T, spec Spec, command string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and cgroups need root")
	}
	name := fmt.Sprintf("lt-process%d", os.Getpid())
	namespace, err := NewNamespace(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := namespace.Delete(); err != nil {
			t.Error(err)
		}
	}()
	group, err := NewGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := group.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	dir := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec.Name, spec.Path, spec.Args = "test", "/bin/sh", []string{"-c", command}
	spec.Namespace, spec.Cgroup = namespace, group
	spec.Stdout, spec.Stderr = filepath.Join(dir, "out"), filepath.Join(dir, "err")
	spec.Env = append(spec.Env, "DIR="+dir)
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	text, err := os.ReadFile(spec.Stdout)
	if err != nil || p.err != nil {
		t.Fatal(err, p.err, p.Tail())
	}
	return strings.TrimSpace(string(text))
}

func TestAnotherUserHasRootsFiles(t *testing.T) {
	got := output(t, Spec{UID: 1337, GID: 1338}, `id -u; id -g; echo written > "$DIR/file"; cat "$DIR/file"`)
	if got != "1337\n1338\nwritten" {
		t.Errorf("%q", got)
	}
}

func TestClockOffset(t *testing.T) {
	for _, offset := range []time.Duration{500 * time.Millisecond, -500 * time.Millisecond, 0} {
		got := output(t, Spec{ClockOffset: offset}, `cat /proc/self/timens_offsets`)
		seconds, nanos := int64(0), int64(0)
		for line := range strings.Lines(got) {
			if fields := strings.Fields(line); fields[0] == "monotonic" {
				seconds, _ = strconv.ParseInt(fields[1], 10, 64)
				nanos, _ = strconv.ParseInt(fields[2], 10, 64)
			}
		}
		if is := time.Duration(seconds*1e9 + nanos); is != offset {
			t.Errorf("clock shifted by %v, want %v", is, offset)
		}
	}
}

func TestClockOffsetLine(t *testing.T) {
	for offset, want := range map[time.Duration]string{
		500 * time.Millisecond:   "monotonic 0 500000000\n",
		-500 * time.Millisecond:  "monotonic -1 500000000\n",
		-2 * time.Second:         "monotonic -2 0\n",
		1200 * time.Millisecond:  "monotonic 1 200000000\n",
		-1200 * time.Millisecond: "monotonic -2 800000000\n",
	} {
		if got := clockOffset(offset); got != want {
			t.Errorf("%v: %q, want %q", offset, got, want)
		}
	}
}

func TestReadMemoryFollowsAnAllocation(t *testing.T) {
	const size = 64 << 20
	before, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		block[i] = 1
	}
	after, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(block)
	if after.Resident < size || after.Resident <= before.Resident || after.Peak < after.Resident {
		t.Errorf("before %+v, after %d more bytes %+v", before, size, after)
	}
}

func TestReadMemoryOfNoProcess(t *testing.T) {
	if memory, err := ReadMemory(1 << 30); err == nil {
		t.Errorf("%+v and no error", memory)
	}
}

// The error of a wait has the cause, also if the limit interrupts a later call.
func TestAwaitReturnsTheCause(t *testing.T) {
	cause := errors.New("3 of 4 spans")
	calls := 0
	err := Await(t.Context(), "the spans", 20*time.Millisecond, time.Millisecond, func(ctx context.Context) error {
		if calls++; calls < 3 {
			return cause
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, cause) || !errors.Is(err, context.DeadlineExceeded) || calls != 3 {
		t.Errorf("%v after %d calls, want %v after 3", err, calls, cause)
	}
}
