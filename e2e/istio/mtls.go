// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// The pods of the steps for mutual TLS: clerk and door, a gateway, call vault, on another
// node. Their certificates are istiod's.
const (
	clerkIP  = "10.78.1.10"
	doorIP   = "10.78.1.20"
	vaultIP  = "10.78.2.10"
	vaultURL = "http://10.96.0.20:8000/"
)

//go:embed mtls.yaml
var vaultManifest []byte

//go:embed strict.yaml
var strictManifest []byte

// encrypted is what the steps for mutual TLS share.
type encrypted struct {
	// nodes are those of clerk and vault.
	nodes [2]*cluster.MeshNode
	clerk *cluster.Pod
	vault *cluster.Pod
	door  *cluster.Pod
	// outside sends requests to door from its node, which is not in the mesh.
	outside *http.Client
	// app is the application in vault.
	app *reorder.Upstream
	// doorCertificate is the gateway's, for HTTPS.
	doorCertificate *x509.Certificate
	// traces is the number of traces that were begun.
	traces int
	// before is the proxies' configuration without layertrace, of clerk and vault.
	before [2]string
	// mesh is the mesh configuration before a step changed it, "" if none did.
	mesh string
	// agents are those that run on the nodes.
	agents [2]*sandbox.Process
	// withoutMTLS is set while agents are run that do not know encrypted traffic.
	withoutMTLS bool
	// receivers get the records of each node while no agent runs there.
	receivers [2]*records
}

func mtlsSteps() []step {
	steps := []step{
		{"mtls: sidecars on two nodes encrypt by themselves (auto mTLS)", true, startEncrypted},
		{"mtls: a gateway answers by HTTPS, with a certificate of its own", true, answersHTTPS},
		{"mtls: STRICT, a pod without sidecar is refused", true, refusesPlain},
	}
	for i, log := range mtlsLogs {
		steps = append(steps,
			step{"mtls " + log.method + ": istioctl finds no error in the manifests", false, log.validates},
			step{"mtls " + log.method + ": installed under load, proxies have the log", false, log.installed},
			step{"mtls " + log.method + ": sampled requests are reported, to the node's agent only", false, log.reports},
			step{"mtls " + log.method + ": encrypted hops have spans of four interfaces in Jaeger", false, log.spans},
			step{"mtls " + log.method + ": a record of another pod's connection is refused and counted", false, log.refusesForged},
			step{"mtls " + log.method + ": agents killed under load, proxies go on, records are joined again", false, log.killed})
		if i == 0 {
			steps = append(steps, log.versionSteps()...)
		} else {
			steps = append(steps, step{"mtls " + log.method + ": changed to " + mtlsLogs[0].method + " under load", false, mtlsLogs[0].installed})
		}
		steps = append(steps, step{"mtls " + log.method + ": uninstalled under load, proxies' configuration as before", false, log.uninstalled})
	}
	return steps
}

// startEncrypted adds two nodes, each with a pod with a sidecar, and waits until a
// request between them is encrypted.
func startEncrypted(ctx context.Context, c *chain) (err error) {
	e := &c.encrypted
	for i, node := range []struct{ name, ip, pods string }{
		{"nodea", "10.77.0.41", "10.78.1.0/24"}, {"nodeb", "10.77.0.42", "10.78.2.0/24"},
	} {
		if e.nodes[i], err = c.mesh.AddNode(ctx, node.name, node.ip, netip.MustParsePrefix(node.pods)); err != nil {
			return err
		}
	}
	if err := errors.Join(c.createDoorCertificate(ctx), c.cluster.Apply(ctx, vaultManifest)); err != nil {
		return err
	}
	if e.vault, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "vault", IP: vaultIP, Node: e.nodes[1], Sidecar: true}); err != nil {
		return err
	}
	listener, err := e.vault.Namespace.Listen(vaultIP + ":8000")
	if err != nil {
		return fmt.Errorf("serve in pod vault: %w", err)
	}
	e.app = reorder.ServeUpstream(listener)
	if e.clerk, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "clerk", IP: clerkIP, Node: e.nodes[0], Sidecar: true}); err != nil {
		return err
	}
	if e.door, err = c.mesh.AddPod(ctx, cluster.PodSpec{Name: "door", IP: doorIP, Node: e.nodes[0], Gateway: true}); err != nil {
		return err
	}
	e.outside = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: e.nodes[0].Namespace.DialContext, DisableKeepAlives: true,
	}}
	c.client, c.url = e.clerk, vaultURL
	return sandbox.Await(ctx, "an encrypted request", configLimit, 100*time.Millisecond, c.isEncrypted)
}

// isEncrypted sends a request and checks that vault's sidecar verified the client's
// certificate, which it writes into a header (Envoy, x-forwarded-client-cert).
func (c *chain) isEncrypted(ctx context.Context) error {
	const mark = "certificate"
	c.encrypted.app.Take()
	if err := c.send(ctx, c.client.HTTP, mark, false); err != nil {
		return err
	}
	const identity = "URI=spiffe://cluster.local/ns/demo/sa/default"
	for _, head := range c.encrypted.app.Take() {
		for _, field := range head.Fields {
			if strings.EqualFold(field.Name, "x-forwarded-client-cert") && strings.Contains(field.Value, identity) {
				return nil
			}
		}
	}
	return errors.New("the client has no certificate")
}

// refusesPlain requires mutual TLS: a request without it, which was answered before, fails,
// one of a sidecar does not. From then on all requests are encrypted.
func refusesPlain(ctx context.Context, c *chain) error {
	const direct = "http://" + vaultIP + ":8000/"
	if _, err := sandbox.Get(ctx, c.encrypted.outside, direct); err != nil {
		return fmt.Errorf("send plain text before it is refused: %w", err)
	}
	if err := c.cluster.Apply(ctx, strictManifest); err != nil {
		return err
	}
	err := sandbox.Await(ctx, "the refusal of plain text", configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		_, err := sandbox.Get(ctx, c.encrypted.outside, direct)
		if err == nil {
			return errors.New("it is accepted")
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, pod := range []*cluster.Pod{c.encrypted.clerk, c.encrypted.vault} {
		if c.encrypted.before[i], err = settledConfig(ctx, pod); err != nil {
			return err
		}
	}
	return c.isEncrypted(ctx)
}

// mtlsLog is one of the methods of install by which proxies get to report requests.
type mtlsLog struct {
	// method is the value of --mtls-log.
	method string
	// texts has what the configuration of clerk's and of vault's proxy must contain.
	texts [2][]string
	// client is the log that the sender of a request has.
	client string
	// incoming is set if the receiver of a request reports the context that it received.
	incoming bool
}

var mtlsLogs = []mtlsLog{
	{
		method: "envoyfilter", client: "layertrace-attempt", incoming: true,
		texts: [2][]string{
			{`"upstream_log"`, `"layertrace-attempt"`, `"or_filter"`, `"%REQ(X-B3-SPANID)%"`, `"%UPSTREAM_WIRE_BYTES_SENT%"`},
			{`"layertrace-server"`, `"layertrace.incoming"`, `set_filter_state.v3.Config"`, `"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"`, `"%FILTER_STATE(layertrace.traceparent:PLAIN)%"`},
		},
	},
	{
		method: "telemetry", client: "layertrace-client",
		texts: [2][]string{
			{`"layertrace-client"`, `envoy.access_loggers.extension_filters.cel"`, `'traceparent' in request.headers`, `"%UPSTREAM_WIRE_BYTES_SENT%"`},
			{`"layertrace-server"`, `envoy.access_loggers.extension_filters.cel"`, `"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"`},
		},
	},
}

// args are those of install. Istio encrypts, so --mtls is left to find that out. The
// sampling is the proxies' own: they sample a trace only if both its caller and they do.
func (l mtlsLog) args() []string {
	return []string{"install", "--reorder=none", "--tracing-provider=opentelemetry", "--sampling=100", "--mtls-log=" + l.method, "--agent-setting=pnic=eth0",
		fmt.Sprintf("--otlp-endpoint=%s:%d", cluster.BridgeIP, lab.JaegerOTLPPort)}
}

func (l mtlsLog) validates(ctx context.Context, c *chain) error {
	manifest, err := c.layertrace(ctx, append(l.args(), "--dry-run")...)
	if err != nil {
		return err
	}
	dir, err := c.cluster.Dir("manifests")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "mtls-"+l.method+".yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		return err
	}
	return c.checkManifest(ctx, file)
}

// installed installs under load, adds the providers that install asks for, and waits
// until both proxies have accepted the configuration.
func (l mtlsLog) installed(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		out, err := c.layertrace(ctx, append(l.args(), "--yes")...)
		if err != nil {
			return err
		}
		if want := "mutual TLS is STRICT: traffic between sidecars is encrypted: encrypted hops get their trace"; !strings.Contains(out, want) {
			return fmt.Errorf("install does not say %q:\n%s", want, out)
		}
		if err := c.addProviders(ctx, out); err != nil {
			return err
		}
		if err := c.bindAgents(ctx); err != nil {
			return err
		}
		for i, pod := range []*cluster.Pod{c.encrypted.clerk, c.encrypted.vault} {
			if err := awaitConfig(ctx, pod, l.texts[i]...); err != nil {
				return err
			}
		}
		return c.isEncrypted(ctx)
	})
}

// uninstalled uninstalls under load, and compares the proxies' configuration with that
// before the installation.
func (l mtlsLog) uninstalled(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		if err := c.uninstallBound(ctx); err != nil {
			return err
		}
		if err := c.removeProviders(ctx); err != nil {
			return err
		}
		for i, pod := range []*cluster.Pod{c.encrypted.clerk, c.encrypted.vault} {
			var after string
			err := sandbox.Await(ctx, "the previous configuration of "+pod.Name, configLimit, configEvery, func(ctx context.Context) (err error) {
				if after, err = proxyConfig(ctx, pod); err == nil && after != c.encrypted.before[i] {
					err = errors.New("it differs: " + firstDifference(c.encrypted.before[i], after))
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		return c.isEncrypted(ctx)
	})
}
