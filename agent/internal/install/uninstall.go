// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// isOurs reports whether `layertrace install` made an object: its label, and its
// field manager, which a copy of the manifests applied by kubectl does not have.
func isOurs(o *unstructured.Unstructured) bool {
	if o.GetLabels()[managedBy] != FieldManager {
		return false
	}
	return slices.ContainsFunc(o.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == FieldManager })
}

// Ours returns what `layertrace install` made and is there now, in the order of
// application.
func (c *Cluster) Ours(ctx context.Context) ([]*unstructured.Unstructured, error) {
	labelled, err := c.labelled(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(labelled, func(o *unstructured.Unstructured) bool { return !isOurs(o) || o.GetDeletionTimestamp() != nil }), nil
}

func (c *Cluster) labelled(ctx context.Context) ([]*unstructured.Unstructured, error) {
	kinds, err := installed()
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, kind := range kinds {
		r, err := c.resource(ctx, kind, "")
		if errors.Is(err, errNoKind) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := r.List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Kind, err)
		}
		for i := range found.Items {
			all = append(all, &found.Items[i])
		}
	}
	return all, nil
}

// Uninstall deletes what `layertrace install` made, the last first, and only
// that. A namespace in which somebody else has something stays.
func (c *Cluster) Uninstall(ctx context.Context, progress func(Change)) error {
	all, err := c.labelled(ctx)
	if err != nil {
		return err
	}
	slices.Reverse(all)
	for _, o := range all {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		if !isOurs(o) {
			progress(Change{Object: describe(o) + " (labelled, but not made by layertrace install)", Action: Left})
			continue
		}
		if o.GetKind() == kindNamespace.Kind {
			others, err := c.others(ctx, o.GetName())
			if err != nil {
				return fmt.Errorf("look what else is in namespace %s: %w", o.GetName(), err)
			}
			if len(others) > 0 {
				progress(Change{Object: describe(o) + " (it also has " + strings.Join(others, ", ") + ")", Action: Left})
				continue
			}
		}
		if err := c.delete(ctx, o); err != nil {
			return err
		}
		progress(Change{Object: describe(o), Action: Deleted, before: o})
	}
	return nil
}

// others returns what is in a namespace, apart from what is ours, what follows
// from ours, and what Kubernetes and Istio put into every namespace.
func (c *Cluster) others(ctx context.Context, namespace string) ([]string, error) {
	resources, err := c.namespaced(ctx)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, r := range resources {
		if r.Resource == "endpoints" {
			continue // follow their Services, without being owned by them
		}
		found, err := c.objects.Resource(r).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", r.Resource, err)
		}
		for _, o := range found.Items {
			if !belongs(&o) {
				others = append(others, o.GetKind()+" "+o.GetName())
			}
		}
	}
	return others, nil
}

// everywhere are objects that controllers put into every namespace.
var everywhere = []string{"ServiceAccount default", "ConfigMap kube-root-ca.crt", "ConfigMap istio-ca-root-cert", "ConfigMap istio-ca-crl"}

// belongs reports whether an object goes with ours or comes by itself.
func belongs(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Event" || o.GetDeletionTimestamp() != nil || len(o.GetOwnerReferences()) > 0 ||
		isOurs(o) || slices.Contains(everywhere, o.GetKind()+" "+o.GetName())
}
