// SPDX-License-Identifier: Apache-2.0

// Package envoy configures the pods' Envoys and sends the pods' traffic
// through them.
package lab

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

// Tracer is how the Envoys trace and propagate.
type Tracer string

// Tracers.
const (
	// Zipkin propagates B3 in several headers and shares span IDs between
	// client and server, so that an application sees the wire's span ID.
	Zipkin Tracer = "zipkin"
	// OpenTelemetry propagates traceparent and tracestate.
	OpenTelemetry Tracer = "opentelemetry"
)

// ParseTracer checks a tracer's name.
func ParseTracer(name string) (Tracer, error) {
	switch t := Tracer(name); t {
	case Zipkin, OpenTelemetry:
		return t, nil
	default:
		return "", fmt.Errorf("unknown tracer %q: choose %s or %s", name, Zipkin, OpenTelemetry)
	}
}

const (
	// InboundPort is where an Envoy takes what comes to its pod.
	InboundPort = 15006
	// OutboundPort is where it takes what its application sends.
	OutboundPort = 15001
	// AdminAddress is where an Envoy's admin interface listens in its pod.
	EnvoyAdminAddress = "127.0.0.1:15000"

	// What Istio adds of its own metadata, in bytes.
	gatewayMetadata = 1100
	sidecarMetadata = 600
)

// Config is what one Envoy's configuration depends on.
type EnvoyConfig struct {
	// Pod and Service name the Envoy and its spans.
	Pod, Service string
	// Gateway makes an ingress gateway that listens on GatewayPort in place
	// of a sidecar.
	Gateway     bool
	GatewayPort int
	// AppPort is the port of the application here and everywhere.
	AppPort int
	// Clusters are the services that can be called.
	Clusters []EnvoyCluster
	Tracer   Tracer
	// Sampling is the share of root requests that is sampled, in per cent.
	Sampling float64
	// CollectorIP is the address of Jaeger's receivers.
	CollectorIP string
	// Wasm is the path of the module that puts the trace headers in front;
	// empty leaves Envoy's own order.
	Wasm string
	// AccessLog is the file for one JSON line per request sent to another pod.
	AccessLog string
}

// Cluster is a service with its endpoints, asked in turn; a request whose
// header PodHeader names one of them goes there.
type EnvoyCluster struct {
	Name      string
	Endpoints []Endpoint
}

// Endpoint is a pod behind a service.
type Endpoint struct{ Pod, IP string }

// PodHeader is the request header that chooses a pod.
const PodHeader = "x-lab-pod"

//go:embed envoy.yaml.tmpl
var envoyConfig string

var envoyTemplate = template.Must(template.New("bootstrap").
	Funcs(template.FuncMap{"json": quote}).Parse(envoyConfig))

func quote(s string) string { return fmt.Sprintf("%q", s) }

// Bootstrap writes the Envoy configuration.
func (c EnvoyConfig) Bootstrap() ([]byte, error) {
	values := struct {
		EnvoyConfig
		Inbound, Outbound int
		Metadata          string
	}{c, InboundPort, OutboundPort, metadata(sidecarMetadata)}
	if c.Gateway {
		values.Metadata = metadata(gatewayMetadata)
	}
	var out bytes.Buffer
	if err := envoyTemplate.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration of %s: %w", c.Pod, err)
	}
	return out.Bytes(), nil
}

// metadata returns a value of x-envoy-peer-metadata, Base64 in Istio as here;
// only its length matters.
func metadata(size int) string {
	const part = "ChoKCkNMVVNURVJfSUQSDBoKS3ViZXJuZXRlcwo"
	return strings.Repeat(part, size/len(part)+1)[:size]
}
