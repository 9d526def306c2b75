// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// fieldManager owns the fields of the installed objects (server-side apply).
const fieldManager = "layertrace"

// rollbackTimeout bounds a rollback, which an interrupt does not end.
const rollbackTimeout = 30 * time.Second

// Action is what was done to an object.
type Action string

// Actions.
const (
	Created   Action = "created"
	Changed   Action = "changed"
	Unchanged Action = "unchanged"
	Deleted   Action = "deleted"
	Kept      Action = "kept" // belongs to others
)

// Change is one step of an installation, with what it takes to undo it.
type Change struct {
	// Object is KIND NAMESPACE/NAME.
	Object string
	Action Action
	before *unstructured.Unstructured // nil if created
	after  *unstructured.Unstructured // nil if deleted
}

// Apply creates or changes these objects, in order, and deletes all others of an
// earlier installation. If a step fails or ctx ends, it rolls back the steps before
// it, and the error reports that.
func (c *Cluster) Apply(ctx context.Context, objects []*unstructured.Unstructured, progress func(Change)) error {
	var done []Change
	err := c.apply(ctx, objects, func(change Change) {
		done = append(done, change)
		progress(change)
	})
	if err == nil {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if failure := c.undo(back, done); failure != nil {
		return fmt.Errorf("%w; rolling back the changes failed too: %w", err, failure)
	}
	return fmt.Errorf("%w; all changes were rolled back", err)
}

func (c *Cluster) apply(ctx context.Context, objects []*unstructured.Unstructured, done func(Change)) error {
	before, err := c.Managed(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, o := range objects {
		wanted[describe(o)] = true
	}
	remove := func(some func(*unstructured.Unstructured) bool) error {
		for _, o := range before {
			if wanted[describe(o)] || !some(o) {
				continue
			}
			if err := c.delete(ctx, o); err != nil {
				return err
			}
			done(Change{Object: describe(o), Action: Deleted, before: o})
		}
		return nil
	}
	moved := func(o *unstructured.Unstructured) bool {
		return o.GetKind() == kindEnvoyFilter.Kind && findNamed(objects, o.GetKind(), o.GetName()) != nil
	}
	// Envoy refuses a listener with an EnvoyFilter of the mesh and the same one of its namespace.
	if err := remove(moved); err != nil {
		return err
	}
	for _, o := range objects {
		change, err := c.applyOne(ctx, o)
		if err != nil {
			return fmt.Errorf("apply %s: %w", describe(o), err)
		}
		done(change)
	}
	return remove(func(o *unstructured.Unstructured) bool { return !moved(o) })
}

func (c *Cluster) applyOne(ctx context.Context, o *unstructured.Unstructured) (Change, error) {
	change := Change{Object: describe(o), Action: Created}
	var err error
	if change.before, err = c.get(ctx, o); err != nil {
		return change, err
	}
	if change.before != nil && !isManaged(change.before) {
		if o.GetKind() == KindNamespace.Kind { // a user may have created it
			change.Action = Kept
			return change, nil
		}
		return change, errors.New("it " + notManaged(change.before))
	}
	if change.after, err = c.patch(ctx, o, false); err != nil {
		return change, err
	}
	if change.before != nil {
		change.Action = Changed
		if change.before.GetResourceVersion() == change.after.GetResourceVersion() {
			change.Action = Unchanged
		}
	}
	return change, nil
}

// patch applies an object: server-side, with strict validation.
func (c *Cluster) patch(ctx context.Context, o *unstructured.Unstructured, dry bool) (*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	force := true // take over fields of other managers
	options := metav1.PatchOptions{FieldManager: fieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return r.Patch(ctx, o.GetName(), types.ApplyPatchType, data, options)
}

// undo reverts changes, the last one first. It continues after a failure.
func (c *Cluster) undo(ctx context.Context, changes []Change) error {
	var failures []error
	for i := len(changes) - 1; i >= 0; i-- {
		change := changes[i]
		var err error
		switch change.Action {
		case Created:
			err = c.delete(ctx, change.after)
		case Deleted:
			err = c.create(ctx, change.before)
		case Changed:
			err = c.restore(ctx, change)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", change.Object, err))
		}
	}
	return errors.Join(failures...)
}

// restore writes the old version of an object.
func (c *Cluster) restore(ctx context.Context, change Change) error {
	r, err := c.resource(ctx, change.before.GroupVersionKind(), change.before.GetNamespace())
	if err != nil {
		return err
	}
	o := change.before.DeepCopy()
	o.SetResourceVersion(change.after.GetResourceVersion()) // fail if it changed meanwhile
	_, err = r.Update(ctx, o, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}

// create recreates a deleted object, including its managed fields.
func (c *Cluster) create(ctx context.Context, before *unstructured.Unstructured) error {
	r, err := c.resource(ctx, before.GroupVersionKind(), before.GetNamespace())
	if err != nil {
		return err
	}
	o := before.DeepCopy()
	o.SetResourceVersion("")
	o.SetUID("")
	_, err = r.Create(ctx, o, metav1.CreateOptions{FieldManager: fieldManager})
	return err
}

// delete deletes this object, not a newer one of the same name. A missing object is
// not an error.
func (c *Cluster) delete(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.resource(ctx, o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return err
	}
	uid, policy := o.GetUID(), metav1.DeletePropagationBackground
	err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &policy,
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", describe(o), err)
	}
	return nil
}

// removalPoll is the interval at which objects are polled that are being deleted.
const removalPoll = 250 * time.Millisecond

// AwaitRemoval waits until none of the objects is being deleted any more: a
// namespace takes some seconds, and nothing can be created in it meanwhile. It calls
// progress for each object that it waits for.
func (c *Cluster) AwaitRemoval(ctx context.Context, objects []*unstructured.Unstructured, progress func(object string)) error {
	for _, o := range objects {
		reported := false
		for {
			now, err := c.get(ctx, o)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", describe(o), err)
			}
			if err == nil && (now == nil || now.GetDeletionTimestamp() == nil) {
				break
			}
			if !reported {
				reported = true
				progress(describe(o))
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is still being deleted: see its status.conditions (kubectl get -o yaml), and try again when it is gone", describe(o))
			case <-time.After(removalPoll):
			}
		}
	}
	return nil
}

// isManaged reports whether `layertrace install` created an object: by its label and
// its field manager. Manifests applied with kubectl have only the label.
func isManaged(o *unstructured.Unstructured) bool {
	if o.GetLabels()[managedBy] != fieldManager {
		return false
	}
	return slices.ContainsFunc(o.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool { return e.Manager == fieldManager })
}

// notManaged says what to do about an object that is in the way.
func notManaged(o *unstructured.Unstructured) string {
	if o.GetLabels()[managedBy] == "Helm" {
		return "belongs to a Helm release: change that by helm upgrade, or remove it by helm uninstall first"
	}
	return "exists and was not created by layertrace install: remove or rename it"
}

// Managed returns the existing objects that `layertrace install` created, in the
// order in which they are applied.
func (c *Cluster) Managed(ctx context.Context) ([]*unstructured.Unstructured, error) {
	labelled, err := c.labelled(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(labelled, func(o *unstructured.Unstructured) bool { return !isManaged(o) || o.GetDeletionTimestamp() != nil }), nil
}

// labelled returns all objects with the label of `layertrace install`.
func (c *Cluster) labelled(ctx context.Context) ([]*unstructured.Unstructured, error) {
	kinds, err := manifestKinds()
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

// Uninstall deletes the objects that `layertrace install` created, and only those,
// the last one first. It keeps a namespace that has objects of others.
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
		if !isManaged(o) {
			progress(Change{Object: describe(o) + " (labelled, but not created by layertrace install)", Action: Kept})
			continue
		}
		if o.GetKind() == KindNamespace.Kind {
			others, err := c.others(ctx, o.GetName())
			if err != nil {
				return fmt.Errorf("list other objects in namespace %s: %w", o.GetName(), err)
			}
			if len(others) > 0 {
				progress(Change{Object: describe(o) + " (it also has " + strings.Join(others, ", ") + ")", Action: Kept})
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

// others returns the objects in a namespace, except those of an installation, their
// dependents, and what Kubernetes and Istio create in every namespace.
func (c *Cluster) others(ctx context.Context, namespace string) ([]string, error) {
	resources, err := c.namespaced(ctx)
	if err != nil {
		return nil, err
	}
	var others []string
	for _, r := range resources {
		if r.Resource == "endpoints" {
			continue // removed with their Services, though not owned by them
		}
		found, err := c.objects.Resource(r).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", r.Resource, err)
		}
		for _, o := range found.Items {
			if !isGenerated(&o) {
				others = append(others, o.GetKind()+" "+o.GetName())
			}
		}
	}
	return others, nil
}

// everywhere are objects that controllers create in every namespace.
var everywhere = []string{"ServiceAccount default", "ConfigMap kube-root-ca.crt", "ConfigMap istio-ca-root-cert", "ConfigMap istio-ca-crl"}

// isGenerated reports whether an object belongs to an installation or is created and
// deleted by controllers.
func isGenerated(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Event" || o.GetDeletionTimestamp() != nil || len(o.GetOwnerReferences()) > 0 ||
		isManaged(o) || slices.Contains(everywhere, o.GetKind()+" "+o.GetName())
}
