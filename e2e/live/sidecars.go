// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Between client and server with TLS are two Envoys, as sidecars in Istio, which speak mutual
// TLS with each other:
//
//	client -- sidecar -- vethclient [router] vethserver -- sidecar -- server

// sidecar is a pod with an Envoy. gateway is the router's address there.
type sidecar struct {
	lab.Pod
	gateway   string
	namespace *sandbox.Namespace
	calls     []lab.EnvoyCluster
}

// startSidecars starts both Envoys, and waits until they are ready.
func (t *Testbed) startSidecars(ctx context.Context) error {
	authority, err := lab.NewAuthority(t.options.TLS.Chain)
	if err != nil {
		return err
	}
	server := lab.EnvoyCluster{Name: "server", Endpoints: []lab.Endpoint{{Pod: "server", Service: "server", IP: serverIP}}}
	for _, s := range []sidecar{
		{lab.Pod{Name: "client", Service: "client", IP: clientAddress(0)}, "10.78.1.1", t.client, []lab.EnvoyCluster{server}},
		{lab.Pod{Name: "server", Service: "server", IP: serverIP}, "10.78.2.1", t.server, nil},
	} {
		if err := t.startSidecar(ctx, authority, &s); err != nil {
			return err
		}
	}
	return nil
}

func (t *Testbed) startSidecar(ctx context.Context, authority *lab.Authority, s *sidecar) error {
	file := func(name string) string { return filepath.Join(t.options.Dir, s.Name+"-"+name) }
	config := lab.EnvoyConfig{
		Pod: s.Name, Service: s.Service, AppPort: serverPort, Clusters: s.calls,
		Tracer: lab.OpenTelemetry, Sampling: 100, CollectorIP: s.gateway, AccessLog: file("access"),
	}
	if err := t.options.TLS.Configure(&config, authority, s.Pod, s.gateway, file("tls"), file("keys")); err != nil {
		return err
	}
	data, err := config.Bootstrap()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file("envoy.yaml"), data, 0o644); err != nil {
		return fmt.Errorf("write the Envoy configuration: %w", err)
	}
	if err := lab.RedirectToEnvoy(s.namespace, serverPort); err != nil {
		return err
	}
	envoy, err := sandbox.Start(sandbox.Spec{
		Name: "Envoy of " + s.Name, Path: t.options.Tools.Envoy,
		Args:      []string{"--config-path", file("envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"},
		Namespace: s.namespace, Cgroup: t.inner, UID: lab.UID, GID: lab.GID, Stderr: file("envoy.log"),
	})
	if err != nil {
		return err
	}
	return sandbox.AwaitReady(ctx, envoy, time.Minute, 20*time.Millisecond, func(ctx context.Context) error {
		_, err := s.namespace.Get(ctx, "http://"+lab.EnvoyAdminAddress+"/ready")
		return err
	})
}
