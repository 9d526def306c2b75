// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// sharedSide is a kernel side that tests use one after the other: the verifier takes
// longer for a program than most tests, a hundred times as long on an emulated machine.
type sharedSide struct {
	options string
	kernel  *kernelSide
	user    *kernel // the latest
}

// sharedSides: the one that was used last is the last. A table of connections takes some
// 50 MB, so the number is limited.
var sharedSides []*sharedSide

const sharedSidesMax = 4

// share returns the kernel side of these options, with empty maps.
func share(t *testing.T, o *Options) *sharedSide {
	t.Helper()
	options := loadedFor(o)
	if i := slices.IndexFunc(sharedSides, func(s *sharedSide) bool { return s.options == options }); i >= 0 {
		s := sharedSides[i]
		sharedSides = append(slices.Delete(sharedSides, i, i+1), s)
		must(t, s.reset())
		return s
	}
	if len(sharedSides) == sharedSidesMax {
		must(t, sharedSides[0].kernel.Close()) // a test that still uses it has clones
		sharedSides = slices.Delete(sharedSides, 0, 1)
	}
	loaded, err := handedSide(o)
	if loaded == nil && err == nil {
		loaded, err = loadKernelSide(o)
	}
	must(t, err)
	s := &sharedSide{options: options, kernel: loaded}
	sharedSides = append(sharedSides, s)
	return s
}

// loadedFor has those of the options that loadKernelSide uses.
func loadedFor(o *Options) string {
	return fmt.Sprintf("%v %v %v %v %v %v %v %v %v %v %v", o.AllRequests, o.ContextFormats, o.PrefixWindow, o.Deep, o.DeepWindow, o.DeepBudget, o.RingBytes, o.Ports, o.ContextHeaders, o.MaxConnections, o.TrustedPrefixes)
}

// handedEnv has the names of the programs that this process got with the default options'
// kernel side, when a test runs again in a namespace; handedFD is their first descriptor.
const (
	handedEnv = "LAYERTRACE_PROBE_TEST_PROGRAMS"
	handedFD  = 3
)

// handOver returns descriptors of the maps and programs of the default options.
func handOver(t *testing.T) (files []*os.File, programs string) {
	t.Helper()
	var o Options
	must(t, o.complete())
	s := share(t, &o)
	add := func(name string, fd int) {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		files = append(files, os.NewFile(uintptr(copied), name))
	}
	for _, m := range mapsOf(s.kernel) {
		add("map", (*m).FD())
	}
	add("sweep", s.kernel.sweep.FD())
	add("walk", s.kernel.walk.FD())
	names := []string{bpf.CaptureProgCaptureIn, bpf.CaptureProgCaptureOut, bpf.CaptureProgCaptureSock}
	for _, name := range names {
		p, err := s.kernel.program(name)
		must(t, err)
		add(name, p.FD())
	}
	return files, strings.Join(names, ",")
}

// handedSide returns the kernel side that was handed over, nil if none was or it has
// other options.
func handedSide(o *Options) (*kernelSide, error) {
	var defaults Options
	if err := defaults.complete(); err != nil || os.Getenv(handedEnv) == "" || loadedFor(o) != loadedFor(&defaults) {
		return nil, err
	}
	k := &kernelSide{programs: map[string]*ebpf.Program{}}
	var err error
	if k.spec, err = bpf.LoadCapture(); err != nil {
		return nil, err
	}
	errs := []error{configure(k.spec, o)}
	fd := handedFD
	next := func() int {
		syscall.CloseOnExec(fd)
		fd++
		return fd - 1
	}
	for _, m := range mapsOf(k) {
		*m, err = ebpf.NewMapFromFD(next())
		errs = append(errs, err)
	}
	for _, p := range []**ebpf.Program{&k.sweep, &k.walk} {
		*p, err = ebpf.NewProgramFromFD(next())
		errs = append(errs, err)
	}
	for _, name := range strings.Split(os.Getenv(handedEnv), ",") {
		k.programs[name], err = ebpf.NewProgramFromFD(next())
		errs = append(errs, err)
	}
	return k, errors.Join(append(errs, os.Unsetenv(handedEnv))...)
}

// mustOwn fails the test if another kernel uses the same programs and maps by now.
func (k *kernel) mustOwn() {
	k.t.Helper()
	if k.side.user != k {
		k.t.Fatal("the programs belong to a later kernel with the same options: end with one before the next")
	}
}

// clone returns other descriptors of the same programs and maps.
func (s *sharedSide) clone() (*kernelSide, error) {
	c := &kernelSide{spec: s.kernel.spec, programs: map[string]*ebpf.Program{}, CaptureMaps: s.kernel.CaptureMaps}
	var err, failed error
	for _, m := range mapsOf(c) {
		*m, err = (*m).Clone()
		failed = errors.Join(failed, err)
	}
	c.sweep, err = s.kernel.sweep.Clone()
	failed = errors.Join(failed, err)
	c.walk, err = s.kernel.walk.Clone()
	failed = errors.Join(failed, err)
	for name, p := range s.kernel.programs {
		c.programs[name], err = p.Clone()
		failed = errors.Join(failed, err)
	}
	return c, failed
}

// take keeps the programs that a clone has loaded.
func (s *sharedSide) take(c *kernelSide) {
	for name, p := range c.programs {
		if s.kernel.programs[name] == nil {
			s.kernel.programs[name] = p
			delete(c.programs, name)
		}
	}
}

// mapsOf returns the maps of a kernel side.
func mapsOf(k *kernelSide) []**ebpf.Map {
	return []**ebpf.Map{
		&k.Connections, &k.Counters, &k.Exchanges, &k.Limits, &k.PartialHeads, &k.QueuedRequests, &k.Scratches,
		&k.SearchBudgets, &k.TrackedConnections, &k.TrustedPrefixes, &k.UnseenCounters,
		&k.UnprovenConnections, &k.LatestHandshakes, &k.OwnOnlyInterfaces,
	}
}

// reset empties the maps, but for the trusted prefixes, which are of the options.
func (s *sharedSide) reset() error {
	var errs []error
	for _, m := range mapsOf(s.kernel) {
		errs = append(errs, empty(*m))
	}
	return errors.Join(errs...)
}

// empty makes a map what it was when it was made.
func empty(m *ebpf.Map) error {
	switch m.Type() {
	case ebpf.Hash, ebpf.LRUHash:
		return deleteAll(m)
	case ebpf.Array:
		return zero(m, make([]byte, m.ValueSize()))
	case ebpf.PerCPUArray:
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return fmt.Errorf("number of processors: %w", err)
		}
		values := make([][]byte, cpus)
		for i := range values {
			values[i] = make([]byte, m.ValueSize())
		}
		return zero(m, values)
	case ebpf.RingBuf:
		return readAll(m)
	case ebpf.LPMTrie:
		return nil
	default:
		return fmt.Errorf("%v: no way to empty it", m)
	}
}

func deleteAll(m *ebpf.Map) error {
	var keys [][]byte
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		keys = append(keys, bytes.Clone(key))
	}
	errs := []error{entries.Err()}
	for _, key := range keys {
		errs = append(errs, m.Delete(key))
	}
	return errors.Join(errs...)
}

func zero(m *ebpf.Map, value any) error {
	for key := range m.MaxEntries() {
		if err := m.Put(key, value); err != nil {
			return fmt.Errorf("clear %v: %w", m, err)
		}
	}
	return nil
}

// readAll reads what is left in a ring buffer.
func readAll(m *ebpf.Map) error {
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return fmt.Errorf("read what is left: %w", err)
	}
	defer reader.Close()
	reader.SetDeadline(time.Unix(1, 0)) // does not wait
	for {
		if _, err := reader.Read(); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read what is left: %w", err)
		}
	}
}

// A kernel that is used again knows nothing of the one before.
func TestSharedKernelIsEmpty(t *testing.T) {
	first := newKernel(t, Options{})
	c := newConnection(40000)
	for i := range 3 {
		first.receive(c.request(requestOf(i, "GET /", "", ""))) // they wait in the queue
	}
	first.receive(newConnection(40001).request(clientHello(t)))
	done := newConnection(40002)
	first.receive(done.request(get + traceparent + end))
	first.receive(done.response(ok200))
	first.receive(done.build(segment{seq: done.clientSeq, rst: true})) // its record is in the ring
	loaded := slices.Sorted(maps.Keys(first.probe.kernel.programs))
	first.close(t)

	second := newKernel(t, Options{})
	if got := slices.Sorted(maps.Keys(second.probe.kernel.programs)); !slices.Equal(got, loaded) {
		t.Errorf("programs %v, want the loaded ones: %v", got, loaded)
	}
	for _, m := range mapsOf(second.probe.kernel) {
		if (*m).Type() != ebpf.LPMTrie && (*m).Type() != ebpf.RingBuf {
			checkEmpty(t, *m)
		}
	}
	second.wantUnseen(nil)
	second.wantCount("requests", 0)
	if got := second.exchanges(); len(got) != 0 {
		t.Errorf("exchanges of the kernel before: %+v", got)
	}
}

// checkEmpty checks that nothing in a map is other than 0.
func checkEmpty(t *testing.T, m *ebpf.Map) {
	t.Helper()
	hash := m.Type() == ebpf.Hash || m.Type() == ebpf.LRUHash
	key := make([]byte, m.KeySize())
	entries := m.Iterate()
	for single, perCPU := make([]byte, m.ValueSize()), [][]byte(nil); ; {
		var more bool
		if m.Type() == ebpf.PerCPUArray {
			more = entries.Next(&key, &perCPU)
		} else {
			more, perCPU = entries.Next(&key, &single), [][]byte{single}
		}
		if !more {
			break
		}
		if hash || slices.ContainsFunc(perCPU, func(v []byte) bool { return len(bytes.Trim(v, "\x00")) > 0 }) {
			t.Errorf("%v: entry %x is left", m, key)
		}
	}
	must(t, entries.Err())
}
