// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
	luafilter "github.com/layertrace/layertrace/lua-filter"
)

// envoyConfig is an Envoy that runs a Lua script in its router. %s: its address, the script as
// JSON, the address of the upstream.
const envoyConfig = `
static_resources:
  listeners:
  - address: {socket_address: {address: %s, port_value: 8080}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: attacked
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              upstream_http_filters:
              - name: lua
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                  default_source_code: {inline_string: %s}
              - name: envoy.filters.http.upstream_codec
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: upstream}}]}
  clusters:
  - name: upstream
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: %s, port_value: 80}}}
`

// luaNames sends requests with header names of their own, as long as Envoy lets through, to an
// Envoy with the Lua filter.
func luaNames(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const warm, names, length, growth = 500, 2500, 58_000, 16 << 20
	if t.envoy == "" {
		return "", false, errors.New("there is no Envoy to attack")
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	if err := t.serve(t.Pods[1], PodAddress(2)+":80", handler); err != nil {
		return "", false, err
	}
	source, err := luafilter.Source(luafilter.Config{})
	if err != nil {
		return "", false, err
	}
	script, err := json.Marshal(source)
	if err != nil {
		return "", false, err
	}
	config := filepath.Join(t.dir, "envoy.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, envoyConfig, PodAddress(1), script, PodAddress(2)), 0o644); err != nil {
		return "", false, err
	}
	proxy, err := sandbox.Start(sandbox.Spec{
		Name: "envoy", Path: t.envoy, Args: []string{"--config-path", config, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"},
		Namespace: t.Pods[0], Cgroup: t.group, Stderr: filepath.Join(t.dir, "envoy.log"),
	})
	if err != nil {
		return "", false, err
	}
	t.processes = append(t.processes, proxy)
	address := PodAddress(1) + ":8080"
	err = sandbox.AwaitReady(ctx, proxy, time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := t.Pods[2].Get(ctx, "http://"+address+"/")
		return err
	})
	if err != nil {
		return "", false, err
	}
	c, err := t.Pods[2].DialContext(ctx, "tcp", address)
	if err != nil {
		return "", false, err
	}
	defer c.Close()
	in := bufio.NewReader(c)
	var before sandbox.Memory
	for i := range warm + names {
		if i == warm {
			if before, err = sandbox.ReadMemory(proxy.PID()); err != nil {
				return "", false, err
			}
		}
		name := fmt.Sprintf("x%07d%s", i, strings.Repeat("a", length-8))
		request := strings.Replace(sampled(ofSome(i), i+1), "\r\n\r\n", "\r\n"+name+": 1\r\n\r\n", 1)
		if err := exchange(c, in, request); err != nil {
			return "", false, fmt.Errorf("request %d: %w\n%s", i, err, proxy.Tail())
		}
	}
	after, err := sandbox.ReadMemory(proxy.PID())
	if err != nil {
		return "", false, err
	}
	grown := int64(after.Resident) - int64(before.Resident)
	return fmt.Sprintf("Envoy grew from %d MiB after %d requests by %d KiB", before.Resident>>20, warm, grown>>10), grown <= growth, nil
}
