// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// ServiceAccountKubeconfig writes a kubeconfig file with which a client is a
// service account, and returns the same for clients in this process. The
// account must exist. inside says that the client runs in the cluster's
// namespaces, not on the host's loopback.
func (c *Cluster) ServiceAccountKubeconfig(ctx context.Context, namespace, account, path string, inside bool) (*rest.Config, error) {
	token, err := c.Client.CoreV1().ServiceAccounts(namespace).
		CreateToken(ctx, account, &authentication.TokenRequest{}, meta.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("get a token of service account %s/%s: %w", namespace, account, err)
	}
	url := c.URL()
	if inside {
		url = c.URLInside()
	}
	return c.writeKubeconfig(path, url, token.Status.Token)
}

// writeKubeconfig writes a kubeconfig file and reads it back.
func (c *Cluster) writeKubeconfig(path, url, token string) (*rest.Config, error) {
	config := api.Config{
		Clusters:       map[string]*api.Cluster{"test": {Server: url, CertificateAuthorityData: c.keys.ca}},
		AuthInfos:      map[string]*api.AuthInfo{"test": {Token: token}},
		Contexts:       map[string]*api.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		CurrentContext: "test",
	}
	if err := clientcmd.WriteToFile(config, path); err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	client, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	// client-go's default of 5 requests a second is meant to spare a shared
	// API server.
	client.QPS, client.Burst = 1000, 1000
	return client, nil
}
