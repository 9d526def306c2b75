// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// PodSpec is what a pod is made from.
type PodSpec struct {
	// Name is the pod's and the value of its label app.
	Name string
	// IP is an address of cluster.BridgeIP's network.
	IP string
	// Sidecar says that the pod has an Envoy with an agent.
	Sidecar bool
	// BootstrapOverride is JSON that is merged into Envoy's bootstrap, as the
	// annotation sidecar.istio.io/bootstrapOverride does; may be empty.
	BootstrapOverride string
}

// Pod is a pod whose network namespace stands in for its containers: what a
// test starts or dials in Space is the application.
type Pod struct {
	PodSpec
	// Space is the pod's network namespace.
	Space *sandbox.Namespace
	// HTTP sends requests from the pod, through its sidecar if it has one,
	// each on a connection of its own. URLs hold an IP address.
	HTTP *http.Client

	dir string
}

// AddPod makes a pod with its network; with a sidecar it returns when that is
// ready.
func (m *Mesh) AddPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	pod, err := m.makePod(ctx, spec)
	if err == nil && spec.Sidecar {
		err = m.startSidecar(ctx, pod)
	}
	if err != nil {
		return nil, fmt.Errorf("make pod %s: %w", spec.Name, err)
	}
	return pod, nil
}

func (m *Mesh) makePod(ctx context.Context, spec PodSpec) (*Pod, error) {
	dir, err := m.cluster.Dir(filepath.Join("pods", spec.Name))
	if err != nil {
		return nil, err
	}
	space, err := m.cluster.AddPodSpace(spec.Name, spec.IP)
	if err != nil {
		return nil, err
	}
	if err := m.register(ctx, spec); err != nil {
		return nil, err
	}
	return &Pod{PodSpec: spec, Space: space, dir: dir, HTTP: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{DialContext: space.DialContext, DisableKeepAlives: true},
	}}, nil
}

// register tells the API server of the pod, as it would be once it runs.
func (m *Mesh) register(ctx context.Context, spec PodSpec) error {
	pods := m.cluster.Client.CoreV1().Pods(Namespace)
	containers := []core.Container{{Name: "app", Image: "app"}}
	labels := map[string]string{"app": spec.Name}
	if spec.Sidecar {
		containers = append(containers, core.Container{Name: "istio-proxy", Image: "proxyv2"})
		labels["security.istio.io/tlsMode"] = "istio"
	}
	pod, err := pods.Create(ctx, &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: spec.Name, Labels: labels},
		Spec:       core.PodSpec{NodeName: nodeName, Containers: containers},
	}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	pod.Status = core.PodStatus{
		Phase: core.PodRunning, PodIP: spec.IP, PodIPs: []core.PodIP{{IP: spec.IP}},
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
	}
	_, err = pods.UpdateStatus(ctx, pod, meta.UpdateOptions{})
	return err
}

// writeFile writes a file and the directories above it.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
