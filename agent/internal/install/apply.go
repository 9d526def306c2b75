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

// FieldManager owns what is installed (server-side apply).
const FieldManager = "layertrace"

// rollbackTimeout bounds the way back, which an interrupt does not end.
const rollbackTimeout = 30 * time.Second

// Action is what happened to an object.
type Action string

// Actions.
const (
	Created   Action = "created"
	Changed   Action = "changed"
	Unchanged Action = "unchanged"
	Deleted   Action = "deleted"
	Left      Action = "left as it is"
)

// Change is one step of an installation, and what is needed to undo it.
type Change struct {
	// Object is KIND NAMESPACE/NAME.
	Object string
	Action Action
	before *unstructured.Unstructured // nil when created
	after  *unstructured.Unstructured // nil when deleted
}

// Apply makes the cluster have these objects, in order, and takes away what an
// installation before had besides. When a step fails, or ctx ends, what was done
// so far is undone, and the error says so.
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
		return fmt.Errorf("%w; undoing what was done before it failed too: %w", err, failure)
	}
	return fmt.Errorf("%w; all is as it was before", err)
}

func (c *Cluster) apply(ctx context.Context, objects []*unstructured.Unstructured, done func(Change)) error {
	before, err := c.Ours(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, o := range objects {
		wanted[describe(o)] = true
		change, err := c.applyOne(ctx, o)
		if err != nil {
			return fmt.Errorf("apply %s: %w", describe(o), err)
		}
		done(change)
	}
	for _, o := range before {
		if wanted[describe(o)] {
			continue
		}
		if err := c.delete(ctx, o); err != nil {
			return err
		}
		done(Change{Object: describe(o), Action: Deleted, before: o})
	}
	return nil
}

func (c *Cluster) applyOne(ctx context.Context, o *unstructured.Unstructured) (Change, error) {
	change := Change{Object: describe(o), Action: Created}
	var err error
	if change.before, err = c.get(ctx, o); err != nil {
		return change, err
	}
	if change.before != nil && !isOurs(change.before) {
		if o.GetKind() == kindNamespace.Kind { // a user may make it first
			change.Action = Left
			return change, nil
		}
		return change, errors.New("it exists and was not made by layertrace install: remove or rename it")
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

// patch applies an object, on the server's side and with strict validation.
func (c *Cluster) patch(ctx context.Context, o *unstructured.Unstructured, dry bool) (*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	force := true // another owner of our fields is a slip of somebody's
	options := metav1.PatchOptions{FieldManager: FieldManager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return r.Patch(ctx, o.GetName(), types.ApplyPatchType, data, options)
}

// undo takes changes back, the last one first, and goes on behind a failure.
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

// restore writes an object as it was.
func (c *Cluster) restore(ctx context.Context, change Change) error {
	r, err := c.resource(ctx, change.before.GroupVersionKind(), change.before.GetNamespace())
	if err != nil {
		return err
	}
	o := change.before.DeepCopy()
	o.SetResourceVersion(change.after.GetResourceVersion()) // nobody wrote it meanwhile
	_, err = r.Update(ctx, o, metav1.UpdateOptions{FieldManager: FieldManager})
	return err
}

// create makes an object again that was deleted, its owner fields included.
func (c *Cluster) create(ctx context.Context, before *unstructured.Unstructured) error {
	r, err := c.resource(ctx, before.GroupVersionKind(), before.GetNamespace())
	if err != nil {
		return err
	}
	o := before.DeepCopy()
	o.SetResourceVersion("")
	o.SetUID("")
	_, err = r.Create(ctx, o, metav1.CreateOptions{FieldManager: FieldManager})
	return err
}

// delete deletes this very object, not one that has its name meanwhile. One that
// is gone is no error.
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

// removalPoll is the time between two looks at an object that is being removed.
const removalPoll = 250 * time.Millisecond

// AwaitRemoval returns when none of the objects is being removed any more: a
// namespace takes some seconds, and nothing can be made in it meanwhile. progress
// is told of each object that has to be waited for.
func (c *Cluster) AwaitRemoval(ctx context.Context, objects []*unstructured.Unstructured, progress func(object string)) error {
	for _, o := range objects {
		told := false
		for {
			now, err := c.get(ctx, o)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", describe(o), err)
			}
			if err == nil && (now == nil || now.GetDeletionTimestamp() == nil) {
				break
			}
			if !told {
				told = true
				progress(describe(o))
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is still being removed: see its status.conditions (kubectl get -o yaml), and try again when it is gone", describe(o))
			case <-time.After(removalPoll):
			}
		}
	}
	return nil
}

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
