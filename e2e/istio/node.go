// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	worker   = "worker"
	workerIP = "10.77.0.30"
	podCIDR  = "10.244.1.0/24"
	appImage = "layertrace/bookinfo:test"
	appPod   = "details"
	// appService is the workload's name in the pod's label.
	appService = "details-service"
)

// startNode creates the other images and starts a node with all.
func startNode(ctx context.Context, c *chain) error {
	dir, err := c.cluster.Dir("images")
	if err != nil {
		return err
	}
	programs := map[string]string{
		cluster.PauseImage: c.options.Tools.Pause,
		appImage:           c.options.Tools.Bookinfo,
	}
	if c.before != nil {
		programs[c.before.image()] = c.before.layertrace
	}
	archives := []string{c.options.Tools.AgentImage}
	for reference, program := range programs {
		archive := filepath.Join(dir, strings.NewReplacer("/", "-", ":", "-").Replace(reference)+".tar")
		if err := cluster.WriteImage(archive, reference, program); err != nil {
			return err
		}
		archives = append(archives, archive)
	}
	_, err = cluster.StartNode(ctx, c.cluster, cluster.NodeOptions{
		Name: worker, IP: workerIP, PodCIDR: podCIDR, Images: archives, Tools: c.options.Tools.Node,
	})
	return err
}

// startJaeger starts Jaeger in the control plane's namespace.
func startJaeger(ctx context.Context, c *chain) error {
	dir, err := c.cluster.Dir("jaeger")
	if err != nil {
		return err
	}
	config, err := lab.JaegerConfig(cluster.BridgeIP, 1000)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "jaeger.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return err
	}
	p, err := c.cluster.Run(sandbox.Spec{Name: "jaeger", Path: c.options.Tools.Jaeger, Args: []string{"--config", path}})
	if err != nil {
		return err
	}
	c.jaeger = lab.NewJaegerClient(cluster.BridgeIP, c.cluster.Namespace.DialContext)
	return cluster.AwaitReady(ctx, p, func(ctx context.Context) error {
		_, err := c.jaeger.Services(ctx)
		return err
	})
}

// agentRuns installs the agents and waits until the node's is ready.
func agentRuns(ctx context.Context, c *chain) error {
	endpoint := fmt.Sprintf("%s:%d", cluster.BridgeIP, lab.JaegerOTLPPort)
	if _, err := c.layertrace(ctx, "install", "--yes", "--reorder=none", "--otlp-endpoint="+endpoint); err != nil {
		return err
	}
	return c.awaitPod(ctx, agentNamespace, func(pod *core.Pod) bool { return boundTo(pod) == worker })
}

// laterPodIsNamed starts a pod and waits until Jaeger has a span of the pod's
// interface that names it.
func laterPodIsNamed(ctx context.Context, c *chain) error {
	pods := c.cluster.Client.CoreV1().Pods(cluster.AppNamespace)
	_, err := pods.Create(ctx, &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: appPod, Labels: map[string]string{"app": appPod, "service.istio.io/canonical-name": appService}},
		Spec: core.PodSpec{NodeName: worker, Containers: []core.Container{{
			Name: "app", Image: appImage, ImagePullPolicy: core.PullNever, Args: []string{"--role=details", "--listen=:9080", "--log=/dev/stdout"},
		}}},
	}, meta.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create a pod: %w", err)
	}
	if err := c.awaitPod(ctx, cluster.AppNamespace, func(pod *core.Pod) bool { return pod.Name == appPod }); err != nil {
		return err
	}
	pod, err := pods.Get(ctx, appPod, meta.GetOptions{})
	if err != nil {
		return err
	}
	return c.awaitNamedSpan(ctx, "http://"+pod.Status.PodIP+":9080/details/0")
}

// awaitNamedSpan sends requests, each with a trace of its own, until Jaeger has a
// span of one of them that names the pod.
func (c *chain) awaitNamedSpan(ctx context.Context, url string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: c.cluster.Namespace.DialContext}}
	defer client.CloseIdleConnections()
	var traces []string
	var spans []lab.Span
	return sandbox.Await(ctx, "span of pod "+appPod, configLimit, 500*time.Millisecond, func(ctx context.Context) error {
		// An agent sends its spans a second or two after the request.
		for _, trace := range traces[max(0, len(traces)-8):] {
			got, err := c.jaeger.Trace(ctx, trace)
			if err != nil {
				return err
			}
			if spans = got.Spans; slices.ContainsFunc(spans, namesApp) {
				return nil
			}
		}
		traces = append(traces, fmt.Sprintf("0af7651916cd43dd8448eb2100%06x", len(traces)+1))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		request.Header.Set("traceparent", "00-"+traces[len(traces)-1]+"-b7ad6b7169203331-01")
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		return errors.Join(response.Body.Close(), fmt.Errorf("none in Jaeger, which has %v of the previous request", spans))
	})
}

// namesApp reports whether a span is of the app's interface and names its workload
// and pod.
func namesApp(span lab.Span) bool {
	return span.Service == appService && strings.HasPrefix(span.Name, appService+"_veth") &&
		span.Resource["k8s.pod.name"] == appPod && span.Resource["k8s.namespace.name"] == cluster.AppNamespace &&
		span.Resource["k8s.node.name"] == worker
}

// agentGoes uninstalls, and waits until the agent's pod and namespace are gone.
func agentGoes(ctx context.Context, c *chain) error {
	if err := c.uninstall(ctx); err != nil {
		return err
	}
	return c.awaitGone(ctx)
}

// awaitPod waits until a pod is ready. It also acts as the scheduler for pods that
// have no node yet but name one.
func (c *chain) awaitPod(ctx context.Context, namespace string, which func(*core.Pod) bool) error {
	pods := c.cluster.Client.CoreV1().Pods(namespace)
	return sandbox.Await(ctx, "pod in "+namespace, configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		list, err := pods.List(ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			pod := &list.Items[i]
			if !which(pod) {
				continue
			}
			if pod.Spec.NodeName == "" {
				return errors.Join(errors.New("just bound"), pods.Bind(ctx, &core.Binding{
					ObjectMeta: meta.ObjectMeta{Name: pod.Name},
					Target:     core.ObjectReference{Kind: "Node", Name: boundTo(pod)},
				}, meta.CreateOptions{}))
			}
			for _, c := range pod.Status.Conditions {
				if c.Type == core.PodReady && c.Status == core.ConditionTrue {
					return nil
				}
			}
			return fmt.Errorf("%s is not ready: %+v", pod.Name, pod.Status.ContainerStatuses)
		}
		return errors.New("there is none yet")
	})
}

// boundTo returns the node for which the DaemonSet controller created a pod.
func boundTo(pod *core.Pod) string {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return ""
	}
	required := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		return ""
	}
	for _, term := range required.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == meta.ObjectNameField && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}
