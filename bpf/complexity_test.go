// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// complexityMax is how many instructions the verifier may process for one program. The
// kernel gives up at a million. Other kernels process up to twice as many as this one,
// and take seconds for each program. Of those that are tested, Linux 6.1 processes the
// most.
const complexityMax = 560_000

// A packet socket takes a program of this size: the kernel's default of
// net.core.optmem_max, of which struct bpf_prog takes some bytes.
const (
	optionMemory    = 131072
	programOverhead = 128
)

var processed = regexp.MustCompile(`processed (\d+) insns`)

// variants are values for the constants of the programs, as the agent sets them for its
// options. The verifier follows other paths with each.
func variants(t *testing.T) map[string]map[string]any {
	t.Helper()
	headers := bpf.CaptureContextHeaders{Len: 1}
	const name = "x-request-id:"
	headers.Of[0].Len, headers.Of[0].Format = uint8(len(name)), uint32(tracecontext.FormatB3)
	copy(headers.Of[0].Name[:], name)
	var ranks [16]uint8
	copy(ranks[:], tracecontext.Ranks([]tracecontext.Format{tracecontext.FormatJaeger, tracecontext.FormatB3, tracecontext.FormatW3C}))
	ports := [65536 / 8]uint8{80 / 8: 1 << (80 % 8), 65535 / 8: 1 << (65535 % 8)}
	everything := map[string]any{
		bpf.CaptureVarAllRequests:       true,
		bpf.CaptureVarDeep:              uint32(bpf.CaptureDeepModeDEEP_ON),
		bpf.CaptureVarPrefixWindow:      uint32(bpf.CaptureWindowWINDOW_MAX),
		bpf.CaptureVarDeepWindow:        uint32(bpf.CaptureWindowDEEP_WINDOW_MAX),
		bpf.CaptureVarFilterPorts:       true,
		bpf.CaptureVarPorts:             ports,
		bpf.CaptureVarOrdered:           true,
		bpf.CaptureVarRanks:             ranks,
		bpf.CaptureVarContextHeaders:    headers,
		bpf.SocketVarHaveWriteTp:        true,
		bpf.SocketVarHaveRxSk:           haveReceiver(t),
		bpf.SocketVarTargetCgroups:      bpf.SocketTargetCgroups{Len: 2, Ids: [16]uint64{1, 2}},
		bpf.SockopsVarFilterOptionPorts: true,
		bpf.SockopsVarOptionPorts:       ports,
		bpf.SockopsVarOptionLayout:      bpf.SockopsOptionLayoutOPTION_PAPER,
	}
	with := func(mode bpf.CaptureDeepMode, values map[string]any) map[string]any {
		all := map[string]any{bpf.CaptureVarDeep: uint32(mode)}
		for name, value := range values {
			if name != bpf.CaptureVarDeep {
				all[name] = value
			}
		}
		return all
	}
	return map[string]map[string]any{
		"default": {}, "deep": with(bpf.CaptureDeepModeDEEP_ON, nil), "not deep": with(bpf.CaptureDeepModeDEEP_OFF, nil),
		"all requests": {bpf.CaptureVarAllRequests: true},
		"everything":   everything, "all but deep": with(bpf.CaptureDeepModeDEEP_OFF, everything), "everything, auto": with(bpf.CaptureDeepModeDEEP_AUTO, everything),
	}
}

// haveReceiver reports whether this kernel's kfree_skb has the receiving socket as its
// fourth argument: without it the verifier rejects what uses it, rightly.
func haveReceiver(t *testing.T) bool {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var traced *btf.Typedef // of a pointer to a function of a context and the arguments
	if err := kernel.TypeByName("btf_trace_kfree_skb", &traced); err != nil {
		t.Fatal(err)
	}
	return len(traced.Type.(*btf.Pointer).Target.(*btf.FuncProto).Params) > 4
}

// TestComplexity loads each program in all variants that it has, and compares what the
// verifier reports.
func TestComplexity(t *testing.T) {
	// Kernels before 5.11 charge BPF memory to this limit.
	_ = rlimit.RemoveMemlock()
	used := map[string]bool{}
	all := variants(t)
	for object, load := range map[string]func() (*ebpf.CollectionSpec, error){
		"capture": bpf.LoadCapture, "device": bpf.LoadDevice, "encrypted": bpf.LoadEncrypted, "socket": bpf.LoadSocket, "driver": bpf.LoadDriver, "sockops": bpf.LoadSockops,
	} {
		for variant, values := range all {
			spec, err := load()
			if err != nil {
				t.Fatal(err)
			}
			differs := variant == "default"
			for name, value := range values {
				v := spec.Variables[name]
				if v == nil {
					continue
				}
				differs, used[name] = true, true
				if err := v.Set(value); err != nil {
					t.Fatal(err)
				}
			}
			if !differs {
				continue
			}
			for name := range spec.Programs {
				t.Run(object+"/"+name+"/"+variant, func(t *testing.T) {
					n := complexity(t, spec, name)
					t.Logf("%d instructions", n)
					if n > complexityMax {
						t.Errorf("the verifier processes %d instructions, want at most %d", n, complexityMax)
					}
				})
			}
		}
	}
	for name := range all["everything"] {
		if !used[name] {
			t.Errorf("no program has the constant %s", name)
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
	if p := coll.Programs[name]; p.Type() == ebpf.SocketFilter {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		if size, err := info.TranslatedSize(); err != nil || size+programOverhead > optionMemory {
			t.Errorf("%d bytes (%v), want at most %d, as a socket's option memory takes no more", size, err, optionMemory-programOverhead)
		}
	}
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
