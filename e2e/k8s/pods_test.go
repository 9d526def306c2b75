// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// deploy makes a Deployment of one pod on the test's node, with labels as
// YAML, and returns the pod that the controllers make for it.
func deploy(t *testing.T, c *cluster.Cluster, namespace, name, labels string) *core.Pod {
	t.Helper()
	object := fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {matchLabels: {deployment: %[2]s}}
  template:
    metadata: {labels: {deployment: %[2]s, %[3]s}}
    spec:
      nodeName: %[4]s
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: none}]
`, namespace, name, labels, agentNode)
	if err := c.Apply(interrupted, []byte(object)); err != nil {
		t.Fatal(err)
	}
	var pod *core.Pod
	awaitNil(t, "pod of "+name, func() error {
		list, err := c.Client.CoreV1().Pods(namespace).List(interrupted, meta.ListOptions{LabelSelector: "deployment=" + name})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		pod = &list.Items[0]
		return nil
	})
	return pod
}

// makePod makes a pod that nothing controls.
func makePod(t *testing.T, c *cluster.Cluster, namespace, name, node string, hostNetwork bool) *core.Pod {
	t.Helper()
	grace := int64(0)
	made, err := c.Client.CoreV1().Pods(namespace).Create(interrupted, &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.PodSpec{
			NodeName: node, HostNetwork: hostNetwork, TerminationGracePeriodSeconds: &grace,
			Containers: []core.Container{{Name: "app", Image: "none"}},
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// setStatus writes what a kubelet would.
func setStatus(t *testing.T, c *cluster.Cluster, pod *core.Pod, phase core.PodPhase, ip, hostIP string) {
	t.Helper()
	awaitNil(t, "status of pod "+pod.Name, func() error { // a controller may write at the same time
		pods := c.Client.CoreV1().Pods(pod.Namespace)
		now, err := pods.Get(interrupted, pod.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		now.Status.Phase = phase
		now.Status.PodIP, now.Status.PodIPs = ip, []core.PodIP{{IP: ip}}
		now.Status.HostIP, now.Status.HostIPs = hostIP, []core.HostIP{{IP: hostIP}}
		_, err = pods.UpdateStatus(interrupted, now, meta.UpdateOptions{})
		return err
	})
}
