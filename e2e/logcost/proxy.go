// SPDX-License-Identifier: Apache-2.0

package logcost

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	typeURL    = "type.googleapis.com/"
	extensions = typeURL + "envoy.extensions."
	// sinkCluster receives records and spans, applicationCluster the server's requests.
	sinkCluster        = "sink"
	applicationCluster = "application"
)

// metadataSize is the length in bytes of x-envoy-peer-metadata, which Istio's sidecars add
// to each request.
const metadataSize = 600

// proxyConfig configures one proxy: a client's, which encrypts what it sends to Servers, or
// a server's, which decrypts and sends to Application.
type proxyConfig struct {
	Variants []Variant
	// Servers are the listeners of the server's proxy by variant, nil at the server's.
	Servers           map[string]netip.AddrPort
	Application, Sink netip.AddrPort
	Certificate       certificate
	// Untraced has no tracer.
	Untraced bool
}

// bootstrap returns Envoy's configuration, as JSON.
func (c *proxyConfig) bootstrap() ([]byte, error) {
	clusters := []object{cluster(sinkCluster, c.Sink)}
	clusters[0]["typed_extension_protocol_options"] = object{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                extensions + "upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{}},
		},
	}
	if c.Servers == nil {
		clusters = append(clusters, cluster(applicationCluster, c.Application))
	}
	var listeners []object
	for _, v := range c.Variants {
		listeners = append(listeners, c.listener(v))
		if c.Servers != nil {
			to := cluster(v.Name, c.Servers[v.Name])
			to["transport_socket"] = c.Certificate.socket("UpstreamTlsContext", object{"sni": "outbound_.9080_._.reviews.default.svc.cluster.local"})
			clusters = append(clusters, to)
		}
	}
	data, err := json.MarshalIndent(object{
		"node":  object{"id": "proxy", "cluster": "proxy"},
		"admin": object{"address": socketAddress(netip.MustParseAddrPort("127.0.0.1:0"))},
		// As in the bootstrap of Istio's proxies. The default allows 100.
		"layered_runtime": object{"layers": []object{{
			"name": "istio", "static_layer": object{"re2.max_program_size.error_level": 32768},
		}}},
		// Less of what has nothing to do with requests.
		"stats_flush_interval": "299s",
		"static_resources":     object{"listeners": listeners, "clusters": clusters},
	}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write Envoy's configuration: %w", err)
	}
	return data, nil
}

// listener returns the listener of a variant, as a sidecar has it.
func (c *proxyConfig) listener(v Variant) object {
	side, to, direction := v.Server, applicationCluster, "INBOUND"
	route := object{"name": "inbound", "request_headers_to_remove": []string{"x-envoy-peer-metadata"}}
	if c.Servers != nil {
		side, to, direction = v.Client, v.Name, "OUTBOUND"
		route = object{"name": "outbound", "request_headers_to_add": []object{{
			"header":        object{"key": "x-envoy-peer-metadata", "value": strings.Repeat("m", metadataSize)},
			"append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
		}}}
	}
	route["virtual_hosts"] = []object{{
		"name": "all", "domains": []string{"*"},
		"routes": []object{{"match": object{"prefix": "/"}, "route": object{"cluster": to, "timeout": "0s"}}},
	}}
	router := object{"@type": extensions + "filters.http.router.v3.Router", "suppress_envoy_headers": true}
	if side.AttemptLogs != nil {
		router["upstream_log"] = side.AttemptLogs
	}
	manager := object{
		"@type":       extensions + "filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": direction, "generate_request_id": true, "server_header_transformation": "PASS_THROUGH",
		"route_config": route,
		"http_filters": append(append([]object{}, side.Filters...), object{"name": "envoy.filters.http.router", "typed_config": router}),
	}
	if !c.Untraced {
		manager["tracing"] = object{"random_sampling": object{"value": 1}, "provider": object{
			"name": "envoy.tracers.opentelemetry",
			"typed_config": object{
				"@type": typeURL + "envoy.config.trace.v3.OpenTelemetryConfig", "service_name": "proxy",
				"grpc_service": object{"envoy_grpc": object{"cluster_name": sinkCluster}},
			},
		}}
	}
	if side.Logs != nil {
		manager["access_log"] = side.Logs
	}
	chain := object{"filters": []object{{
		"name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
	}}}
	if c.Servers == nil {
		chain["transport_socket"] = c.Certificate.socket("DownstreamTlsContext", object{"require_client_certificate": true})
	}
	return object{
		"name": v.Name, "address": socketAddress(netip.MustParseAddrPort("127.0.0.1:0")),
		"traffic_direction": direction, "filter_chains": []object{chain},
	}
}

func cluster(name string, address netip.AddrPort) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "60s",
		"load_assignment": object{"cluster_name": name, "endpoints": []object{{
			"lb_endpoints": []object{{"endpoint": object{"address": socketAddress(address)}}},
		}}},
	}
}

func socketAddress(a netip.AddrPort) object {
	return object{"socket_address": object{"address": a.Addr().String(), "port_value": a.Port()}}
}

// certificate are the files of a certificate that is its own authority. Both proxies use it.
type certificate struct{ Chain, Key string }

// writeCertificate makes a certificate, in files below a path.
func writeCertificate(path string) (c certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"cluster.local"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"reviews"},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return c, fmt.Errorf("sign a certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return c, fmt.Errorf("write a key: %w", err)
	}
	c = certificate{Chain: path + ".pem", Key: path + ".key.pem"}
	for file, block := range map[string]*pem.Block{
		c.Chain: {Type: "CERTIFICATE", Bytes: der}, c.Key: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return c, fmt.Errorf("write a certificate: %w", err)
		}
	}
	return c, nil
}

// socket returns the transport socket of mutual TLS 1.3 in one direction.
func (c certificate) socket(kind string, config object) object {
	config["@type"] = extensions + "transport_sockets.tls.v3." + kind
	config["common_tls_context"] = object{
		"tls_params":         object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"alpn_protocols":     []string{"istio"},
		"validation_context": object{"trusted_ca": object{"filename": c.Chain}},
		"tls_certificates": []object{{
			"certificate_chain": object{"filename": c.Chain}, "private_key": object{"filename": c.Key},
		}},
	}
	return object{"name": "envoy.transport_sockets.tls", "typed_config": config}
}
