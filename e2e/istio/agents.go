// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// agentNamespace is the namespace of the agents.
const agentNamespace = "layertrace-system"

// bindAgents does what scheduler and kubelet would do for the agents' pods of the
// mesh's nodes: they are bound, and have the status of running ones, so that the
// agents' services have endpoints there. Pods of an earlier template end.
func (c *chain) bindAgents(ctx context.Context) error {
	set, err := c.cluster.Client.AppsV1().DaemonSets(agentNamespace).Get(ctx, "layertrace-agent", meta.GetOptions{})
	if err != nil {
		return err
	}
	for _, node := range c.encrypted.nodes {
		err := sandbox.Await(ctx, "the agent's pod of "+node.Name, configLimit, 100*time.Millisecond, func(ctx context.Context) error {
			return c.bindAgent(ctx, node, set.Annotations[apps.DeprecatedTemplateGeneration])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bindAgent binds the pod of a node that is of a generation of the DaemonSet's template.
func (c *chain) bindAgent(ctx context.Context, node *cluster.MeshNode, generation string) error {
	if err := c.endPods(ctx); err != nil {
		return err
	}
	pods := c.cluster.Client.CoreV1().Pods(agentNamespace)
	pod, err := c.agentOn(ctx, node)
	if err != nil {
		return err
	}
	if pod.Labels["pod-template-generation"] != generation {
		return errors.Join(errors.New("it was of an earlier template"), pods.Delete(ctx, pod.Name, meta.DeleteOptions{}))
	}
	if pod.Spec.NodeName == "" {
		return errors.Join(errors.New("just bound"), pods.Bind(ctx, &core.Binding{
			ObjectMeta: meta.ObjectMeta{Name: pod.Name}, Target: core.ObjectReference{Kind: "Node", Name: node.Name},
		}, meta.CreateOptions{}))
	}
	pod.Status = core.PodStatus{
		Phase: core.PodRunning, HostIP: node.IP, HostIPs: []core.HostIP{{IP: node.IP}}, PodIP: node.IP, PodIPs: []core.PodIP{{IP: node.IP}},
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
	}
	_, err = pods.UpdateStatus(ctx, pod, meta.UpdateOptions{})
	return err
}

// agentOn returns the agent's pod of a node.
func (c *chain) agentOn(ctx context.Context, node *cluster.MeshNode) (*core.Pod, error) {
	list, err := c.cluster.Client.CoreV1().Pods(agentNamespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if pod := &list.Items[i]; pod.DeletionTimestamp == nil && (pod.Spec.NodeName == node.Name || boundTo(pod) == node.Name) {
			return pod, nil
		}
	}
	return nil, errors.New("there is none yet")
}

// uninstallBound uninstalls. Meanwhile it does what kubelets would do with the agents'
// pods that end.
func (c *chain) uninstallBound(ctx context.Context) error {
	if err := c.stopAgents(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.uninstall(ctx) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-tick.C:
		}
		if err := c.endPods(ctx); err != nil {
			return errors.Join(err, <-ended)
		}
	}
}

// endPods removes the agents' pods that are being deleted, as kubelets would.
func (c *chain) endPods(ctx context.Context) error {
	pods := c.cluster.Client.CoreV1().Pods(agentNamespace)
	list, err := pods.List(ctx, meta.ListOptions{})
	if err != nil {
		return fmt.Errorf("list the agents' pods: %w", err)
	}
	now := int64(0)
	for _, pod := range list.Items {
		if pod.DeletionTimestamp != nil {
			// It may be gone by now; another failure shows up as a pod that does not end.
			_ = pods.Delete(ctx, pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now})
		}
	}
	return nil
}

// runAgents runs an agent on each node of the mesh as its kubelet would: in the node's
// network, with the settings and the variables of its pod, as its service account, and
// with the capabilities of the DaemonSet, to which the bounding set limits root.
func (c *chain) runAgents(ctx context.Context) error {
	for i := range c.encrypted.nodes {
		if err := c.runAgent(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) runAgent(ctx context.Context, i int) error {
	node := c.encrypted.nodes[i]
	pod, err := c.agentOn(ctx, node)
	if err != nil {
		return err
	}
	volume := pod.Spec.Volumes[0].ConfigMap
	config, err := c.cluster.Client.CoreV1().ConfigMaps(agentNamespace).Get(ctx, volume.Name, meta.GetOptions{})
	if err != nil {
		return err
	}
	dir, err := c.cluster.Dir("agent-" + node.Name)
	if err != nil {
		return err
	}
	file, kubeconfig := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "kubeconfig")
	if err := c.writeSettings(volume.Items, config.Data, dir); err != nil {
		return err
	}
	if _, err := c.cluster.ServiceAccountKubeconfig(ctx, agentNamespace, pod.Spec.ServiceAccountName, kubeconfig, true); err != nil {
		return err
	}
	container := pod.Spec.Containers[0]
	args := []string{"--bounding-set=-all,+bpf,+perfmon,+net_admin", "--no-new-privs", c.options.Tools.Layertrace}
	for _, arg := range container.Args {
		if arg == "/etc/layertrace/config.yaml" {
			arg = file
		}
		args = append(args, arg)
	}
	agent, err := c.cluster.Run(sandbox.Spec{
		Name: "agent-" + node.Name, Path: "setpriv", Namespace: node.Namespace,
		Args: append(args, "--kubeconfig="+kubeconfig), Env: variables(container.Env, node),
	})
	if err != nil {
		return err
	}
	c.encrypted.agents[i] = agent
	return cluster.AwaitReady(ctx, agent, func(ctx context.Context) error {
		_, err := node.Namespace.Get(ctx, "http://"+node.IP+":9464/readyz")
		return err
	})
}

// writeSettings writes the files of the agents' ConfigMap into a directory, as a kubelet
// would into their volume. Agents from before encrypted traffic get nothing of it.
func (c *chain) writeSettings(items []core.KeyToPath, data map[string]string, dir string) error {
	if len(items) == 0 {
		for key := range data {
			items = append(items, core.KeyToPath{Key: key, Path: key})
		}
	}
	const parts = "config.yaml.d"
	if err := os.RemoveAll(filepath.Join(dir, parts)); err != nil {
		return err
	}
	for _, item := range items {
		file := filepath.Join(dir, item.Path)
		if c.encrypted.withoutMTLS && item.Key == "mtls.yaml" {
			continue
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(data[item.Key]), 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// restartAgents ends the agents and runs those that are installed now.
func (c *chain) restartAgents(ctx context.Context) error {
	if err := c.bindAgents(ctx); err != nil {
		return err
	}
	if err := c.stopAgents(); err != nil {
		return err
	}
	return c.runAgents(ctx)
}

// variables are a container's, as a kubelet would set them.
func variables(all []core.EnvVar, node *cluster.MeshNode) (env []string) {
	hostIP := "$(HOST_IP)" // only what comes before is expanded
	for _, e := range all {
		value := strings.ReplaceAll(e.Value, "$(HOST_IP)", hostIP)
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			value = map[string]string{"spec.nodeName": node.Name, "status.hostIP": node.IP}[e.ValueFrom.FieldRef.FieldPath]
		}
		if e.Name == "HOST_IP" {
			hostIP = value
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}

// stopAgents ends the agents that run.
func (c *chain) stopAgents() error {
	var errs []error
	for i, agent := range c.encrypted.agents {
		if agent != nil {
			errs = append(errs, agent.Stop(time.Minute))
			c.encrypted.agents[i] = nil
		}
	}
	return errors.Join(errs...)
}
