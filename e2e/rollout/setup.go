// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"context"
	_ "embed"
	"fmt"
	"net"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/cluster/mesh"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

func startCluster(ctx context.Context, r *rollout) (err error) {
	r.cluster, err = cluster.Start(ctx, cluster.Options{
		Name: r.options.Name, Dir: r.options.Dir, Tools: r.options.Tools.Cluster, Progress: r.options.Progress,
	})
	return err
}

func startMesh(ctx context.Context, r *rollout) (err error) {
	if r.mesh, err = mesh.Start(ctx, r.cluster, r.options.Tools.Mesh); err != nil {
		return err
	}
	r.modules, err = mesh.ServeModules(r.cluster)
	return err
}

const (
	clientIP = "10.77.0.10"
	inlineIP = "10.77.0.11"
	serverIP = "10.77.0.20"
	// serviceURL is the address of server.yaml's service.
	serviceURL = "http://10.96.0.10:8000/"
)

//go:embed server.yaml
var serverManifest []byte

// startPods makes a server that keeps request heads, without a sidecar that
// would change them, and a client with one.
func startPods(ctx context.Context, r *rollout) error {
	if err := r.cluster.Apply(ctx, serverManifest); err != nil {
		return err
	}
	server, err := r.mesh.AddPod(ctx, mesh.PodSpec{Name: "server", IP: serverIP})
	if err != nil {
		return err
	}
	err = server.Space.Do(func() error {
		listener, err := net.Listen("tcp4", serverIP+":8000")
		if err == nil {
			r.upstream = upstream.Serve(listener)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("serve in pod server: %w", err)
	}
	r.client, err = r.mesh.AddPod(ctx, mesh.PodSpec{Name: "client", IP: clientIP, Sidecar: true})
	return err
}
