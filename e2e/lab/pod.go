// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// startPod starts a pod's application and its Envoy.
func (r *Run) startPod(pod Pod) error {
	space := r.lab.network.pods[pod.Name]
	if !pod.Gateway {
		args := []string{
			"--role", pod.Service,
			"--listen", ":" + strconv.Itoa(AppPort),
			"--log", r.file("requests", pod.Name),
			"--control", r.ControlSocket(pod.Name),
		}
		for _, name := range pod.Calls {
			args = append(args, "--host", fmt.Sprintf("%s=%s:%d", name, Services[name].ClusterIP, AppPort))
		}
		app, err := process.Start(process.Spec{
			Name: "application of " + pod.Name, Path: r.lab.options.Tools.Bookinfo, Args: args,
			Space: space, Cgroup: r.lab.groups[container(pod.Name, application)], Stderr: r.file("app", pod.Name+".log"),
		})
		if err != nil {
			return err
		}
		r.apps = append(r.apps, app)
	}
	config, err := r.writeEnvoyConfig(pod)
	if err != nil {
		return err
	}
	proxy, err := process.Start(process.Spec{
		Name: "Envoy of " + pod.Name, Path: r.lab.options.Tools.Envoy,
		Args: []string{
			"--config-path", config, "--concurrency", "1", "--disable-hot-restart",
			"--log-level", "warn", "--file-flush-interval-msec", "500",
		},
		Space: space, Cgroup: r.lab.SidecarGroup(pod.Name), UID: envoy.UID, GID: envoy.GID, Stderr: r.file("envoy", pod.Name+".log"),
	})
	if err != nil {
		return err
	}
	r.envoys = append(r.envoys, proxy)
	return nil
}

func (r *Run) writeEnvoyConfig(pod Pod) (path string, err error) {
	config := envoy.Config{
		Pod: pod.Name, Service: pod.Service,
		Gateway: pod.Gateway, GatewayPort: GatewayPort, AppPort: AppPort,
		Tracer: r.setup.Tracer, Sampling: r.setup.sampling(), CollectorIP: InfraIP,
		AccessLog: r.file("access", pod.Name),
	}
	if r.setup.Reordered {
		config.Wasm = r.lab.options.Tools.Wasm
	}
	for _, name := range pod.Calls {
		endpoints, err := Services[name].Endpoints()
		if err != nil {
			return "", err
		}
		config.Clusters = append(config.Clusters, envoy.Cluster{Name: name, Endpoints: endpoints})
	}
	data, err := config.Bootstrap()
	if err != nil {
		return "", err
	}
	path = r.file("envoy", pod.Name+".yaml")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return "", fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return path, nil
}

// podsReady waits until every Envoy says it is ready and every application
// accepts connections.
func (r *Run) podsReady(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	apps, envoys := r.apps, r.envoys
	for i, pod := range Pods {
		space := r.lab.network.pods[pod.Name]
		group.Go(func() error {
			return r.lab.ready(ctx, envoys[i], func(ctx context.Context) error {
				_, err := get(ctx, space, "http://"+envoy.AdminAddress+"/ready")
				return err
			})
		})
		if pod.Gateway {
			continue
		}
		app := apps[0]
		apps = apps[1:]
		group.Go(func() error {
			return r.lab.ready(ctx, app, func(ctx context.Context) error {
				conn, err := space.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(AppPort)))
				if err != nil {
					return err
				}
				return conn.Close()
			})
		})
	}
	return group.Wait()
}
