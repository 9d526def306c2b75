// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// keys are the secrets of one cluster, new with each Start.
type keys struct {
	// admin is the token of a user in the group system:masters.
	admin string
	// ca is the certificate (PEM) by which clients verify the API server.
	ca []byte
}

// audiences are the audiences of service account tokens: the API server, and
// istiod, which accepts them from sidecars.
const audiences = "https://kubernetes.default.svc,istio-ca"

// makeKeys writes the API server's certificate and key for TLS, the admin's token,
// and the key that signs service account tokens.
func (c *Cluster) makeKeys() error {
	c.keys.admin = rand.Text()
	ca, key, err := cert.GenerateSelfSignedCertKey("kubernetes",
		[]net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(BridgeIP), net.ParseIP(ServiceIP)}, []string{"localhost", "kubernetes.default.svc"})
	if err != nil {
		return fmt.Errorf("create the API server's certificate: %w", err)
	}
	signing, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return fmt.Errorf("create the key of service accounts: %w", err)
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

const (
	etcdURL     = "http://127.0.0.1:2379"
	etcdPeerURL = "http://127.0.0.1:2380"
	// startLimit is how long a program may take to be ready: on a fresh machine
	// with two busy cores it is first read from disk, 150 MB.
	startLimit = 3 * time.Minute
	pollEvery  = 50 * time.Millisecond
)

// startEtcd starts etcd and waits until it is healthy.
func (c *Cluster) startEtcd(ctx context.Context) error {
	etcd, err := c.Run(sandbox.Spec{Name: "etcd", Path: c.options.Tools.Etcd, Args: []string{
		"--data-dir=" + c.file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + etcdPeerURL, "--initial-advertise-peer-urls=" + etcdPeerURL,
		"--initial-cluster=default=" + etcdPeerURL,
	}})
	if err != nil {
		return err
	}
	return AwaitReady(ctx, etcd, func(ctx context.Context) error {
		body, err := c.Namespace.Get(ctx, etcdURL+"/health")
		if err == nil && !strings.Contains(string(body), `"health":"true"`) {
			err = fmt.Errorf("etcd reports %s", body)
		}
		return err
	})
}

// serverAddress is the API server's address in the cluster's namespace. It also
// listens on BridgeIP.
const serverAddress = "127.0.0.1:6443"

// ServiceIP is the address of the service kubernetes, which pods use for the API
// server. As no kube-proxy runs, a node translates it (see serviceRules).
const ServiceIP = "10.96.0.1"

// StartAPIServer starts the API server and waits until it is ready. Start calls it;
// tests call it again after StopAPIServer.
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
	if c.forward == nil {
		if err := c.connect(); err != nil {
			return err
		}
	}
	return AwaitReady(ctx, c.apiServer, func(ctx context.Context) error {
		return c.Client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// StopAPIServer kills the API server to simulate an outage; etcd keeps all objects.
// (On SIGTERM it would wait a minute for its clients' watches.)
func (c *Cluster) StopAPIServer() error {
	if c.apiServer == nil {
		return errors.New("stop the API server: it is not running")
	}
	server := c.apiServer
	c.apiServer = nil
	return server.Kill()
}

// connect makes the API server reachable from the host's loopback, and creates the
// clients of this process.
func (c *Cluster) connect() (err error) {
	if c.forward, err = sandbox.ForwardPort(c.Namespace, 0, serverAddress); err != nil {
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
		return fmt.Errorf("create a client of the API server: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(c.Config); err != nil {
		return fmt.Errorf("create a client of the API server: %w", err)
	}
	return nil
}

// URL returns the API server's URL for clients on the host's loopback.
func (c *Cluster) URL() string { return "https://" + c.forward.Address() }

// URLInside returns its URL for clients in the cluster's namespaces.
func (c *Cluster) URLInside() string { return "https://" + BridgeIP + ":6443" }

// startControllerManager starts Kubernetes' controllers, which delete the objects of
// deleted namespaces and owners, and create service accounts and endpoints. It does
// not wait for them: callers wait for the objects they need. Without the controllers
// that delete pods of unresponsive nodes: no kubelet runs on most nodes here, and
// tests own their pods.
func (c *Cluster) startControllerManager() error {
	_, err := c.Run(sandbox.Spec{Name: "kube-controller-manager", Path: c.options.Tools.ControllerManager, Args: []string{
		"--kubeconfig=" + c.KubeconfigInside, "--leader-elect=false",
		"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller", "--bind-address=127.0.0.1",
		"--service-account-private-key-file=" + c.file("serviceaccounts.key"),
		"--root-ca-file=" + c.file("apiserver.crt"),
	}})
	return err
}

// AwaitServiceAccount waits until a namespace has its default service account,
// which a controller creates. No pod can be created before.
func (c *Cluster) AwaitServiceAccount(ctx context.Context, namespace string) error {
	return sandbox.Await(ctx, "service account of namespace "+namespace, startLimit, pollEvery, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", meta.GetOptions{})
		return err
	})
}

// ServiceAccountKubeconfig writes a kubeconfig file for a service account, which
// must exist, and returns the same for clients in this process. inside is for
// clients in the cluster's namespaces instead of on the host's loopback.
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
	// client-go's default of 5 requests per second protects shared API servers.
	client.QPS, client.Burst = 1000, 1000
	return client, nil
}

// AwaitReady waits until a program of the cluster is ready.
func AwaitReady(ctx context.Context, p *sandbox.Process, ready func(context.Context) error) error {
	return sandbox.AwaitReady(ctx, p, startLimit, pollEvery, ready)
}
