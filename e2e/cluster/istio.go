// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

var crdResource = schema.GroupVersionResource{
	Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
}

// addIstio applies Istio's custom resource definitions, and returns when the
// API server serves them.
func (c *Cluster) addIstio(ctx context.Context) error {
	manifests, err := os.ReadFile(c.options.Tools.IstioCRDs)
	if err != nil {
		return fmt.Errorf("read Istio's CRDs: %w", err)
	}
	c.options.Progress("adding Istio's custom resource definitions")
	if err := c.Apply(ctx, manifests); err != nil {
		return fmt.Errorf("add Istio's CRDs: %w", err)
	}
	return sandbox.Await(ctx, "Istio's CRDs", startLimit, pollEvery, func(ctx context.Context) error {
		list, err := c.Dynamic.Resource(crdResource).List(ctx, v1.ListOptions{})
		if err != nil {
			return err
		}
		for _, crd := range list.Items {
			if !established(crd) {
				return fmt.Errorf("%s is not established", crd.GetName())
			}
		}
		if len(list.Items) == 0 {
			return errors.New("there are none")
		}
		return nil
	})
}

// established is whether a CRD has the condition Established.
func established(crd unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		condition, ok := c.(map[string]any)
		if ok && condition["type"] == "Established" && condition["status"] == "True" {
			return err == nil
		}
	}
	return false
}
