// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// putVariant serves the filter with its own name in a custom section, so that
// it is a module of its own, and returns its SHA-256 in hex.
func (r *rollout) putVariant(name string) (string, error) {
	wasm, err := os.ReadFile(r.options.Tools.Wasm)
	if err != nil {
		return "", fmt.Errorf("read the filter: %w", err)
	}
	// A custom section: ID 0, length, length of the name, name (WebAssembly
	// core specification, 5.5.3); lengths below 128 are one byte.
	section := append([]byte{0, byte(len(name) + 1), byte(len(name))}, name...)
	wasm = append(wasm, section...)
	r.modules.Put(name, wasm)
	sum := sha256.Sum256(wasm)
	return hex.EncodeToString(sum[:]), nil
}

// awaitModule returns when Envoy runs the module: the agent's file for it is
// named by its SHA-256.
func (r *rollout) awaitModule(ctx context.Context, sum string) error {
	return sandbox.Await(ctx, "module "+sum, limit, 100*time.Millisecond, func(ctx context.Context) error {
		dump, err := cluster.Get(ctx, r.client.HTTP, admin+"/config_dump?resource=ecds_filters")
		if err == nil && !strings.Contains(dump, sum) {
			err = errors.New("it is not among Envoy's extensions")
		}
		return err
	})
}

// admin is where the sidecar's Envoy answers questions, seen from its pod.
const admin = "http://127.0.0.1:15000"

// refusedExtensions is how many extension configurations the client's Envoy has
// refused since it started (counter update_rejected of extension discovery).
func (r *rollout) refusedExtensions(ctx context.Context) (int, error) {
	text, err := cluster.Get(ctx, r.client.HTTP, admin+"/stats?format=json&filter=extension_config_discovery.*update_rejected")
	if err != nil {
		return 0, err
	}
	var all struct {
		Stats []struct{ Value int }
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return 0, fmt.Errorf("read Envoy's counters: %w", err)
	}
	sum := 0
	for _, counter := range all.Stats {
		sum += counter.Value
	}
	return sum, nil
}
