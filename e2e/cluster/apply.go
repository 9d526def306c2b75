// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Objects decodes YAML or JSON documents.
func Objects(manifests []byte) (objects []*unstructured.Unstructured, err error) {
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest %d: %w", len(objects)+1, err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
}

// Apply creates or updates objects by server-side apply with strict field
// validation: an unknown or duplicate field is an error.
func (c *Cluster) Apply(ctx context.Context, manifests []byte) error {
	return c.ApplyAs(ctx, "layertrace-test", manifests)
}

// ApplyAs is Apply as a field manager, whose fields that are not in the manifests it removes.
func (c *Cluster) ApplyAs(ctx context.Context, manager string, manifests []byte) error {
	return c.each(manifests, func(r dynamic.ResourceInterface, object *unstructured.Unstructured) error {
		data, err := json.Marshal(object)
		if err != nil {
			return err
		}
		force := true
		_, err = r.Patch(ctx, object.GetName(), types.ApplyPatchType, data, v1.PatchOptions{
			FieldManager: manager, Force: &force, FieldValidation: v1.FieldValidationStrict,
		})
		return err
	})
}

// Delete deletes objects. A missing one is not an error.
func (c *Cluster) Delete(ctx context.Context, manifests []byte) error {
	return c.each(manifests, func(r dynamic.ResourceInterface, object *unstructured.Unstructured) error {
		err := r.Delete(ctx, object.GetName(), v1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// each calls do with every object and its resource.
func (c *Cluster) each(manifests []byte, do func(dynamic.ResourceInterface, *unstructured.Unstructured) error) error {
	objects, err := Objects(manifests)
	if err != nil {
		return err
	}
	mapper, err := c.mapper()
	if err != nil {
		return err
	}
	for _, object := range objects {
		kind := object.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err == nil {
			r := dynamic.ResourceInterface(c.Dynamic.Resource(mapping.Resource))
			if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
				r = c.Dynamic.Resource(mapping.Resource).Namespace(object.GetNamespace())
			}
			err = do(r, object)
		}
		if err != nil {
			return fmt.Errorf("%s %s/%s: %w", kind.Kind, object.GetNamespace(), object.GetName(), err)
		}
	}
	return nil
}

// mapper maps kinds to resources, from what the API server serves now.
func (c *Cluster) mapper() (meta.RESTMapper, error) {
	client, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		return nil, fmt.Errorf("create a discovery client: %w", err)
	}
	groups, err := restmapper.GetAPIGroupResources(client)
	if err != nil {
		return nil, fmt.Errorf("list the API server's resources: %w", err)
	}
	return restmapper.NewDiscoveryRESTMapper(groups), nil
}

var crdResource = schema.GroupVersionResource{
	Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions",
}

// addIstio applies Istio's custom resource definitions and waits until the API server
// serves them.
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
			return errors.New("there are none yet")
		}
		return nil
	})
}

// established reports whether a CRD has the condition Established.
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
