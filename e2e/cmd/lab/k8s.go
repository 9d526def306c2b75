// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/istio"
	"github.com/layertrace/layertrace/e2e/lab"
)

func k8sCommand() *cobra.Command {
	var out, name, before string
	var groups []string
	cmd := &cobra.Command{
		Use:   "e2e-k8s",
		Short: "Test installation and reordering on a real Kubernetes control plane with Istio",
		Long: `Starts etcd, the API server, its controllers, istiod and a sidecar with Envoy. Runs
layertrace install and uninstall under load, and checks their effect on the wire.
An installation for one namespace leaves a proxy of another one as it is (--only=limited).
Then starts a node with containerd and kubelet, on which the agent's pod reports
another pod's requests, and on which the version before is upgraded to this one and
back (--only=upgrade); and two nodes without kubelet, between whose sidecars and
gateway Istio encrypts, for spans of encrypted requests, upgrades, rollbacks and
agents that are away (--only=mtls). Writes e2e-k8s.json. Needs root, nft, runc and
the CNI plugins. The first run builds Kubernetes, Istio and containerd, which takes
about a quarter of an hour on 2 cores.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runK8s(cmd.Context(), out, name, before, groups) },
	}
	cmd.Flags().StringVar(&out, "out", "out", "directory for e2e-k8s.json and the logs")
	cmd.Flags().StringVar(&name, "name", "e2e", "name of the run, to run several at once")
	cmd.Flags().StringVar(&before, "before", "", "git `REVISION` to upgrade from (default: the latest release)")
	cmd.Flags().StringSliceVar(&groups, "only", istio.Groups, "`GROUPS` of steps to run: "+strings.Join(istio.Groups, ", "))
	return cmd
}

func runK8s(ctx context.Context, out, name, before string, groups []string) error {
	for _, g := range groups {
		if !slices.Contains(istio.Groups, g) {
			return fmt.Errorf("--only %s: choose of %s", g, strings.Join(istio.Groups, ", "))
		}
	}
	// Not main's context, which ends with SIGPIPE: this process also receives one
	// when a client of its sockets closes the connection (see os/signal).
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
		Name: name, Dir: filepath.Join(out, "e2e-k8s"), Tools: tools, Groups: groups, Before: before, Progress: progress(),
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
