// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	authentication "k8s.io/api/authentication/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// startSidecar redirects the pod's traffic and starts its agent, which starts
// Envoy. It returns when Envoy has its configuration and serves.
func (m *Mesh) startSidecar(ctx context.Context, pod *Pod) error {
	if err := m.redirect(ctx, pod); err != nil {
		return err
	}
	if err := m.writeSidecar(ctx, pod); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"binaryPath": m.tools.Envoy, "discoveryAddress": "istiod.istio-system.svc:15012",
		"concurrency": 1, "tracing": map[string]any{},
		// Counters that Istio leaves out and tests ask for.
		"proxyStatsMatcher": map[string]any{"inclusionPrefixes": []string{"extension_config_discovery"}},
	})
	if err != nil {
		return err
	}
	env := []string{
		"PROXY_CONFIG=" + string(config), "CA_ADDR=istiod.istio-system.svc:15012", "TRUST_DOMAIN=cluster.local",
		"POD_NAME=" + pod.Name, "POD_NAMESPACE=" + Namespace, "INSTANCE_IP=" + pod.IP, "SERVICE_ACCOUNT=default",
		"ISTIO_META_CLUSTER_ID=Kubernetes", "ISTIO_META_NODE_NAME=" + nodeName, "ISTIO_META_INTERCEPTION_MODE=REDIRECT",
		"ISTIO_META_WORKLOAD_NAME=" + pod.Name, "ISTIO_META_MESH_ID=cluster.local",
	}
	if pod.BootstrapOverride != "" {
		env = append(env, "ISTIO_BOOTSTRAP_OVERRIDE="+filepath.Join(pod.dir, bootstrapOverride))
	}
	// The agent's files are where a container has them: it knows istiod by a
	// line in /etc/hosts, and keeps modules in /var/lib/istio/data. Hence a
	// mount namespace, which also ends with its processes.
	script := `mount --bind "$1" /etc/hosts && mount --bind "$2" /var/lib && shift 2 && exec "$@"`
	agent, err := m.cluster.Run(sandbox.Spec{
		Name: pod.Name, Namespace: pod.Space, GID: lab.GID, Env: env, Stderr: filepath.Join(pod.dir, "log"),
		Path: "unshare",
		Args: []string{"--mount", "--propagation=private", "sh", "-c", script, "sh",
			m.hosts, filepath.Join(pod.dir, "var", "lib"),
			m.tools.PilotAgent, "proxy", "sidecar", "--domain=" + Namespace + ".svc.cluster.local"},
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: m.cluster.Space.DialContext}}
	defer client.CloseIdleConnections()
	return cluster.AwaitReady(ctx, agent, func(ctx context.Context) error {
		_, err := cluster.Get(ctx, client, "http://"+pod.IP+":15021/healthz/ready")
		return err
	})
}

// redirect sends the pod's traffic through Envoy with Istio's own rules.
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
	err = pod.Space.Do(func() error { return cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("redirect traffic (needs nft, see %s): %w", log.Name(), err)
	}
	return nil
}

// bootstrapOverride is the file's path in the pod's directory.
const bootstrapOverride = "etc/istio/custom-bootstrap/custom_bootstrap.json"

// writeSidecar writes what the agent expects in its working directory.
func (m *Mesh) writeSidecar(ctx context.Context, pod *Pod) error {
	template, err := os.ReadFile(m.tools.Bootstrap)
	if err != nil {
		return fmt.Errorf("read Istio's bootstrap template: %w", err)
	}
	token, err := m.cluster.Client.CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, "default",
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
