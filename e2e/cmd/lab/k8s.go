// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/istio"
	"github.com/layertrace/layertrace/e2e/lab"
)

func k8sCommand() *cobra.Command {
	var out, name string
	cmd := &cobra.Command{
		Use:   "e2e-k8s",
		Short: "Prove installation and reordering on a real Kubernetes control plane with Istio",
		Long: `Starts etcd, the API server, its controllers, istiod and a sidecar with Envoy, and
goes through what layertrace install and uninstall do, as it arrives on the wire
and while requests are sent; then a node with containerd and kubelet, on which
the agent's pod tells of another pod's requests. Writes e2e-k8s.json. Needs root,
nft, runc and the CNI plugins; the first time it builds Kubernetes, Istio and
containerd, which takes about a quarter of an hour on 2 cores.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runK8s(cmd.Context(), out, name) },
	}
	cmd.Flags().StringVar(&out, "out", "out", "directory for e2e-k8s.json and the logs")
	cmd.Flags().StringVar(&name, "name", "e2e", "tells runs apart that go at the same time")
	return cmd
}

func runK8s(ctx context.Context, out, name string) error {
	// Not main's context: that ends with SIGPIPE, which comes here as well when
	// a client of a socket that this process serves has gone (see os/signal).
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	tools, err := istio.ProvisionTools(ctx, progress())
	if err != nil {
		return err
	}
	steps, runErr := istio.Run(ctx, istio.Options{
		Name: name, Dir: filepath.Join(out, "e2e-k8s"), Tools: tools, Progress: progress(),
	})
	for _, step := range steps {
		result := "pass"
		if !step.Pass {
			result = "FAIL"
		}
		fmt.Printf("%s %6.1f s  %s\n", result, step.Seconds, step.Name)
	}
	return errors.Join(runErr, writeJSON(filepath.Join(out, "e2e-k8s.json"), map[string]any{"steps": steps}))
}
