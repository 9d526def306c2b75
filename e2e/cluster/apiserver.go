// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// serverAddress is where the API server listens in the cluster's namespace;
// it also listens on BridgeIP.
const serverAddress = "127.0.0.1:6443"

// ServiceIP is the address of the service kubernetes, by which pods know the
// API server. Something has to translate it: no kube-proxy runs.
const ServiceIP = "10.96.0.1"

// StartAPIServer starts the API server, and returns when it is ready. Start
// does this; it is for tests that have called StopAPIServer.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	c.apiServer, err = c.Run(sandbox.Spec{Name: "kube-apiserver", Path: c.options.Tools.APIServer, Args: []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + BridgeIP,
		"--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + c.file("apiserver.crt"), "--tls-private-key-file=" + c.file("apiserver.key"),
		"--token-auth-file=" + c.file("tokens.csv"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.file("serviceaccounts.key"),
		"--service-account-signing-key-file=" + c.file("serviceaccounts.key"),
		"--api-audiences=" + audiences,
		"--profiling=false",
	}})
	if err != nil {
		return err
	}
	if c.entry == nil {
		if err := c.connect(); err != nil {
			return err
		}
	}
	return AwaitReady(ctx, c.apiServer, func(ctx context.Context) error {
		return c.Client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// StopAPIServer kills the API server, as an outage; etcd keeps all objects.
// (Asked to end, it would wait a minute for its clients' watches.)
func (c *Cluster) StopAPIServer() error {
	if c.apiServer == nil {
		return errors.New("stop the API server: it does not run")
	}
	server := c.apiServer
	c.apiServer = nil
	return server.Kill()
}

// connect opens the way to the API server for clients outside the namespace,
// and makes this process's.
func (c *Cluster) connect() (err error) {
	if c.entry, err = openEntry(c.Space, serverAddress); err != nil {
		return err
	}
	c.Kubeconfig, c.KubeconfigInside = c.file("admin.kubeconfig"), c.file("inside.kubeconfig")
	if _, err = c.writeKubeconfig(c.KubeconfigInside, c.URLInside(), c.keys.admin); err != nil {
		return err
	}
	if c.Config, err = c.writeKubeconfig(c.Kubeconfig, c.URL(), c.keys.admin); err != nil {
		return err
	}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(c.Config); err != nil {
		return fmt.Errorf("make a client of the API server: %w", err)
	}
	return nil
}

// URL is where clients on the host's loopback reach the API server.
func (c *Cluster) URL() string { return "https://" + c.entry.Addr() }

// URLInside is where clients in the cluster's namespaces reach it.
func (c *Cluster) URLInside() string { return "https://" + BridgeIP + ":6443" }
