// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/stats"
)

// Memory is the memory of an Envoy with one variant after some load: medians over the
// rounds, in bytes.
type Memory struct {
	Variant string `json:"variant"`
	// Workers is the number of worker threads, each of which has a VM.
	Workers int `json:"workers"`
	// RSSBytes is resident, AnonymousBytes the part of it that Envoy has written itself.
	RSSBytes       uint64 `json:"rss_bytes"`
	AnonymousBytes uint64 `json:"anonymous_bytes"`
}

const (
	memoryRounds      = 3
	memoryRequests    = 8000
	memoryConnections = 32 // enough for each worker to get some
)

// memoryVariants are the variants to measure; the empty filter takes as much memory as the
// filter in Go, and each filter as much in the connection manager.
var memoryVariants = []string{"stock", "lua-upstream", "wasm-upstream", "compact-upstream"}

// memoryWorkers are the numbers of workers to measure with.
var memoryWorkers = []int{1, 2, 4}

// MeasureMemory measures each variant with 1, 2 and 4 worker threads. Each Envoy runs alone,
// one variant after the other in each round.
func MeasureMemory(ctx context.Context, o CostOptions) ([]Memory, error) {
	if o.Rounds == 0 {
		o.Rounds, o.Requests = memoryRounds, memoryRequests
	}
	if o.Variants == nil {
		var err error
		if o.Variants, err = Variants(ctx, o); err != nil {
			return nil, err
		}
		o.Variants = slices.DeleteFunc(o.Variants, func(v Variant) bool { return !slices.Contains(memoryVariants, v.Name) })
	}
	upstream, err := StartCostUpstream(costResponse)
	if err != nil {
		return nil, err
	}
	defer upstream.Close()
	var results []Memory
	for _, o.Workers = range memoryWorkers {
		o.Progress("memory: %d workers", o.Workers)
		resident, anonymous := map[string][]uint64{}, map[string][]uint64{}
		for range o.Rounds {
			for _, v := range o.Variants {
				memory, err := memoryOf(ctx, o, v, upstream)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", v.Name, err)
				}
				resident[v.Name] = append(resident[v.Name], memory.Resident)
				anonymous[v.Name] = append(anonymous[v.Name], memory.Anonymous)
			}
		}
		for _, v := range o.Variants {
			results = append(results, Memory{
				Variant: v.Name, Workers: o.Workers,
				RSSBytes: stats.Median(resident[v.Name]), AnonymousBytes: stats.Median(anonymous[v.Name]),
			})
		}
	}
	return results, nil
}

// memoryOf starts an Envoy, sends it requests, and returns its memory.
func memoryOf(ctx context.Context, o CostOptions, v Variant, upstream *CostUpstream) (memory sandbox.Memory, err error) {
	r, err := startVariant(ctx, o, v, upstream.Address())
	if err != nil {
		return memory, err
	}
	defer func() { err = errors.Join(err, r.proxy.Stop()) }()
	address, err := r.proxy.Address(v.Name)
	if err != nil {
		return memory, err
	}
	if _, err := sendAll(ctx, address, o.Requests, memoryConnections); err != nil {
		return memory, err
	}
	return sandbox.ReadMemory(r.proxy.PID())
}
