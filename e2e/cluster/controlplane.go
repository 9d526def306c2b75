// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
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

const (
	etcdURL     = "http://127.0.0.1:2379"
	etcdPeerURL = "http://127.0.0.1:2380"
	// startLimit is how long one program may take to be ready: a fresh machine
	// with two busy cores reads 150 MB of program first.
	startLimit = 3 * time.Minute
	pollEvery  = 50 * time.Millisecond
)

// startEtcd starts etcd, and returns when it says that it is healthy.
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
	client := &http.Client{Transport: &http.Transport{DialContext: c.Namespace.DialContext}}
	defer client.CloseIdleConnections()
	return AwaitReady(ctx, etcd, func(ctx context.Context) error {
		body, err := Get(ctx, client, etcdURL+"/health")
		if err == nil && !strings.Contains(body, `"health":"true"`) {
			err = fmt.Errorf("etcd says %s", body)
		}
		return err
	})
}

// Get returns what url answers with status 200; any other status is an error.
func Get(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}

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
	if c.forward == nil {
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
	if c.forward, err = forwardPort(c.Namespace, serverAddress); err != nil {
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
func (c *Cluster) URL() string { return "https://" + c.forward.Addr() }

// URLInside is where clients in the cluster's namespaces reach it.
func (c *Cluster) URLInside() string { return "https://" + BridgeIP + ":6443" }

// startControllerManager starts Kubernetes' own controllers, so that deleted
// namespaces and owners' objects go away, service accounts come with their
// namespaces, and services have endpoints. Nothing here waits for it: who needs
// what it makes waits for that. The controllers that delete pods of nodes which
// do not answer are left out: no node here does, and its pods are a test's.
func (c *Cluster) startControllerManager() error {
	_, err := c.Run(sandbox.Spec{Name: "kube-controller-manager", Path: c.options.Tools.ControllerManager, Args: []string{
		"--kubeconfig=" + c.KubeconfigInside, "--leader-elect=false",
		"--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller", "--bind-address=127.0.0.1",
		"--service-account-private-key-file=" + c.file("serviceaccounts.key"),
		"--root-ca-file=" + c.file("apiserver.crt"),
	}})
	return err
}

// AwaitServiceAccount returns when a namespace has its default service account,
// which a controller makes: before that no pod can be made in it.
func (c *Cluster) AwaitServiceAccount(ctx context.Context, namespace string) error {
	return sandbox.Await(ctx, "service account of namespace "+namespace, startLimit, pollEvery, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", meta.GetOptions{})
		return err
	})
}

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

// entry lets clients on the host's loopback reach a port in a network
// namespace. The API server keeps a fixed port there, which on the host could
// be taken.
type portForward struct {
	listener net.Listener
	space    *sandbox.Namespace
	target   string
	ctx      context.Context
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

func forwardPort(space *sandbox.Namespace, target string) (*portForward, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port for %s: %w", space.Name, err)
	}
	e := &portForward{listener: listener, space: space, target: target}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.done.Go(e.accept)
	return e, nil
}

// Addr is the address on the host, IP:port.
func (e *portForward) Addr() string { return e.listener.Addr().String() }

// Close closes the port and all connections through it.
func (e *portForward) Close() error {
	e.cancel()
	err := e.listener.Close()
	e.done.Wait()
	return err
}

func (e *portForward) accept() {
	for {
		client, err := e.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			e.done.Go(func() { e.forward(client) })
		}
	}
}

// forward copies both ways until both sides have ended, or the entry is
// closed. What fails here the client sees as a connection that ends.
func (e *portForward) forward(client net.Conn) {
	defer client.Close()
	server, err := e.space.DialContext(e.ctx, "tcp4", e.target)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(e.ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

// pipe copies until from ends, and passes that on.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

// AwaitReady asks again and again until ready returns nil. When the program
// ends before that, there is nothing to wait for: the error has what it wrote.
func AwaitReady(ctx context.Context, p *sandbox.Process, ready func(context.Context) error) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	return sandbox.Await(ctx, p.Name(), startLimit, pollEvery, func(ctx context.Context) error {
		if err := p.Running(); err != nil {
			giveUp()
			return err
		}
		return ready(ctx)
	})
}
