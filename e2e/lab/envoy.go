// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

// Tracer is the tracer of the Envoys, which determines the propagated headers.
type Tracer string

// Tracers.
const (
	// Zipkin propagates B3 in several headers. Client and server share span IDs,
	// so that an application sees the span ID of the wire.
	Zipkin Tracer = "zipkin"
	// OpenTelemetry propagates traceparent and tracestate.
	OpenTelemetry Tracer = "opentelemetry"
)

// ParseTracer returns the tracer with a name.
func ParseTracer(name string) (Tracer, error) {
	switch t := Tracer(name); t {
	case Zipkin, OpenTelemetry:
		return t, nil
	default:
		return "", fmt.Errorf("unknown tracer %q: choose %s or %s", name, Zipkin, OpenTelemetry)
	}
}

const (
	// InboundPort is where an Envoy accepts connections to its pod.
	InboundPort = 15006
	// OutboundPort is where it accepts connections of its application.
	OutboundPort = 15001
	// EnvoyAdminAddress is the address of an Envoy's admin interface in its pod.
	EnvoyAdminAddress = "127.0.0.1:15000"

	// Sizes of the metadata that Istio adds, in bytes.
	gatewayMetadata = 1100
	sidecarMetadata = 600
)

// EnvoyConfig is the configuration of one Envoy.
type EnvoyConfig struct {
	// Pod and Service name the Envoy and its spans.
	Pod, Service string
	// Gateway selects an ingress gateway that listens on GatewayPort instead of a
	// sidecar.
	Gateway     bool
	GatewayPort int
	// AppPort is the port of all applications.
	AppPort int
	// Clusters are the services that the pod calls.
	Clusters []EnvoyCluster
	Tracer   Tracer
	// Sampling is the share of root requests to sample, in percent.
	Sampling float64
	// CollectorIP is the address of Jaeger's receivers.
	CollectorIP string
	// Wasm is the path of the module that moves the trace headers to the start;
	// empty keeps Envoy's order.
	Wasm string
	// AccessLog is the file for one JSON line per request sent to another pod.
	AccessLog string
	// TLS is empty for plain text between pods.
	TLS EnvoyTLS
	// Rough makes what goes wrong in a mesh go wrong here: see Setup.Rough.
	Rough bool
}

// EnvoyTLS is what an Envoy needs for TLS: parts of its configuration, in JSON.
type EnvoyTLS struct {
	// Server is the transport socket for connections that it accepts from pods; empty for
	// plain text, and of a gateway.
	Server string
	// ClientLog, AttemptLog and ServerLog are the loggers for the agent, empty for none.
	ClientLog, AttemptLog, ServerLog string
	// Incoming is the filter that keeps the context that a request came with.
	Incoming string
	// RecordsIP and RecordsPort are where records go.
	RecordsIP   string
	RecordsPort int
}

// EnvoyCluster is a service with its endpoints, which are used in turn. A request
// whose header PodHeader names one of them goes there.
type EnvoyCluster struct {
	Name      string
	Endpoints []Endpoint
	// TransportSocket is how connections to the service are encrypted, in JSON; empty for
	// plain text.
	TransportSocket string
}

// Endpoint is a pod of a service. Service is the name in its certificate.
type Endpoint struct{ Pod, Service, IP string }

// PodHeader is the request header that chooses a pod.
const PodHeader = "x-lab-pod"

//go:embed envoy.yaml.tmpl
var envoyConfig string

var envoyTemplate = template.Must(template.New("bootstrap").
	Funcs(template.FuncMap{"json": quote}).Parse(envoyConfig))

func quote(s string) string { return fmt.Sprintf("%q", s) }

// Bootstrap returns the Envoy configuration.
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

// metadata returns a value of x-envoy-peer-metadata, in Base64 as in Istio. Only
// its length matters.
func metadata(size int) string {
	const part = "ChoKCkNMVVNURVJfSUQSDBoKS3ViZXJuZXRlcwo"
	return strings.Repeat(part, size/len(part)+1)[:size]
}
