// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCachedMakesOnce(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	made := 0
	build := func(dir string) error {
		made++
		return os.WriteFile(filepath.Join(dir, "tool"), []byte("program"), 0o755)
	}
	var paths [2]string
	for i := range paths {
		path, err := cached("tool", "1.2", build)
		if err != nil {
			t.Fatal(err)
		}
		paths[i] = path
	}
	if data, err := os.ReadFile(paths[0]); string(data) != "program" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if made != 1 || paths[0] != paths[1] {
		t.Errorf("made %d times, as %v; want once", made, paths)
	}
}

func TestCachedLeavesNothingOfAFailure(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	broken := errors.New("broken")
	_, err := cached("tool", "1.2", func(dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "tool"), nil, 0o755))
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(cache, "layertrace"))
	if err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestCommandReportsItselfAndItsOutput(t *testing.T) {
	err := command(context.Background(), t.TempDir(), []string{"WORD=seen"}, "sh", "-c", "echo $WORD; exit 3")
	if err == nil || !strings.Contains(err.Error(), "seen") || !strings.Contains(err.Error(), "run sh") {
		t.Errorf("error %v", err)
	}
}

// A cancelled command ends with all its children.
func TestCommandEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := command(ctx, t.TempDir(), nil, "sh", "-c", "sleep 60 & wait")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("took %v: it waited for the child", took)
	}
}
