// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/kernels"
	"github.com/layertrace/layertrace/e2e/provision"
)

// packagesOfKernels are the kernels of Debian 12 and of its backports.
var packagesOfKernels = []string{"linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"}

// What runs on each kernel. TestComplexity is first: a program that the verifier rejects,
// or takes long for, would fail or delay every other test. The probe's tests leave out
// the one that runs tcpdump, which needs libraries, and those that compare how long
// senders and readers wait: an emulated processor keeps no time.
const (
	doctor          = "layertrace doctor"
	complexityTests = `bpf.test -test.v -test.run="^TestComplexity$/.*/.*/^(default|everything)$"`
	probeTests      = `probe.test -test.v -test.skip="^(TestOptionsOnTheWire|TestUnread|TestUnreadByATrickle|TestStalled.*|TestSlowLinkIsNoStall|TestNetworkIsNoReader|TestEncryptedSlowReader|TestEncryptedSlowNetwork)$"`
)

func kernelsCommand() *cobra.Command {
	var packages []string
	var only string
	var count int
	cmd := &cobra.Command{
		Use:   "kernels",
		Short: "Run the agent's BPF programs and their tests on other kernels, in emulated machines",
		Long: `Downloads kernels from Debian, boots each in QEMU (emulated, x86-64), and runs
"layertrace doctor" and the tests of the BPF programs there. A test may skip itself
only where the kernel lacks a feature.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			commands := []string{doctor, complexityTests, probeTests}
			if only != "" {
				commands = []string{doctor, fmt.Sprintf(`probe.test -test.v -test.run="%s" -test.count=%d`, only, count)}
			}
			return runKernels(cmd.Context(), packages, commands, progress())
		},
	}
	cmd.Flags().StringSliceVar(&packages, "package", packagesOfKernels, "Debian packages of kernels, from the machine's package sources")
	cmd.Flags().StringVar(&only, "run", "", "Run only those tests of the probe, `a regular expression`, instead of all")
	cmd.Flags().IntVar(&count, "count", 1, "How often to run the tests of --run")
	return cmd
}

// runKernels runs the tests on all kernels at the same time: each machine keeps one
// processor busy. It fails when a kernel cannot capture or a test fails, after the
// results of all.
func runKernels(ctx context.Context, packages, commands []string, progress provision.Progress) error {
	dir, err := os.MkdirTemp("", "layertrace-kernels-")
	if err != nil {
		return fmt.Errorf("create a directory for kernels: %w", err)
	}
	defer os.RemoveAll(dir)
	programs, err := programsForKernels(ctx, dir, progress)
	if err != nil {
		return err
	}
	tested := make([]testedKernel, len(packages))
	for i, name := range packages {
		if tested[i].Kernel, err = kernels.Fetch(ctx, name, dir); err != nil {
			return err
		}
	}
	var running sync.WaitGroup
	for i := range tested {
		k := &tested[i]
		running.Go(func() {
			progress("booting Linux %s", k.Release)
			k.tests, k.captures, k.err = testKernel(ctx, k.Kernel, programs, commands)
			progress("Linux %s: %d tests passed, %d failed", k.Release, k.tests.Passed, len(k.tests.Failed))
		})
	}
	running.Wait()
	return printKernels(tested)
}

// testedKernel is a kernel with the results of its tests. An error is one of them.
type testedKernel struct {
	kernels.Kernel
	tests    kernels.Tests
	captures bool
	err      error
}

// printKernels prints a table and the reasons of skipped tests, and returns the errors.
func printKernels(all []testedKernel) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "kernel\tcaptures\ttests passed\tfailed\tskipped")
	var details []string
	var errs []error
	for _, k := range all {
		fmt.Fprintf(table, "%s\t%v\t%d\t%d\t%d\n", k.Release, k.captures, k.tests.Passed, len(k.tests.Failed), len(k.tests.Skipped))
		for _, test := range slices.Sorted(maps.Keys(k.tests.Skipped)) {
			details = append(details, fmt.Sprintf("Linux %s: %s: %s", k.Release, test, k.tests.Skipped[test]))
		}
		errs = append(errs, k.err)
	}
	errs = append(errs, table.Flush())
	fmt.Println()
	fmt.Println(strings.Join(details, "\n"))
	return errors.Join(errs...)
}

// testKernel boots a kernel and runs doctor and the tests there. captures: doctor says that the agent can capture there. A
// failed test, and one that skips itself for another reason than the kernel, is an error.
func testKernel(ctx context.Context, kernel kernels.Kernel, programs, commands []string) (all kernels.Tests, captures bool, err error) {
	results, err := kernel.Run(ctx, programs, commands)
	if err != nil {
		return all, false, errors.Join(err, keep(kernel, results))
	}
	all.Skipped = map[string]string{}
	for _, result := range results[1:] {
		tests, err := kernels.ReadTests(result)
		if err != nil {
			return all, false, errors.Join(fmt.Errorf("test on Linux %s: %w", kernel.Release, err), keep(kernel, results))
		}
		all.Passed += tests.Passed
		all.Failed = append(all.Failed, tests.Failed...)
		all.Messages = append(all.Messages, tests.Messages...)
		maps.Copy(all.Skipped, tests.Skipped)
	}
	for test, why := range all.Skipped {
		if !strings.HasPrefix(why, "the kernel lacks it: ") {
			all.Failed = append(all.Failed, test)
		}
	}
	captures = results[0].Code == "0"
	if len(all.Failed) > 0 || !captures {
		return all, captures, errors.Join(fmt.Errorf("kernel %s: failed tests: %v; exit code of doctor: %s\n%s",
			kernel.Release, all.Failed, results[0].Code, strings.Join(all.Messages, "\n")), keep(kernel, results))
	}
	return all, captures, nil
}

// programsForKernels builds the static programs that run on the kernels.
func programsForKernels(ctx context.Context, dir string, progress provision.Progress) ([]string, error) {
	checkout, err := provision.Checkout()
	if err != nil {
		return nil, err
	}
	agent, programs, tests := filepath.Join(dir, "layertrace"), filepath.Join(dir, "bpf.test"), filepath.Join(dir, "probe.test")
	for _, args := range [][]string{
		{"build", "-trimpath", "-o", agent, "./agent/cmd/layertrace"},
		{"test", "-c", "-trimpath", "-o", programs, "./bpf"},
		{"test", "-c", "-trimpath", "-o", tests, "./agent/internal/probe"},
	} {
		progress("go %s", strings.Join(args, " "))
		build := exec.CommandContext(ctx, "go", args...)
		build.Dir, build.Env = checkout, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build for other kernels: %w\n%s", err, out)
		}
	}
	return []string{agent, programs, tests}, nil
}

// keep writes the output on a kernel to out/, and returns an error with the file.
func keep(k kernels.Kernel, results []kernels.Result) error {
	var text strings.Builder
	for _, r := range results {
		fmt.Fprintf(&text, "# %s (exit code %s)\n%s\n", r.Command, r.Code, r.Output)
	}
	file := filepath.Join("out", "kernel-"+k.Release+".log")
	if err := errors.Join(os.MkdirAll("out", 0o755), os.WriteFile(file, []byte(text.String()), 0o644)); err != nil {
		return fmt.Errorf("keep the output: %w", err)
	}
	return fmt.Errorf("the whole output is in %s", file)
}
