// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// keys are the secrets of one cluster, made anew by each Start.
type keys struct {
	// admin is the token of a user in the group system:masters.
	admin string
	// ca is the certificate, PEM, by which clients know the API server.
	ca []byte
}

// audiences are for whom tokens of service accounts are: the API server, and
// istiod, which takes them from sidecars.
const audiences = "https://kubernetes.default.svc,istio-ca"

// makeKeys writes the API server's files: certificate and key for TLS, the
// admin's token, and the key that signs tokens of service accounts.
func (c *Cluster) makeKeys() error {
	c.keys.admin = rand.Text()
	ca, key, err := cert.GenerateSelfSignedCertKey("kubernetes",
		[]net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(BridgeIP), net.ParseIP(ServiceIP)}, []string{"localhost", "kubernetes.default.svc"})
	if err != nil {
		return fmt.Errorf("make the API server's certificate: %w", err)
	}
	signing, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return fmt.Errorf("make the key of service accounts: %w", err)
	}
	c.keys.ca = ca
	for name, data := range map[string][]byte{
		"apiserver.crt": ca, "apiserver.key": key, "serviceaccounts.key": signing,
		"tokens.csv": []byte(c.keys.admin + ",admin,admin,system:masters\n"),
	} {
		if err := os.WriteFile(c.file(name), data, 0o600); err != nil {
			return fmt.Errorf("write the API server's keys: %w", err)
		}
	}
	return nil
}
