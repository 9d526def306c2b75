// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// providers are the tracers, as providers of an HTTP connection manager.
var providers = map[string]string{
	"zipkin": `
name: envoy.tracers.zipkin
typed_config:
  "@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig
  collector_cluster: collector
  collector_endpoint: /api/v2/spans
  collector_endpoint_version: HTTP_JSON
  trace_id_128bit: true
  shared_span_context: false`,
	"opentelemetry": `
name: envoy.tracers.opentelemetry
typed_config:
  "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
  grpc_service: {envoy_grpc: {cluster_name: collector}}
  service_name: front`,
	"datadog": `
name: envoy.tracers.datadog
typed_config:
  "@type": type.googleapis.com/envoy.config.trace.v3.DatadogConfig
  collector_cluster: collector
  service_name: front`,
	"skywalking": `
name: envoy.tracers.skywalking
typed_config:
  "@type": type.googleapis.com/envoy.config.trace.v3.SkyWalkingConfig
  grpc_service: {envoy_grpc: {cluster_name: collector}}
  client_config: {service_name: front, instance_name: front-1}`,
}

// envoyRun is one run of Envoy, which gives two heads.
type envoyRun struct {
	tracer          string
	SamplingPercent int
	PeerMetadata    string
}

func envoyRuns() []envoyRun {
	var runs []envoyRun
	for tracer := range providers {
		runs = append(runs,
			envoyRun{tracer, 100, ""},
			envoyRun{tracer, 100, strings.Repeat("Cg5DTFVTVEVS", 92)[:1100]}, // base64, as Istio's is
			envoyRun{tracer, 0, ""})
	}
	return runs
}

func (e envoyRun) name() string {
	name := "envoy-" + e.tracer
	if e.SamplingPercent == 0 {
		name += "-unsampled"
	}
	if e.PeerMetadata != "" {
		name += "-peer-metadata"
	}
	return name
}

// continued is the context, in the tracer's format, for Envoy to continue.
var continued = map[string]string{"zipkin": "b3multi", "opentelemetry": "w3c", "datadog": "datadog", "skywalking": "skywalking"}

// record starts Envoy as a proxy of the recorder and returns the heads that it
// forwards for a request without and with a context.
func (e envoyRun) record(binary, folder string, r *recorder) (root, further []byte, err error) {
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	config, err := e.config(port, r.listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(folder, "envoy.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, nil, err
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start Envoy: %w", err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed: the exit status means nothing
	}()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	if err := waitFor(address); err != nil {
		return nil, nil, fmt.Errorf("%w; Envoy's log: %s", err, &log)
	}
	if root, err = passOn(address, nil, r); err != nil {
		return nil, nil, err
	}
	further, err = passOn(address, contexts[continued[e.tracer]], r)
	return root, further, err
}

func (e envoyRun) config(listenPort, recorderPort int) ([]byte, error) {
	source, err := clientFiles.ReadFile("clients/envoy.yaml")
	if err != nil {
		return nil, err
	}
	parsed, err := template.New("envoy.yaml").Parse(string(source))
	if err != nil {
		return nil, err
	}
	indent := strings.Repeat(" ", 14)
	var out bytes.Buffer
	err = parsed.Execute(&out, struct {
		envoyRun
		Provider                 string
		UpstreamSpan             bool // SkyWalking's tracer writes sw8 only from those
		ListenPort, RecorderPort int
	}{e, strings.ReplaceAll(providers[e.tracer], "\n", "\n"+indent), e.tracer == "skywalking", listenPort, recorderPort})
	return out.Bytes(), err
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

// waitFor waits until the address accepts connections.
func waitFor(address string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("connect to %s: %w", address, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func passOn(address string, headers []header, r *recorder) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+address+"/productpage", nil)
	if err != nil {
		return nil, err
	}
	request.Host = "productpage:9080" // not the port of this run
	for _, h := range headers {
		request.Header.Set(h.name, h.value)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("request through Envoy: %w", err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("request through Envoy: %s", response.Status)
	}
	return r.next()
}
