// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/layertrace/layertrace/bpf"
)

// kernelSide holds the capture programs and their maps. Programs are loaded
// when they are first needed: the verifier takes a third of a second for each.
type kernelSide struct {
	bpf.CaptureMaps
	sweep    *ebpf.Program
	spec     *ebpf.CollectionSpec
	programs map[string]*ebpf.Program
}

// loadKernelSide makes the maps, with the knobs of opts, and loads the sweep.
//
// The error says what to do when the kernel or the rights are not enough.
func loadKernelSide(opts *Options) (*kernelSide, error) {
	spec, err := bpf.LoadCapture()
	if err != nil {
		return nil, fmt.Errorf("read capture programs: %w", err)
	}
	if err := configure(spec, opts); err != nil {
		return nil, err
	}
	// Kernels before 5.11 charge BPF memory to this limit; a refusal shows
	// when the maps are made, with a better message.
	_ = rlimit.RemoveMemlock()
	k := &kernelSide{spec: spec, programs: map[string]*ebpf.Program{}}
	var first struct {
		bpf.CaptureMaps
		Sweep *ebpf.Program `ebpf:"sweep"`
	}
	if err := spec.LoadAndAssign(&first, nil); err != nil {
		return nil, loadError("capture", err)
	}
	k.CaptureMaps, k.sweep = first.CaptureMaps, first.Sweep
	if err := trust(k.TrustedPrefixes, opts.TrustedPrefixes); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// program loads a capture program, or returns it when it is loaded.
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

// load loads programs that work on the same maps, as far as they use them.
func (k *kernelSide) load(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	shared := map[string]*ebpf.Map{
		bpf.CaptureMapConnections:        k.Connections,
		bpf.CaptureMapCounters:           k.Counters,
		bpf.CaptureMapExchanges:          k.Exchanges,
		bpf.CaptureMapTrackedConnections: k.TrackedConnections,
		bpf.CaptureMapScratches:          k.Scratches,
		bpf.CaptureMapPartialHeads:       k.PartialHeads,
		bpf.CaptureMapTrustedPrefixes:    k.TrustedPrefixes,
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
	errs := []error{k.sweep.Close(), k.CaptureMaps.Close()}
	for _, p := range k.programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func configure(spec *ebpf.CollectionSpec, o *Options) error {
	sizeMaps(spec, o)
	set := map[string]any{
		bpf.CaptureVarPrefixWindow:   uint32(o.PrefixWindow),
		bpf.CaptureVarDeep:           o.Deep,
		bpf.CaptureVarDeepWindow:     uint32(o.DeepWindow),
		bpf.CaptureVarRingWakeupFill: uint64(o.RingBytes / 4),
		bpf.CaptureVarFilterPorts:    len(o.Ports) > 0,
		bpf.CaptureVarPorts:          portBits(o.Ports),
	}
	headers := bpf.CaptureContextHeaders{Len: uint32(len(o.ContextHeaders))}
	for i, h := range o.ContextHeaders {
		name := strings.ToLower(h.Name) + ":"
		headers.Of[i].Len = uint8(len(name))
		headers.Of[i].Format = uint32(h.Format)
		copy(headers.Of[i].Name[:], name)
	}
	set[bpf.CaptureVarContextHeaders] = headers
	return setAll(spec, set)
}

// sizeMaps gives the maps that the programs use their sizes.
func sizeMaps(spec *ebpf.CollectionSpec, o *Options) {
	sizes := map[string]uint32{
		bpf.CaptureMapConnections: uint32(o.MaxConnections),
		bpf.CaptureMapExchanges:   uint32(o.RingBytes),
	}
	if !o.Deep {
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
			return fmt.Errorf("set %s of the BPF programs: %w", name, err)
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

// loadError says what a refused program load most likely means.
func loadError(what string, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("load %s programs: this kernel lacks a feature (run \"layertrace doctor\"): %w", what, err)
	case errors.As(err, &verifier):
		return fmt.Errorf("load %s programs: the kernel's verifier refused them (please report this with the output of \"layertrace doctor\"): %w", what, err)
	case errors.Is(err, errPermission):
		return fmt.Errorf("load %s programs: no permission: run as root or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: %w", what, err)
	default:
		return fmt.Errorf("load %s programs: %w", what, err)
	}
}
