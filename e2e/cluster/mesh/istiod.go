// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	// startLimit is how long one program may take to be ready.
	startLimit = 3 * time.Minute
	pollEvery  = 100 * time.Millisecond
)

// startIstiod starts istiod, and returns when it is ready.
func (m *Mesh) startIstiod(ctx context.Context) (err error) {
	m.istiod, err = m.cluster.Run(sandbox.Spec{
		Name: "istiod", Path: m.tools.Istiod,
		Args: []string{"discovery", "--kubeconfig=" + m.cluster.KubeconfigInside},
		Env: []string{
			"POD_NAME=istiod", "POD_NAMESPACE=" + RootNamespace, "CLUSTER_ID=Kubernetes",
			"PILOT_CERT_PROVIDER=istiod",
			// Pods are made here, not by a webhook that the API server calls.
			"INJECT_ENABLED=false", "INJECTION_WEBHOOK_CONFIG_NAME=", "VALIDATION_WEBHOOK_CONFIG_NAME=",
			// Filters that Envoy as such does not have.
			"PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false",
		},
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: m.cluster.Space.DialContext}}
	defer client.CloseIdleConnections()
	return cluster.AwaitReady(ctx, m.istiod, func(ctx context.Context) error {
		_, err := cluster.Get(ctx, client, "http://127.0.0.1:8080/ready")
		return err
	})
}

// writeShared writes the files that are the same for every sidecar: istiod's
// name and address, and the certificate by which its own is checked.
func (m *Mesh) writeShared(ctx context.Context) error {
	dir, err := m.cluster.Dir("pods")
	if err != nil {
		return err
	}
	m.hosts = filepath.Join(dir, "hosts")
	if err := writeFile(m.hosts, "127.0.0.1 localhost\n"+cluster.BridgeIP+" istiod.istio-system.svc\n"); err != nil {
		return err
	}
	// istiod writes the certificate into a ConfigMap of every namespace.
	return sandbox.Await(ctx, "istiod's root certificate", startLimit, pollEvery, func(ctx context.Context) error {
		root, err := m.cluster.Client.CoreV1().ConfigMaps(Namespace).Get(ctx, "istio-ca-root-cert", meta.GetOptions{})
		if err != nil {
			return err
		}
		if m.rootCA = root.Data["root-cert.pem"]; m.rootCA == "" {
			return errors.New("it is empty")
		}
		return nil
	})
}
