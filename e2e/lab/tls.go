// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"slices"
	"time"
)

// TLS is how the Envoys of a mesh encrypt: mutual TLS between all pods with Envoys, by a
// certificate authority of the run, with the names and the ALPN protocol that Istio uses.
type TLS struct {
	// Version is the only one that is spoken between pods, TLS13 or TLS12.
	Version TLSVersion
	// Ciphers are the cipher suites of TLS 1.2, by the names of BoringSSL; empty for
	// Envoy's. TLS 1.3 has no choice in Envoy.
	Ciphers []string
	// Chain makes certificates of RSA keys that an intermediate authority signed, so that a
	// handshake has more and longer records than with the ECDSA keys that it has otherwise.
	Chain bool
	// Telemetry limits Envoys to what Istio's Telemetry API can configure: a record for a
	// request instead of each attempt, and not the trace context that a request came with.
	Telemetry bool
	// RecordPort is a port of each pod's loopback address to which its Envoy sends the
	// records of its access log, 0 for the agent of the node.
	RecordPort int
}

// TLSVersion is a version of TLS.
type TLSVersion string

// Versions.
const (
	TLS13 TLSVersion = "1.3"
	TLS12 TLSVersion = "1.2"
)

// AccessLogPort is where the agent of a node takes the records of Envoys' access logs.
const AccessLogPort = 4327

// spiffeID is the name of a service's pods in their certificates, as in Istio.
func spiffeID(service string) string { return "spiffe://cluster.local/ns/default/sa/" + service }

// certificates are the files of a pod's Envoy.
type certificates struct{ Chain, Key, Root string }

// Authority is the certificate authority of a mesh.
type Authority struct {
	rsa bool
	// issuer signs the pods' certificates, and intermediate, if any, is sent with them.
	root, issuer *x509.Certificate
	key          crypto.Signer
	intermediate []byte
	serial       int64
}

// NewAuthority makes a root, and with chain an intermediate authority below it.
func NewAuthority(chain bool) (*Authority, error) {
	a := &Authority{rsa: chain}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{Organization: []string{"cluster.local"}, CommonName: name},
			IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}
	key, err := a.newKey()
	if err != nil {
		return nil, err
	}
	root := template("root of the lab")
	if a.root, _, err = a.sign(root, root, key.Public(), key); err != nil {
		return nil, err
	}
	a.issuer, a.key = a.root, key
	if !chain {
		return a, nil
	}
	below, err := a.newKey()
	if err != nil {
		return nil, err
	}
	if a.issuer, a.intermediate, err = a.sign(template("intermediate of the lab"), a.root, below.Public(), a.key); err != nil {
		return nil, err
	}
	a.key = below
	return a, nil
}

func (a *Authority) newKey() (crypto.Signer, error) {
	if a.rsa {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// sign returns a certificate, parsed and as PEM.
func (a *Authority) sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, []byte, error) {
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	return parsed, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
}

// issue writes the files of a pod's Envoy, below a path.
func (a *Authority) issue(pod Pod, path string) (files certificates, err error) {
	id, err := url.Parse(spiffeID(pod.Service))
	if err != nil {
		return files, fmt.Errorf("name %s: %w", pod.Name, err)
	}
	key, err := a.newKey()
	if err != nil {
		return files, fmt.Errorf("make a key for %s: %w", pod.Name, err)
	}
	_, leaf, err := a.sign(&x509.Certificate{
		URIs: []*url.URL{id}, IPAddresses: []net.IP{net.ParseIP(pod.IP)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.issuer, key.Public(), a.key)
	if err != nil {
		return files, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return files, fmt.Errorf("write the key of %s: %w", pod.Name, err)
	}
	files = certificates{Chain: path + ".chain.pem", Key: path + ".key.pem", Root: path + ".root.pem"}
	for name, data := range map[string][]byte{
		files.Chain: slices.Concat(leaf, a.intermediate),
		files.Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		files.Root:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}),
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return files, fmt.Errorf("write the certificates of %s: %w", pod.Name, err)
		}
	}
	return files, nil
}

// Configure adds what TLS needs to a pod's Envoy. Its certificates are in files below path,
// and records is the address of the node's agent.
func (t *TLS) Configure(c *EnvoyConfig, a *Authority, pod Pod, records, path, keyLog string) error {
	files, err := a.issue(pod, path)
	if err != nil {
		return err
	}
	var errs []error
	part := func(text string, err error) string {
		errs = append(errs, err)
		return text
	}
	if !pod.Gateway {
		c.TLS.Server = part(t.serverSocket(files, keyLog))
	}
	for i := range c.Clusters {
		var names []string
		for _, endpoint := range c.Clusters[i].Endpoints {
			names = append(names, spiffeID(endpoint.Service))
		}
		c.Clusters[i].TransportSocket = part(t.clientSocket(files, keyLog, c.Clusters[i].Name, names))
	}
	c.TLS.ServerLog = part(accessLogger(logServer, c.Tracer))
	if t.Telemetry {
		c.TLS.ClientLog = part(accessLogger(logClient, c.Tracer))
	} else {
		c.TLS.AttemptLog = part(accessLogger(logAttempt, c.Tracer))
		c.TLS.Incoming = part(keepIncoming())
	}
	c.TLS.RecordsIP, c.TLS.RecordsPort = records, AccessLogPort
	if t.RecordPort != 0 {
		c.TLS.RecordsIP, c.TLS.RecordsPort = "127.0.0.1", t.RecordPort
	}
	return errors.Join(errs...)
}

// clientSocket returns how an Envoy encrypts connections to a service whose pods have the
// names, in JSON, which is YAML as well. All secrets are logged to a file.
func (t *TLS) clientSocket(files certificates, keyLog, service string, names []string) (string, error) {
	var matchers []object
	for _, name := range names {
		matchers = append(matchers, object{"san_type": "URI", "matcher": object{"exact": name}})
	}
	common := t.common(files, keyLog, "istio")
	common["validation_context"] = object{
		"trusted_ca": object{"filename": files.Root}, "match_typed_subject_alt_names": matchers,
	}
	return transportSocket(object{
		"@type":              extensions + "transport_sockets.tls.v3.UpstreamTlsContext",
		"common_tls_context": common,
		"sni":                fmt.Sprintf("outbound_.%d_._.%s.default.svc.cluster.local", AppPort, service),
	})
}

// serverSocket returns how an Envoy encrypts connections that it accepts from other pods,
// whose certificate it wants to see.
func (t *TLS) serverSocket(files certificates, keyLog string) (string, error) {
	common := t.common(files, keyLog, "istio", "http/1.1")
	common["validation_context"] = object{
		"trusted_ca": object{"filename": files.Root},
		"match_typed_subject_alt_names": []object{
			{"san_type": "URI", "matcher": object{"prefix": "spiffe://cluster.local/"}},
		},
	}
	return transportSocket(object{
		"@type":              extensions + "transport_sockets.tls.v3.DownstreamTlsContext",
		"common_tls_context": common, "require_client_certificate": true,
	})
}

func (t *TLS) common(files certificates, keyLog string, protocols ...string) object {
	version := "TLSv1_3"
	if t.Version == TLS12 {
		version = "TLSv1_2"
	}
	parameters := object{"tls_minimum_protocol_version": version, "tls_maximum_protocol_version": version}
	if len(t.Ciphers) > 0 {
		parameters["cipher_suites"] = t.Ciphers
	}
	return object{
		"tls_params":     parameters,
		"alpn_protocols": protocols,
		"tls_certificates": []object{{
			"certificate_chain": object{"filename": files.Chain},
			"private_key":       object{"filename": files.Key},
		}},
		"key_log": object{"path": keyLog},
	}
}

func transportSocket(config object) (string, error) {
	data, err := json.Marshal(object{"name": "envoy.transport_sockets.tls", "typed_config": config})
	if err != nil {
		return "", fmt.Errorf("write the configuration of TLS: %w", err)
	}
	return string(data), nil
}
