// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// MeshTools are the paths of a mesh's programs.
type MeshTools struct {
	Istiod, PilotAgent, Istioctl, Envoy string
	// Bootstrap is Istio's template of Envoy's bootstrap.
	Bootstrap string
}

// Mesh is Istio in a cluster: the real istiod, and per pod a network namespace with
// the real pilot-agent, Envoy and redirection. It does what kubelet and the
// injection webhook would do. All of it ends with the cluster.
type Mesh struct {
	cluster *Cluster
	tools   MeshTools
	istiod  *sandbox.Process
	hosts   string
	rootCA  string
	nodes   []*MeshNode
}

// AppNamespace is the pods' namespace, RootNamespace that of mesh-wide objects.
const (
	AppNamespace  = "demo"
	RootNamespace = "istio-system"
)

//go:embed mesh.yaml
var meshManifests []byte

// StartMesh applies the mesh's configuration and waits until istiod is ready.
func StartMesh(ctx context.Context, c *Cluster, tools MeshTools) (*Mesh, error) {
	m := &Mesh{cluster: c, tools: tools}
	if err := c.Apply(ctx, meshManifests); err != nil {
		return nil, fmt.Errorf("apply the mesh's configuration: %w", err)
	}
	if err := m.registerNode(ctx, hostNode, nil); err != nil {
		return nil, err
	}
	if err := c.AwaitServiceAccount(ctx, AppNamespace); err != nil {
		return nil, err
	}
	if err := m.startIstiod(ctx); err != nil {
		return nil, err
	}
	return m, m.writeShared(ctx)
}

// hostNode is the node of the pods that name none: this machine, without a kubelet.
const hostNode = "node"

// registerNode registers a node: without one no service has endpoints.
func (m *Mesh) registerNode(ctx context.Context, name string, labels map[string]string) error {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	node := &core.Node{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: labels},
		Status: core.NodeStatus{
			NodeInfo: core.NodeSystemInfo{
				KernelVersion: unix.ByteSliceToString(host.Release[:]), OperatingSystem: "linux", Architecture: runtime.GOARCH,
			},
			Conditions: []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue}},
		},
	}
	if _, err := m.cluster.Client.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{}); err != nil {
		return fmt.Errorf("register the node: %w", err)
	}
	return nil
}

// startIstiod starts istiod and waits until it is ready.
func (m *Mesh) startIstiod(ctx context.Context) (err error) {
	m.istiod, err = m.cluster.Run(sandbox.Spec{
		Name: "istiod", Path: m.tools.Istiod,
		Args: []string{"discovery", "--kubeconfig=" + m.cluster.KubeconfigInside},
		Env: []string{
			"POD_NAME=istiod", "POD_NAMESPACE=" + RootNamespace, "CLUSTER_ID=Kubernetes",
			"PILOT_CERT_PROVIDER=istiod",
			// Pods are created here, without the injection webhook.
			"INJECT_ENABLED=false", "INJECTION_WEBHOOK_CONFIG_NAME=", "VALIDATION_WEBHOOK_CONFIG_NAME=",
			// Filters that a stock Envoy does not have.
			"PILOT_ENABLE_ALPN_FILTER=false", "PILOT_ENABLE_METADATA_EXCHANGE=false",
		},
	})
	if err != nil {
		return err
	}
	return AwaitReady(ctx, m.istiod, func(ctx context.Context) error {
		_, err := m.cluster.Namespace.Get(ctx, "http://127.0.0.1:8080/ready")
		return err
	})
}

// writeShared writes the files that all sidecars share: istiod's name and address,
// and reads the root certificate that verifies istiod's.
func (m *Mesh) writeShared(ctx context.Context) error {
	dir, err := m.cluster.Dir("pods")
	if err != nil {
		return err
	}
	m.hosts = filepath.Join(dir, "hosts")
	if err := writeFile(m.hosts, "127.0.0.1 localhost\n"+BridgeIP+" istiod.istio-system.svc\n"); err != nil {
		return err
	}
	// istiod writes the root certificate into a ConfigMap of every namespace.
	return sandbox.Await(ctx, "istiod's root certificate", startLimit, pollEvery, func(ctx context.Context) error {
		root, err := m.cluster.Client.CoreV1().ConfigMaps(AppNamespace).Get(ctx, "istio-ca-root-cert", meta.GetOptions{})
		if err != nil {
			return err
		}
		if m.rootCA = root.Data["root-cert.pem"]; m.rootCA == "" {
			return errors.New("it is empty")
		}
		return nil
	})
}

// PodSpec describes a pod.
type PodSpec struct {
	// Name is the pod's name and the value of its label app.
	Name string
	// Home is the namespace of the pod's object; empty: AppNamespace. It is there before.
	Home string
	// IP is an address of its node's pods, without a node one in BridgeIP's network.
	IP string
	// Node is the pod's node; nil: this machine.
	Node *MeshNode
	// Sidecar is set for a pod with pilot-agent and Envoy, Gateway for one with them alone:
	// its traffic is not redirected.
	Sidecar, Gateway bool
	// BootstrapOverride is JSON to merge into Envoy's bootstrap, as with the
	// annotation sidecar.istio.io/bootstrapOverride; may be empty.
	BootstrapOverride string
}

func (s PodSpec) node() string {
	if s.Node == nil {
		return hostNode
	}
	return s.Node.Name
}

func (s PodSpec) home() string { return cmp.Or(s.Home, AppNamespace) }

// Pod is a pod without containers: what a test starts or dials in its network
// namespace is the application.
type Pod struct {
	PodSpec
	// Namespace is the pod's network namespace.
	Namespace *sandbox.Namespace
	// HTTP sends requests from the pod, through its sidecar if it has one, each on
	// a connection of its own. URLs must have an IP address.
	HTTP *http.Client

	dir string
}

// AddPod creates a pod with its network, and waits until its sidecar, if it has one,
// is ready.
func (m *Mesh) AddPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	pod, err := m.makePod(ctx, spec)
	if err == nil && (spec.Sidecar || spec.Gateway) {
		err = m.startProxy(ctx, pod)
	}
	if err != nil {
		return nil, fmt.Errorf("create pod %s: %w", spec.Name, err)
	}
	return pod, nil
}

func (m *Mesh) makePod(ctx context.Context, spec PodSpec) (*Pod, error) {
	dir, err := m.cluster.Dir(filepath.Join("pods", spec.Name))
	if err != nil {
		return nil, err
	}
	add := m.cluster.AddPodNamespace
	if spec.Node != nil {
		add = spec.Node.addPod
	}
	namespace, err := add(spec.Name, spec.IP)
	if err != nil {
		return nil, err
	}
	if err := m.register(ctx, spec); err != nil {
		return nil, err
	}
	return &Pod{PodSpec: spec, Namespace: namespace, dir: dir, HTTP: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{DialContext: namespace.DialContext, DisableKeepAlives: true},
	}}, nil
}

// register creates the pod in the API server, with the status of a running one.
func (m *Mesh) register(ctx context.Context, spec PodSpec) error {
	pods := m.cluster.Client.CoreV1().Pods(spec.home())
	containers := []core.Container{{Name: "app", Image: "app"}}
	labels := map[string]string{"app": spec.Name}
	if spec.Sidecar || spec.Gateway {
		containers = append(containers, core.Container{Name: "istio-proxy", Image: "proxyv2"})
		labels["security.istio.io/tlsMode"] = "istio"
	}
	pod, err := pods.Create(ctx, &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: spec.Name, Labels: labels},
		Spec:       core.PodSpec{NodeName: spec.node(), Containers: containers},
	}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status = core.PodStatus{
		Phase: core.PodRunning, PodIP: spec.IP, PodIPs: []core.PodIP{{IP: spec.IP}},
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
	}
	_, err = pods.UpdateStatus(ctx, pod, meta.UpdateOptions{})
	return err
}

// writeFile writes a file and creates its directory.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// startProxy redirects a sidecar's traffic and starts pilot-agent, which starts
// Envoy. It waits until Envoy has its configuration and is ready.
func (m *Mesh) startProxy(ctx context.Context, pod *Pod) error {
	role := "router"
	if pod.Sidecar {
		role = "sidecar"
		if err := m.redirect(ctx, pod); err != nil {
			return err
		}
	}
	if err := m.writeSidecar(ctx, pod); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"binaryPath": m.tools.Envoy, "discoveryAddress": "istiod.istio-system.svc:15012",
		"concurrency": 1, "tracing": map[string]any{},
		// Counters that tests read and Istio disables.
		"proxyStatsMatcher": map[string]any{"inclusionPrefixes": []string{"extension_config_discovery", "access_logs"}},
	})
	if err != nil {
		return err
	}
	env := []string{
		"PROXY_CONFIG=" + string(config), "CA_ADDR=istiod.istio-system.svc:15012", "TRUST_DOMAIN=cluster.local",
		"POD_NAME=" + pod.Name, "POD_NAMESPACE=" + pod.home(), "INSTANCE_IP=" + pod.IP, "SERVICE_ACCOUNT=default",
		"ISTIO_META_CLUSTER_ID=Kubernetes", "ISTIO_META_NODE_NAME=" + pod.node(), "ISTIO_META_INTERCEPTION_MODE=REDIRECT",
		"ISTIO_META_WORKLOAD_NAME=" + pod.Name, "ISTIO_META_MESH_ID=cluster.local",
	}
	if pod.BootstrapOverride != "" {
		env = append(env, "ISTIO_BOOTSTRAP_OVERRIDE="+filepath.Join(pod.dir, bootstrapOverride))
	}
	// pilot-agent's files have the paths of a container: it finds istiod by a line
	// in /etc/hosts and keeps modules in /var/lib/istio/data. Hence a mount
	// namespace, which ends with its processes.
	script := `mount --bind "$1" /etc/hosts && mount --bind "$2" /var/lib && shift 2 && exec "$@"`
	agent, err := m.cluster.Run(sandbox.Spec{
		Name: pod.Name, Namespace: pod.Namespace, GID: lab.GID, Env: env, Stderr: filepath.Join(pod.dir, "log"),
		Path: "unshare",
		Args: []string{"--mount", "--propagation=private", "sh", "-c", script, "sh",
			m.hosts, filepath.Join(pod.dir, "var", "lib"),
			m.tools.PilotAgent, "proxy", role, "--domain=" + pod.home() + ".svc.cluster.local"},
	})
	if err != nil {
		return err
	}
	return AwaitReady(ctx, agent, func(ctx context.Context) error {
		_, err := m.cluster.Namespace.Get(ctx, "http://"+pod.IP+":15021/healthz/ready")
		return err
	})
}

// redirect redirects the pod's traffic to Envoy by Istio's own rules.
func (m *Mesh) redirect(ctx context.Context, pod *Pod) error {
	cmd := exec.CommandContext(ctx, m.tools.PilotAgent, "istio-iptables", "--native-nftables=true",
		"-p", "15001", "-z", "15006", "-u", fmt.Sprint(lab.GID), "-g", fmt.Sprint(lab.GID),
		"-m", "REDIRECT", "-i", "*", "-b", "*", "-d", "15090,15021,15020")
	log, err := os.Create(filepath.Join(pod.dir, "redirect.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = pod.dir, log, log
	err = pod.Namespace.Do(func() error { return cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("redirect traffic (needs nft, see %s): %w", log.Name(), err)
	}
	return nil
}

// bootstrapOverride is the path of the file in the pod's directory.
const bootstrapOverride = "etc/istio/custom-bootstrap/custom_bootstrap.json"

// writeSidecar writes the files that pilot-agent expects in its working directory.
func (m *Mesh) writeSidecar(ctx context.Context, pod *Pod) error {
	template, err := os.ReadFile(m.tools.Bootstrap)
	if err != nil {
		return fmt.Errorf("read Istio's bootstrap template: %w", err)
	}
	token, err := m.cluster.Client.CoreV1().ServiceAccounts(pod.home()).CreateToken(ctx, "default",
		&authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{"istio-ca"}}}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("get the sidecar's token: %w", err)
	}
	for name, text := range map[string]string{
		"var/run/secrets/tokens/istio-token":            token.Status.Token,
		"var/run/secrets/istio/root-cert.pem":           m.rootCA,
		"etc/istio/pod/labels":                          fmt.Sprintf("app=%q\n", pod.Name),
		"var/lib/istio/envoy/envoy_bootstrap_tmpl.json": string(template),
		"var/lib/istio/data/.keep":                      "",
		bootstrapOverride:                               pod.BootstrapOverride,
	} {
		if err := writeFile(filepath.Join(pod.dir, name), text); err != nil {
			return err
		}
	}
	return nil
}
