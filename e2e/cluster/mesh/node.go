// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeName is the node that all pods say they are on. It is this machine, but
// no kubelet speaks for it.
const nodeName = "node"

// registerNode tells the API server of the node: without one no service has
// endpoints.
func (m *Mesh) registerNode(ctx context.Context) error {
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return fmt.Errorf("ask for the kernel's version: %w", err)
	}
	node := &core.Node{
		ObjectMeta: meta.ObjectMeta{Name: nodeName},
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
