// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// kernelSide holds the capture programs and the maps that all programs share.
// Capture programs are loaded on first use: each takes the verifier a third of a
// second.
type kernelSide struct {
	bpf.CaptureMaps
	sweep    *ebpf.Program
	walk     *ebpf.Program // visits a connection for the sweep
	spec     *ebpf.CollectionSpec
	programs map[string]*ebpf.Program
	numbers  map[ebpf.ProgramID]bool // of programs, as of the last call of owned
}

// loadKernelSide creates the maps and loads the sweep. The error says what to do
// if the kernel or the permissions are insufficient.
func loadKernelSide(opts *Options) (*kernelSide, error) {
	spec, err := bpf.LoadCapture()
	if err != nil {
		return nil, fmt.Errorf("read capture programs: %w", err)
	}
	if err := configure(spec, opts); err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge BPF memory to this limit. A failure shows up with
	// a better message when the maps are created.
	_ = rlimit.RemoveMemlock()
	k := &kernelSide{spec: spec, programs: map[string]*ebpf.Program{}}
	var first struct {
		bpf.CaptureMaps
		Sweep *ebpf.Program `ebpf:"sweep"`
		Walk  *ebpf.Program `ebpf:"sweep_walk"`
	}
	if err := spec.LoadAndAssign(&first, nil); err != nil {
		return nil, loadError("capture", err)
	}
	k.CaptureMaps, k.sweep, k.walk = first.CaptureMaps, first.Sweep, first.Walk
	if err := trust(k.TrustedPrefixes, opts.TrustedPrefixes); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// program returns a capture program, loading it on first use.
func (k *kernelSide) program(name string) (*ebpf.Program, error) {
	if p, ok := k.programs[name]; ok {
		return p, nil
	}
	spec := k.spec.Copy()
	for other := range spec.Programs {
		if other != name {
			delete(spec.Programs, other)
		}
	}
	coll, err := k.load(spec)
	if err != nil {
		return nil, loadError("capture", err)
	}
	defer coll.Close()
	p := coll.DetachProgram(name)
	k.programs[name] = p
	return p, nil
}

// owned returns the numbers of the capture programs that are loaded. The kernel is asked only
// after one more was loaded: each question reads a file in /proc.
func (k *kernelSide) owned() (map[ebpf.ProgramID]bool, error) {
	if len(k.numbers) == len(k.programs) {
		return k.numbers, nil
	}
	numbers := make(map[ebpf.ProgramID]bool, len(k.programs))
	for name, program := range k.programs {
		info, err := program.Info()
		if err != nil {
			return nil, fmt.Errorf("read the number of program %s: %w", name, err)
		}
		if id, ok := info.ID(); ok {
			numbers[id] = true
		}
	}
	k.numbers = numbers
	return numbers, nil
}

// load loads programs that share the maps of the capture programs.
func (k *kernelSide) load(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	shared := map[string]*ebpf.Map{
		bpf.CaptureMapConnections:        k.Connections,
		bpf.CaptureMapCounters:           k.Counters,
		bpf.CaptureMapExchanges:          k.Exchanges,
		bpf.CaptureMapLimits:             k.Limits,
		bpf.CaptureMapTrackedConnections: k.TrackedConnections,
		bpf.CaptureMapScratches:          k.Scratches,
		bpf.CaptureMapPartialHeads:       k.PartialHeads,
		bpf.CaptureMapSearchBudgets:      k.SearchBudgets,
		bpf.CaptureMapQueuedRequests:     k.QueuedRequests,
		bpf.CaptureMapTrustedPrefixes:    k.TrustedPrefixes,
		bpf.CaptureMapUnseenCounters:     k.UnseenCounters,

		bpf.CaptureMapUnprovenConnections: k.UnprovenConnections,
		bpf.CaptureMapLatestHandshakes:    k.LatestHandshakes,
		bpf.CaptureMapOwnOnlyInterfaces:   k.OwnOnlyInterfaces,
	}
	for name := range shared {
		if spec.Maps[name] == nil {
			delete(shared, name)
		}
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
}

// Close frees programs and maps.
func (k *kernelSide) Close() error {
	errs := []error{k.sweep.Close(), k.walk.Close(), k.CaptureMaps.Close()}
	for _, p := range k.programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// configure applies the options to programs that capture packets.
func configure(spec *ebpf.CollectionSpec, o *Options) error {
	sizeMaps(spec, o)
	headers := bpf.CaptureContextHeaders{Len: uint32(len(o.ContextHeaders))}
	for i, h := range o.ContextHeaders {
		name := strings.ToLower(h.Name) + ":"
		headers.Of[i].Len = uint8(len(name))
		headers.Of[i].Format = uint32(h.Format)
		copy(headers.Of[i].Name[:], name)
	}
	var ranks [16]uint8
	copy(ranks[:], tracecontext.Ranks(o.ContextFormats))
	return setAll(spec, map[string]any{
		bpf.CaptureVarOrdered:        len(o.ContextFormats) > 0,
		bpf.CaptureVarRanks:          ranks,
		bpf.CaptureVarPrefixWindow:   uint32(o.PrefixWindow),
		bpf.CaptureVarDeep:           uint32(deepModes[o.Deep]),
		bpf.CaptureVarDeepBudget:     uint64(o.DeepBudget),
		bpf.CaptureVarDeepWindow:     uint32(o.DeepWindow),
		bpf.CaptureVarUnprovenMax:    unprovenMax(o),
		bpf.CaptureVarRingWakeupFill: uint64(wakeupFill(o.RingBytes)),
		bpf.CaptureVarAllRequests:    o.AllRequests,
		bpf.CaptureVarFilterPorts:    len(o.Ports) > 0,
		bpf.CaptureVarPorts:          portBits(o.Ports),
		bpf.CaptureVarContextHeaders: headers,
	})
}

// maxWakeupFill is some 310 records: under a millisecond of work. More would be read in
// bursts, at the cost of the other programs of the node; fewer would cost wakeups, of which
// each is as dear as some 30 records.
const maxWakeupFill = 128 << 10

// wakeupFill returns the fill in bytes at which the reader of a ring is woken.
func wakeupFill(ring int) int { return min(ring/4, maxWakeupFill) }

var deepModes = map[DeepMode]bpf.CaptureDeepMode{
	DeepOff: bpf.CaptureDeepModeDEEP_OFF, DeepOn: bpf.CaptureDeepModeDEEP_ON, DeepAuto: bpf.CaptureDeepModeDEEP_AUTO,
}

// unprovenMax is the number of connections without proof: a quarter of the table, and less
// than the programs can count (COUNT_MASK).
func unprovenMax(o *Options) uint32 { return uint32(min(max(o.MaxConnections/4, 1), 1<<20-1)) }

// sizeMaps sets the sizes of the maps that spec has.
func sizeMaps(spec *ebpf.CollectionSpec, o *Options) {
	sizes := map[string]uint32{
		bpf.CaptureMapConnections: uint32(o.MaxConnections),
		bpf.CaptureMapExchanges:   uint32(o.RingBytes),

		bpf.CaptureMapUnprovenConnections: unprovenMax(o),
	}
	if o.Deep == DeepOff {
		sizes[bpf.CaptureMapPartialHeads] = 1
	}
	for name, size := range sizes {
		if m := spec.Maps[name]; m != nil {
			m.MaxEntries = size
		}
	}
}

func setAll(spec *ebpf.CollectionSpec, values map[string]any) error {
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set BPF variable %s: %w", name, err)
		}
	}
	return nil
}

func portBits(ports []uint16) (bits [65536 / 8]uint8) {
	for _, p := range ports {
		bits[p>>3] |= 1 << (p & 7)
	}
	return bits
}

func trust(m *ebpf.Map, prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		bits := p.Bits()
		if p.Addr().Is4() {
			bits += 96
		}
		addr := p.Addr().As16()
		key := bpf.CapturePrefixKey{Len: uint32(bits)}
		key.Addr[0] = binary.NativeEndian.Uint64(addr[:8])
		key.Addr[1] = binary.NativeEndian.Uint64(addr[8:])
		if err := m.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("trust prefix %s: %w", p, err)
		}
	}
	return nil
}

// loadError adds the most likely cause to the error of a program load.
func loadError(what string, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("load %s programs: this kernel lacks a feature (run \"layertrace doctor\"): %w", what, err)
	case errors.As(err, &verifier):
		return fmt.Errorf("load %s programs: rejected by the kernel's verifier (please report this with the output of \"layertrace doctor\"): %w", what, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("load %s programs: permission denied: run as root or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: %w", what, err)
	default:
		return fmt.Errorf("load %s programs: %w", what, err)
	}
}
