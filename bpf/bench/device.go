// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// prepareDevice loads the program of a device for each of its cases.
func prepareDevice() (all []*measured, err error) {
	data := strings.Repeat("d", 1000)
	for _, c := range []struct {
		name, payload       string
		udp, marked, before bool
		messages            bool
	}{
		{name: "udp", payload: data[:100], udp: true},
		{name: "ack"},
		{name: "data-of-no-connection-with-an-id", payload: data},
		{name: "data", payload: data, before: true},
		{name: "data-with-option", payload: data, before: true, marked: true},
		{name: "message-with-option", payload: data, before: true, marked: true, messages: true},
	} {
		packet, err := build(c.udp, c.marked, c.payload)
		if err != nil {
			return nil, fmt.Errorf("build packet of case %s: %w", c.name, err)
		}
		one := benchCase{name: c.name, packet: packet, step: uint32(len(c.payload)), messages: c.messages}
		if c.before {
			if one.before, err = build(false, true, data); err != nil {
				return nil, fmt.Errorf("build packet before case %s: %w", c.name, err)
			}
		}
		m, err := prepareOnDevice(one)
		if err != nil {
			return nil, fmt.Errorf("case %s on a device: %w", c.name, err)
		}
		all = append(all, m)
	}
	return all, nil
}

func prepareOnDevice(c benchCase) (*measured, error) {
	spec, err := LoadBenchDevice()
	if err != nil {
		return nil, err
	}
	const ours, nothing = "bench_device", "empty_device"
	for name := range spec.Programs {
		if name != ours && name != nothing {
			delete(spec.Programs, name)
		}
	}
	err = errors.Join(
		spec.Variables["bench_step"].Set(c.step),
		spec.Variables["bench_messages"].Set(c.messages),
		spec.Variables["ring_wakeup_fill"].Set(uint64(1)<<40), // no reader waits
	)
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	ring, err := ringbuf.NewReader(coll.Maps["sightings"])
	if err != nil {
		return nil, err
	}
	// All networks are trusted.
	if err := coll.Maps["trusted_prefixes"].Put(BenchDevicePrefixKey{}, uint8(1)); err != nil {
		return nil, err
	}
	m := &measured{Case: c.name, Mode: "device", packet: c.packet, program: coll.Programs[ours], empty: coll.Programs[nothing], ring: ring}
	if c.before != nil {
		_, err = m.program.Run(&ebpf.RunOptions{Data: c.before})
	}
	return m, err
}
