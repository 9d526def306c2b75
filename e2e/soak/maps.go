// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// mapEntries returns the number of entries of the hash maps that a process has open, by their
// names. Maps of one name are added up.
func mapEntries(pid int) (map[string]int, error) {
	ids, err := openMaps(pid)
	if err != nil {
		return nil, err
	}
	entries := map[string]int{}
	for id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("open map %d: %w", id, err)
		}
		name, n, err := countEntries(m)
		if err = errors.Join(err, m.Close()); err != nil {
			return nil, fmt.Errorf("count the entries of map %d: %w", id, err)
		}
		if name != "" {
			entries[name] += n
		}
	}
	return entries, nil
}

// openMaps returns the IDs of the maps that a process has open.
func openMaps(pid int) (map[ebpf.MapID]bool, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fdinfo")
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("find the maps of a process: %w", err)
	}
	ids := map[ebpf.MapID]bool{}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("find the maps of a process: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if value, found := strings.CutPrefix(line, "map_id:"); found {
				id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
				if err != nil {
					return nil, fmt.Errorf("find the maps of a process: %w", err)
				}
				ids[ebpf.MapID(id)] = true
			}
		}
	}
	return ids, nil
}

// countEntries returns the name of a hash map and the number of its entries; of other maps no
// name, as they have as many entries as they were made with.
func countEntries(m *ebpf.Map) (name string, n int, err error) {
	switch m.Type() {
	case ebpf.Hash, ebpf.LRUHash, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.LPMTrie:
	default:
		return "", 0, nil
	}
	info, err := m.Info()
	if err != nil {
		return "", 0, err
	}
	var key any
	next := make([]byte, m.KeySize())
	// An entry that is deleted meanwhile makes the walk start again: it ends all the same.
	for range 2 * m.MaxEntries() {
		err := m.NextKey(key, next)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		if err != nil {
			return "", 0, err
		}
		n++
		key = append([]byte(nil), next...)
	}
	return info.Name, min(n, int(m.MaxEntries())), nil
}
