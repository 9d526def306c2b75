// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// The two commands of README.md, in a cluster with workloads: build, and try in one namespace.
// The pod cart is on the node with the kubelet; client, whose sidecar begins the traces, is in
// another namespace.

//go:embed shop.yaml
var shopManifest []byte

const (
	tryNamespace = "shop"
	tryPod       = "cart"
	// cartURL is the address of the service in shop.yaml.
	cartURL = "http://10.96.0.30:9080/details/0"
)

// trySteps are those of layertrace try, on the node with the kubelet.
func trySteps() []step {
	return []step{
		{"try: a service in a namespace of its own", true, startShop},
		{"try: from the build to the layers of a trace that others began, other proxies as they were", false, triesWaiting},
		{"try: refused beside an installation, whose objects stay", false, refusesTry},
		{"try --send: layers of a request through the API server", false, triesSending},
	}
}

func startShop(ctx context.Context, c *chain) error {
	if err := c.cluster.Apply(ctx, shopManifest); err != nil {
		return err
	}
	// The control plane's namespace, client's gateway, forwards nothing.
	if err := c.client.Namespace.AddRoute(podCIDR, workerIP); err != nil {
		return err
	}
	if err := c.cluster.AwaitServiceAccount(ctx, tryNamespace); err != nil {
		return err
	}
	_, err := c.cluster.Client.CoreV1().Pods(tryNamespace).Create(ctx, &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: tryPod, Labels: map[string]string{"app": tryPod}},
		Spec: core.PodSpec{NodeName: worker, Containers: []core.Container{{
			Name: "app", Image: appImage, ImagePullPolicy: core.PullNever, Args: []string{"--role=details", "--listen=:9080", "--log=/dev/stdout"},
		}}},
	}, meta.CreateOptions{})
	if err != nil {
		return err
	}
	if err := c.awaitPod(ctx, tryNamespace, func(pod *core.Pod) bool { return pod.Name == tryPod }); err != nil {
		return err
	}
	return sandbox.Await(ctx, "an answer of "+tryPod, configLimit, 200*time.Millisecond, func(ctx context.Context) error {
		// istiod writes this one into every namespace.
		if _, err := c.cluster.Client.CoreV1().ConfigMaps(tryNamespace).Get(ctx, "istio-ca-root-cert", meta.GetOptions{}); err != nil {
			return err
		}
		_, err := sandbox.Get(ctx, c.client.HTTP, cartURL)
		return err
	})
}

// triesWaiting builds the program and tries it while client sends requests. Then it removes the
// trial. The objects of the cluster and the configuration of client's proxy stay the same.
func triesWaiting(ctx context.Context, c *chain) error {
	before, err := c.objects(ctx)
	if err != nil {
		return err
	}
	proxy, err := settledConfig(ctx, c.client)
	if err != nil {
		return err
	}
	start := time.Now()
	program, err := c.build(ctx)
	if err != nil {
		return err
	}
	built := time.Since(start)
	out, err := c.try(ctx, program, func(ctx context.Context) error {
		_, err := sandbox.Get(ctx, c.client.HTTP, cartURL)
		return err
	})
	if err != nil {
		return err
	}
	c.options.Progress("  %.1f s from the first command of the README to the verdict, %.1f s of it for go build:\n%s", time.Since(start).Seconds(), built.Seconds(), out)
	if err := checkTried(out); err != nil {
		return err
	}
	during, err := settledConfig(ctx, c.client)
	if err != nil {
		return err
	}
	if during != proxy {
		return fmt.Errorf("the proxy of another namespace changed: %s", firstDifference(proxy, during))
	}
	if _, err := c.runProgram(ctx, program, "try", "--remove", "--yes"); err != nil {
		return err
	}
	return c.awaitObjects(ctx, before)
}

// triesSending lets try send the requests itself.
func triesSending(ctx context.Context, c *chain) error {
	before, err := c.objects(ctx)
	if err != nil {
		return err
	}
	out, err := c.try(ctx, c.options.Tools.Layertrace, nil, "--send="+tryPod+":9080/details/0")
	if err != nil {
		return err
	}
	if err := checkTried(out); err != nil {
		return err
	}
	if _, err := c.layertrace(ctx, "try", "--remove", "--yes"); err != nil {
		return err
	}
	return c.awaitObjects(ctx, before)
}

// checkTried checks that the output has a verdict about the service, with layers.
func checkTried(out string) error {
	for _, want := range []string{"VERDICT  ", tryPod, "application", "HOPS", "This is trace "} {
		if !strings.Contains(out, want) {
			return fmt.Errorf("try printed no %q:\n%s", want, out)
		}
	}
	return nil
}

// refusesTry installs in the usual way. try and try --remove then refuse, and change nothing.
func refusesTry(ctx context.Context, c *chain) error {
	if err := agentRuns(ctx, c); err != nil {
		return err
	}
	before, err := c.objects(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"try", "--yes", "--namespace=" + tryNamespace}, {"try", "--yes", "--remove"}} {
		out, err := c.layertrace(ctx, args...)
		if err == nil || !strings.Contains(out, "layertrace install") {
			return fmt.Errorf("%v does not refuse: %w\n%s", args, err, out)
		}
	}
	return errors.Join(c.awaitObjects(ctx, before), c.uninstall(ctx), c.awaitGone(ctx))
}

// build builds the program as README.md says.
func (c *chain) build(ctx context.Context) (string, error) {
	checkout, err := provision.Checkout()
	if err != nil {
		return "", err
	}
	dir, err := c.cluster.Dir("try")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "layertrace")
	return program, provision.RunGo(ctx, checkout, c.options.Progress, "build", "-o", program, "./agent/cmd/layertrace")
}

// try runs layertrace try. Meanwhile it binds the agent's pod, as a scheduler would, and calls
// traffic, if there is any, again and again.
func (c *chain) try(ctx context.Context, program string, traffic func(context.Context) error, more ...string) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	scheduled := make(chan error, 1)
	go func() {
		scheduled <- c.awaitPod(ctx, agentNamespace, func(pod *core.Pod) bool { return boundTo(pod) == worker })
	}()
	sent := make(chan error, 1)
	go func() { sent <- repeat(ctx, traffic) }()
	// The node's card is a veth here: it has to be named, as in kind.
	out, err := c.runProgram(ctx, program, append([]string{"try", "--yes", "--namespace=" + tryNamespace, "--agent-setting=pnic=eth0"}, more...)...)
	cancel()
	if bound := <-scheduled; err != nil { // else it may just not have seen what try saw
		err = errors.Join(err, bound)
	}
	return out, errors.Join(err, <-sent)
}

// repeat calls do five times a second until ctx ends.
func repeat(ctx context.Context, do func(context.Context) error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for do != nil {
		if err := do(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// changing are kinds that others write all the time.
var changing = []string{"Event", "Lease", "ComponentStatus"}

// objects returns all objects of the cluster with the hash of their content, without what
// changes by itself: events, leases, status, and what the API server notes about a version.
func (c *chain) objects(ctx context.Context) (map[string]string, error) {
	lists, err := c.cluster.Client.Discovery().ServerPreferredResources()
	if err != nil {
		return nil, fmt.Errorf("list the resources: %w", err)
	}
	all := map[string]string{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || slices.Contains(changing, r.Kind) {
				continue
			}
			found, err := c.cluster.Dynamic.Resource(version.WithResource(r.Name)).List(ctx, meta.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list %s: %w", r.Name, err)
			}
			for i := range found.Items {
				name, content, err := contentOf(&found.Items[i])
				if err != nil {
					return nil, err
				}
				all[name] = content
			}
		}
	}
	return all, nil
}

func contentOf(o *unstructured.Unstructured) (name, content string, err error) {
	delete(o.Object, "status")
	for _, field := range []string{"resourceVersion", "managedFields", "generation"} {
		unstructured.RemoveNestedField(o.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", "control-plane.alpha.kubernetes.io/leader")
	data, err := json.Marshal(o.Object)
	return fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()), fmt.Sprintf("%x", sha256.Sum256(data)), err
}

// awaitObjects waits until the cluster has the same objects as before.
func (c *chain) awaitObjects(ctx context.Context, before map[string]string) error {
	return sandbox.Await(ctx, "the objects as before", configLimit, 500*time.Millisecond, func(ctx context.Context) error {
		now, err := c.objects(ctx)
		if err != nil {
			return err
		}
		var different []string
		for name, content := range now {
			switch was, existed := before[name]; {
			case !existed:
				different = append(different, name+" is new")
			case was != content:
				different = append(different, name+" has changed")
			}
		}
		for name := range before {
			if _, exists := now[name]; !exists {
				different = append(different, name+" is gone")
			}
		}
		if len(different) > 0 {
			slices.Sort(different)
			return errors.New(strings.Join(different, ", "))
		}
		return nil
	})
}
