// SPDX-License-Identifier: Apache-2.0

// Package testrun is the frame of test packages that share one lab or cluster:
// it must be taken down after the last test, even on Ctrl-C.
package testrun

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/provision"
)

// Main runs the tests of a package, and then down. It sets *interrupted to a
// context that ends on Ctrl-C: the running test then fails, and down still runs.
// Call it from TestMain.
func Main(m *testing.M, interrupted *context.Context, down func() error) {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	*interrupted = ctx
	code := m.Run()
	if err := down(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	stop()
	os.Exit(code)
}

// Needs skips a test with -short, and when the user is not root.
func Needs(t *testing.T, what string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("%s takes minutes: not with -short", what)
	}
	if os.Geteuid() != 0 {
		t.Skipf("%s needs root", what)
	}
}

// Checkout returns the directory of the project.
func Checkout(t *testing.T) string {
	t.Helper()
	dir, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Out returns the directory for output, out/NAME in the checkout.
func Out(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(Checkout(t), "out", name)
}

// Report prints progress to standard error immediately, while t.Log waits for the
// end of the test.
func Report(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
