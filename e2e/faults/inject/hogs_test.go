// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

func TestSpend(t *testing.T) {
	group, err := sandbox.NewGroup(fmt.Sprintf("layertrace-test-spend-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	limit, err := group.LimitCPU(period)
	if err != nil {
		t.Fatal(err)
	}
	answers := answering(t, limit)
	answered := func() time.Duration {
		began := time.Now()
		answers()
		return time.Since(began)
	}
	answered()
	const held = 30 * time.Millisecond
	// A period that begins meanwhile lets it answer: not time after time.
	for range 5 {
		if err := spend(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		lifted := make(chan error, 1)
		time.AfterFunc(held, func() { lifted <- limit.Lift() })
		took := answered()
		if err := <-lifted; err != nil {
			t.Fatal(err)
		}
		t.Logf("answered after %v", took)
		if took >= held {
			return
		}
	}
	t.Errorf("answers within %v, five times, while its CPU time was spent", held)
}

func TestSpendInAGroupThatIsGone(t *testing.T) {
	group, err := sandbox.NewGroup(fmt.Sprintf("layertrace-test-gone-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	limit, err := group.LimitCPU(period)
	if err := errors.Join(err, group.Remove(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := spend(t.Context(), limit); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// answering starts a process in the limited group, and returns what waits for one
// answer of it.
func answering(t *testing.T, limit *sandbox.CPULimit) (ask func()) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "while read -r line; do echo $line; done")
	to, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(to.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	if err := limit.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(from)
	return func() {
		t.Helper()
		if _, err := to.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}
