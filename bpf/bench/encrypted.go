// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

//go:generate go tool bpf2go -cc clang -target bpfel -go-package main Encrypted encrypted.bpf.c -- -mcpu=v3 -Wall -Werror -Wno-initializer-overrides -I/usr/include/x86_64-linux-gnu

// encryptedCase is one packet, repeated, in the programs for encrypted connections.
type encryptedCase struct {
	name, payload string
	turns         bool // both ends send it, in turns
}

// record is a TLS record of application data with this many bytes, its header included.
func record(size int) string { return recordHeader(size) + strings.Repeat("x", size-5) }

// recordHeader begins a record of which only a part is in the segment.
func recordHeader(size int) string {
	size -= 5
	return string([]byte{23, 3, 3, byte(size >> 8), byte(size)})
}

// encryptedCases are those of a usual connection. Segments have 1,100 bytes.
func encryptedCases() []encryptedCase {
	return []encryptedCase{
		{"encrypted-ack", "", false},
		{"plain-request", requestLine + strings.Repeat("x", 500), false},
		{"plain-body", strings.Repeat("x", 1100), false},
		{"encrypted-inside", recordHeader(15*1100) + strings.Repeat("x", 1095), false}, // 14 of 15 have no header
		{"encrypted-record", record(1100), false},
		{"encrypted-turn", record(1100), true},
		{"encrypted-10-records", strings.Repeat(record(110), 10), false},
	}
}

func prepareEncrypted(c encryptedCase, mode string) (*measured, error) {
	spec, err := LoadEncrypted()
	if err != nil {
		return nil, err
	}
	const turns = 1 << 16
	spec.Maps["turns"].MaxEntries = turns
	if err := errors.Join(
		spec.Variables["bench_step"].Set(uint32(len(c.payload))),
		spec.Variables["bench_turns"].Set(c.turns),
		spec.Variables["turns_size"].Set(uint64(turns)),
	); err != nil {
		return nil, err
	}
	names := map[string][2]string{"tcx": {"bench_tcx", "empty_tcx"}, "socket-filter": {"bench_sock", "empty_sock"}}[mode]
	for name := range spec.Programs {
		if name != names[0] && name != names[1] {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load programs for encrypted connections: %w", err)
	}
	packet, err := buildOf(false, false, c.payload, []byte{10, 0, 0, 1}, []byte{10, 0, 0, 1})
	return &measured{Case: c.name, Mode: mode, packet: packet, program: coll.Programs[names[0]], empty: coll.Programs[names[1]]}, err
}
