// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Clients outside of the mesh reach the gateway door by HTTP, and by HTTPS with a
// certificate that is not istiod's.
const (
	doorURL   = "http://" + doorIP + ":8080/"
	secureURL = "https://" + doorIP + ":8443/"
	// doorSecret is the Secret to which the Gateway in mtls.yaml refers.
	doorSecret = "door-certificate"
)

// createDoorCertificate creates the gateway's certificate as a Secret.
func (c *chain) createDoorCertificate(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	name := pkix.Name{CommonName: "door.example"}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: name, DNSNames: []string{name.CommonName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("create the gateway's certificate: %w", err)
	}
	if c.encrypted.doorCertificate, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	_, err = c.cluster.Client.CoreV1().Secrets(cluster.AppNamespace).Create(ctx, &core.Secret{
		ObjectMeta: meta.ObjectMeta{Name: doorSecret}, Type: core.SecretTypeTLS,
		Data: map[string][]byte{
			core.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			core.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		},
	}, meta.CreateOptions{})
	return err
}

// secureClient returns a client outside of the mesh that accepts the gateway's certificate
// only.
func (c *chain) secureClient() (*http.Client, error) {
	if c.encrypted.doorCertificate == nil {
		return nil, errors.New("the gateway has no certificate")
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.encrypted.doorCertificate)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext:     c.encrypted.nodes[0].Namespace.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: c.encrypted.doorCertificate.Subject.CommonName, MinVersion: tls.VersionTLS12},
	}}, nil
}

// answersHTTPS waits until the gateway answers requests by HTTPS.
func answersHTTPS(ctx context.Context, c *chain) error {
	client, err := c.secureClient()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return sandbox.Await(ctx, "the gateway's answer by HTTPS", configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := sandbox.Get(ctx, client, secureURL)
		return err
	})
}
