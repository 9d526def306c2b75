// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Ports of the stores beside Jaeger, on the same address.
const (
	ZipkinPort        = JaegerZipkinPort + 1
	TempoPort         = 3200
	TempoOTLPHTTPPort = tempoOTLPPort + 1
	tempoOTLPPort     = JaegerOTLPPort + 100
)

// URL returns the URL of a port of the infrastructure, in the lab's network.
func URL(port int) string { return "http://" + net.JoinHostPort(InfraIP, strconv.Itoa(port)) }

// ZipkinReceiver returns the URL that takes Zipkin's spans, for the Collector.
func ZipkinReceiver() string { return URL(ZipkinPort) + "/api/v2/spans" }

// TempoReceiver returns Tempo's address for OTLP, for the Collector.
func TempoReceiver() string { return net.JoinHostPort(InfraIP, strconv.Itoa(tempoOTLPPort)) }

// StartZipkin starts Zipkin with its web UI on the switch, a program for Java that keeps
// spans in memory, and waits until it is ready. Down ends it too.
func (l *Lab) StartZipkin(ctx context.Context, jar string) (*sandbox.Process, error) {
	return l.startStore(ctx, "/health", ZipkinPort, sandbox.Spec{
		Name: "zipkin", Path: "/usr/bin/env", Args: []string{"java", "-Xmx512m", "-jar", jar},
		Env: []string{"QUERY_PORT=" + strconv.Itoa(ZipkinPort), "SELF_TRACING_ENABLED=false", "MEM_MAX_SPANS=100000"},
	})
}

// ExposeZipkin makes Zipkin reachable on the host's loopback, at its usual port, or at a
// free one when that is taken. Close the result.
func (l *Lab) ExposeZipkin() (*sandbox.PortForward, error) {
	return sandbox.ForwardPort(l.network.infra, JaegerZipkinPort, net.JoinHostPort(InfraIP, strconv.Itoa(ZipkinPort)))
}

const tempoTemplate = `
server: { http_listen_address: "%[1]s", http_listen_port: %[2]d, grpc_listen_address: 127.0.0.1, grpc_listen_port: 9095, log_level: warn } # its parts find each other there
distributor: { receivers: { otlp: { protocols: { grpc: { endpoint: "%[1]s:%[3]d" }, http: { endpoint: "%[1]s:%[4]d" } } } } }
storage: { trace: { backend: local, wal: { path: "%[5]s/wal" }, local: { path: "%[5]s/blocks" } } }
live_store: { wal: { path: "%[5]s/live" }, shutdown_marker_dir: "%[5]s", flush_check_period: 1s, max_trace_idle: 1s, max_block_duration: 5s } # searchable sooner
usage_report: { reporting_enabled: false }
`

// TempoConfig returns a configuration of Tempo as a single program that listens on ip and
// keeps its data in a directory.
func TempoConfig(ip, dir string) string {
	return fmt.Sprintf(tempoTemplate, ip, TempoPort, tempoOTLPPort, TempoOTLPHTTPPort, dir)
}

// StartTempo starts Grafana Tempo on the switch, as a single program, and waits until it is
// ready. Down ends it.
func (l *Lab) StartTempo(ctx context.Context, program string) (*sandbox.Process, error) {
	dir := filepath.Join(l.options.Dir, "tempo")
	config := dir + ".yaml"
	if err := os.WriteFile(config, []byte(TempoConfig(InfraIP, dir)), 0o644); err != nil {
		return nil, fmt.Errorf("write Tempo's configuration: %w", err)
	}
	return l.startStore(ctx, "/ready", TempoPort, sandbox.Spec{Name: "tempo", Path: program, Args: []string{"-target=all", "-config.file=" + config}})
}

func (l *Lab) startStore(ctx context.Context, ready string, port int, spec sandbox.Spec) (*sandbox.Process, error) {
	spec.Namespace, spec.Cgroup = l.network.infra, l.groups["infra"]
	spec.Stderr = filepath.Join(l.options.Dir, spec.Name+".log")
	store, err := sandbox.Start(spec)
	if err != nil {
		return nil, err
	}
	err = l.ready(ctx, store, func(ctx context.Context) error {
		_, err := l.network.infra.Get(ctx, URL(port)+ready)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, store.Kill())
	}
	return store, nil
}

// ZipkinSpans returns how many spans of a trace Zipkin has.
func (l *Lab) ZipkinSpans(ctx context.Context, traceID string) (int, error) {
	body, err := l.network.infra.Get(ctx, URL(ZipkinPort)+"/api/v2/trace/"+traceID)
	if err != nil {
		return 0, err
	}
	var spans []struct{}
	if err := json.Unmarshal(body, &spans); err != nil {
		return 0, fmt.Errorf("read trace %s from Zipkin: %w", traceID, err)
	}
	return len(spans), nil
}
