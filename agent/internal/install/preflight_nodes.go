// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kernels, as major and minor, that have what the agent uses.
var (
	kernelCapture = [2]int{5, 14} // the sweep: BPF_PROG_TYPE_SYSCALL that walks a map
	kernelTCX     = [2]int{6, 6}  // before it, clsact
)

// checkNodes looks at each node's kernel and architecture. The agent itself tries
// the features (layertrace doctor); this tells beforehand what to expect.
func checkNodes(ctx context.Context, c *Cluster, _ *Options, _ *mesh) ([]Finding, error) {
	nodes, err := list[corev1.Node](ctx, c, kindNode, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var works, clsact, unfit []string
	for _, n := range nodes {
		info := n.Status.NodeInfo
		if info.OperatingSystem != "" && info.OperatingSystem != "linux" {
			continue // the DaemonSet leaves it out
		}
		if info.Architecture != "" && !slices.Contains([]string{"amd64", "arm64"}, info.Architecture) {
			unfit = append(unfit, fmt.Sprintf("%s (%s)", n.Name, info.Architecture))
			continue
		}
		old, err := olderThan(info.KernelVersion, kernelCapture[0], kernelCapture[1])
		if err != nil {
			unfit = append(unfit, fmt.Sprintf("%s (kernel %q)", n.Name, info.KernelVersion))
			continue
		}
		if old {
			unfit = append(unfit, fmt.Sprintf("%s (kernel %s)", n.Name, info.KernelVersion))
			continue
		}
		works = append(works, n.Name)
		if older, err := olderThan(info.KernelVersion, kernelTCX[0], kernelTCX[1]); err == nil && older {
			clsact = append(clsact, fmt.Sprintf("%s (%s)", n.Name, info.KernelVersion))
		}
	}
	return nodeFindings(works, clsact, unfit)
}

func nodeFindings(works, clsact, unfit []string) ([]Finding, error) {
	needs := fmt.Sprintf("the agent needs kernel %d.%d on amd64 or arm64", kernelCapture[0], kernelCapture[1])
	if len(works) == 0 && len(unfit) > 0 {
		return one(Refusal, "no node can capture, %s: %s", needs, strings.Join(unfit, ", "))
	}
	findings := []Finding{{Level: Fine, Text: fmt.Sprintf("%d nodes can capture by their kernel versions", len(works))}}
	if len(works) == 0 {
		findings[0] = Finding{Level: Warning, Text: "there are no nodes"}
	}
	if len(unfit) > 0 {
		findings = append(findings, Finding{Level: Warning, Text: fmt.Sprintf("no spans from %s: %s", strings.Join(unfit, ", "), needs)})
	}
	if len(clsact) > 0 {
		findings = append(findings, Finding{Level: Fine, Text: fmt.Sprintf("no TCX before %d.%d, so clsact is used on %s", kernelTCX[0], kernelTCX[1], strings.Join(clsact, ", "))})
	}
	return findings, nil
}

// checkProxyImage sees whether the sidecar injector uses the patched proxy.
func checkProxyImage(ctx context.Context, c *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	if o.Reorder != ReorderPatched {
		return nil, nil
	}
	if o.ProxyImage == "" {
		return one(Refusal, "--reorder %s needs --proxy-image: the patched proxy's, as in istioctl install --set values.global.proxy.image", ReorderPatched)
	}
	maps, err := list[corev1.ConfigMap](ctx, c, kindConfigMap, o.IstioNamespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, found := range maps {
		if strings.HasPrefix(found.Name, "istio-sidecar-injector") && strings.Contains(found.Data["values"], `"`+o.ProxyImage+`"`) {
			return one(Fine, "the sidecar injector uses %s", o.ProxyImage)
		}
	}
	return one(Warning, "the sidecar injector does not use %s yet: istioctl install --set values.global.proxy.image=%s, then restart the workloads", o.ProxyImage, o.ProxyImage)
}
