// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// onOneCPU keeps the test's thread where it is: each CPU has its own memory.
func onOneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err) // the thread stays locked, and ends with the test
			return
		}
		runtime.UnlockOSThread()
	})
}

// What one point has read of a segment the others take over: by its numbers and
// its length, which here belong to other bytes, so that it shows.
func TestSegmentIsReadOnce(t *testing.T) {
	const other = "traceparent: 00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01\r\n"
	const id = "0af7651916cd43dd8448eb211c80319c"
	for name, test := range map[string]struct {
		first, second string
		move          uint32 // of the number that is acknowledged
		want          string
	}{
		"same numbers":     {get + traceparent + end, get + other + end, 0, id},
		"other numbers":    {get + traceparent + end, get + other + end, 1, strings.Repeat("f", 32)},
		"other length":     {get + traceparent + end, get + other + "a: b\r\n" + end, 0, strings.Repeat("f", 32)},
		"not sampled":      {get + unsampled + end, get + other + end, 0, ""},
		"a body":           {strings.Repeat("x", len(get+other+end)), get + other + end, 0, ""},
		"malformed before": {strings.Replace(get+traceparent+end, "-01", "-zz", 1), get + other + end, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			onOneCPU(t)
			k := newKernel(t, Options{})
			first, second := newConnection(40000), newConnection(40001)
			second.clientSeq, second.serverSeq = first.clientSeq, first.serverSeq+test.move
			k.receive(first.request(test.first))
			before := len(k.exchanges())
			k.receive(second.request(test.second))
			got := ""
			for _, x := range k.exchanges() {
				got += x.Context.TraceID.String()
			}
			if got != test.want {
				t.Errorf("trace %q, want %q (before it %d exchanges)", got, test.want, before)
			}
			if name == "malformed before" {
				k.wantCount("contexts_malformed", 2)
			}
		})
	}
}

// A run that finds the working memory in use takes the next, and when all is in
// use lets the segment pass and counts it.
func TestRunsShareWorkingMemory(t *testing.T) {
	k := newKernel(t, Options{})
	claim := func(key, value uint32) {
		t.Helper()
		var perCPU []bpf.CaptureScratch
		must(t, k.probe.kernel.Scratches.Lookup(key, &perCPU))
		for i := range perCPU {
			if perCPU[i].Claimed == value {
				t.Errorf("working memory %d of CPU %d: claimed = %d before it is set so", key, i, value)
			}
			perCPU[i].Claimed = value
		}
		must(t, k.probe.kernel.Scratches.Put(key, perCPU))
	}
	n := k.probe.kernel.Scratches.MaxEntries()
	for key := range n {
		k.receive(newConnection(uint16(41000 + key)).request(get + traceparent + end))
		if got := len(k.exchanges()); got != 1 {
			t.Errorf("with %d in use: %d exchanges, want 1", key, got)
		}
		claim(key, 1)
	}
	k.wantCount("segments_skipped", 0)
	k.receive(newConnection(42000).request(get + traceparent + end))
	if got := len(k.exchanges()); got != 0 {
		t.Errorf("with all in use: %d exchanges, want 0", got)
	}
	k.wantCount("segments_skipped", 1)
	claim(n-1, 0)
	k.receive(newConnection(43000).request(get + traceparent + end))
	k.one()
	k.wantCount("segments_skipped", 1)
}
