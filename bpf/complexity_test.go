// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/layertrace/layertrace/bpf"
)

// complexityMax is how many instructions the verifier may process for one program. The
// kernel gives up at a million. Other kernels process up to twice as many as this one,
// and take seconds for each program.
const complexityMax = 500_000

var processed = regexp.MustCompile(`processed (\d+) insns`)

// TestComplexity loads each program and compares what the verifier reports.
func TestComplexity(t *testing.T) {
	// Kernels before 5.11 charge BPF memory to this limit.
	_ = rlimit.RemoveMemlock()
	for object, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"capture": bpf.LoadCapture, "device": bpf.LoadDevice, "socket": bpf.LoadSocket, "driver": bpf.LoadDriver, "sockops": bpf.LoadSockops,
	} {
		for _, deep := range []bool{false, true} {
			spec, err := load()
			if err != nil {
				t.Fatal(err)
			}
			if v := spec.Variables[bpf.CaptureVarDeep]; v != nil {
				if err := v.Set(deep); err != nil {
					t.Fatal(err)
				}
			} else if deep {
				continue
			}
			for name := range spec.Programs {
				t.Run(object+"/"+name+"/deep="+strconv.FormatBool(deep), func(t *testing.T) {
					n := complexity(t, spec, name)
					t.Logf("%d instructions", n)
					if n > complexityMax {
						t.Errorf("the verifier processes %d instructions, want at most %d", n, complexityMax)
					}
				})
			}
		}
	}
}

// complexity loads one program of spec.
func complexity(t *testing.T, spec *ebpf.CollectionSpec, name string) int {
	t.Helper()
	one := spec.Copy()
	for other := range one.Programs {
		if other != name {
			delete(one.Programs, other)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skipf("the kernel lacks it: %v", err)
	}
	if err != nil {
		t.Fatalf("load %s (as root): %v\n%s", name, err, endOfLog(one))
	}
	defer coll.Close()
	m := processed.FindStringSubmatch(coll.Programs[name].VerifierLog)
	if m == nil {
		t.Fatalf("no number of instructions in the verifier's log: %q", coll.Programs[name].VerifierLog)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// endOfLog loads a program that was rejected once more, and returns the end of what the
// verifier says about it.
func endOfLog(spec *ebpf.CollectionSpec) string {
	const lines = 80
	coll, err := ebpf.NewCollection(spec)
	var rejected *ebpf.VerifierError
	if !errors.As(err, &rejected) {
		coll.Close()
		return ""
	}
	return strings.Join(rejected.Log[max(0, len(rejected.Log)-lines):], "\n")
}
