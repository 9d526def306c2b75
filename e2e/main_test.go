// SPDX-License-Identifier: Apache-2.0

// Package e2e tests layertrace as a whole, in the lab: real Envoys, real
// network namespaces, the real agent and a real Jaeger. It needs root.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
)

var frontPages = flag.Int("front-pages", 10_000, "front page requests of the main test")

// interrupted is done when the test is, also by Ctrl-C: then the running test
// fails and the lab is taken down all the same.
var interrupted context.Context

var shared struct {
	once  sync.Once
	tools lab.Tools
	lab   *lab.Lab
	err   error
}

func TestMain(m *testing.M) {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	interrupted = ctx
	code := m.Run()
	if shared.lab != nil {
		if err := shared.lab.Down(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	stop()
	os.Exit(code)
}

// theLab returns the lab that all tests share, one after the other.
func theLab(t *testing.T) *lab.Lab {
	t.Helper()
	tools := theTools(t)
	if shared.lab == nil && shared.err == nil {
		shared.lab, shared.err = lab.Up(interrupted, lab.Options{
			Name: "test", Dir: filepath.Join(outDir(t), "test-lab"), Tools: tools, Progress: report,
		})
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.lab
}

// theTools gets and builds what the lab runs, once.
func theTools(t *testing.T) lab.Tools {
	t.Helper()
	if testing.Short() {
		t.Skip("the lab takes minutes: not with -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("the lab makes network namespaces and loads BPF programs: needs root")
	}
	shared.once.Do(func() { shared.tools, shared.err = provision.Tools(interrupted, report) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.tools
}

func outDir(t *testing.T) string {
	t.Helper()
	checkout, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(checkout, "out")
}

// report shows progress at once, not only when a test is over.
func report(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s lab: %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
