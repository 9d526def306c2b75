// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is a connection to an API server. Objects go through the dynamic
// client: typed client sets would bring every API group into the binary
// (20 MB).
type Cluster struct {
	// Name of the kubeconfig's context, "" within a cluster.
	Name    string
	objects dynamic.Interface
	raw     rest.Interface
	known   map[schema.GroupVersion][]metav1.APIResource
}

// Connect reads the kubeconfig file (empty: as kubectl does) and chooses its
// context (empty: the current one). It sends nothing yet.
func Connect(kubeconfig, context string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w; correct --kubeconfig or --context", err)
	}
	// The default of 5 requests a second is for controllers.
	config.QPS, config.Burst = 50, 100
	config.UserAgent = FieldManager
	c := &Cluster{Name: context, known: map[schema.GroupVersion][]metav1.APIResource{}}
	if raw, err := loader.RawConfig(); err == nil && c.Name == "" {
		c.Name = raw.CurrentContext
	}
	if c.objects, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	if c.raw, err = rest.UnversionedRESTClientFor(config); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return c, nil
}

// get returns an object as the cluster has it, nil when there is none.
func (c *Cluster) get(ctx context.Context, like *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, like.GroupVersionKind(), like.GetNamespace())
	if err != nil {
		return nil, err
	}
	found, err := r.Get(ctx, like.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return found, err
}

// list reads all objects of a kind as T, in one namespace or, with "", in all.
// A kind that the cluster does not know has none.
func list[T any](ctx context.Context, c *Cluster, kind schema.GroupVersionKind, namespace string, options metav1.ListOptions) ([]*T, error) {
	r, err := c.resource(ctx, kind, namespace)
	if errors.Is(err, errNoKind) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*T
	options.Limit = 500
	for {
		page, err := r.List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
		}
		for _, item := range page.Items {
			t := new(T)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, t); err != nil {
				return nil, fmt.Errorf("read %s: %w", describe(&item), err)
			}
			all = append(all, t)
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return all, nil
		}
	}
}
