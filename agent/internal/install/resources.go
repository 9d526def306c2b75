// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// errNoKind: the cluster does not know a kind, for want of its CRD for instance.
var errNoKind = errors.New("the cluster does not know it")

// resource returns where objects of a kind are, for a namespaced kind in that
// namespace ("": in all).
func (c *Cluster) resource(ctx context.Context, kind schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	resources, err := c.resources(ctx, kind.GroupVersion())
	if err != nil {
		return nil, err
	}
	for _, r := range resources {
		if r.Kind != kind.Kind || strings.Contains(r.Name, "/") { // a subresource
			continue
		}
		objects := c.objects.Resource(kind.GroupVersion().WithResource(r.Name))
		if r.Namespaced {
			return objects.Namespace(namespace), nil
		}
		return objects, nil
	}
	return nil, fmt.Errorf("%s %s: %w", kind.GroupVersion(), kind.Kind, errNoKind)
}

// knows reports whether the cluster knows a kind.
func (c *Cluster) knows(ctx context.Context, kind schema.GroupVersionKind) (bool, error) {
	_, err := c.resource(ctx, kind, "")
	if errors.Is(err, errNoKind) {
		return false, nil
	}
	return err == nil, err
}

// resources returns what the API server has in a group version, nothing when it
// does not know it. The discovery client of client-go would do the same, and
// bring the types of all API groups into the binary (20 MB).
func (c *Cluster) resources(ctx context.Context, version schema.GroupVersion) ([]metav1.APIResource, error) {
	if known, ok := c.known[version]; ok {
		return known, nil
	}
	path := "/apis/" + version.String()
	if version.Group == "" {
		path = "/api/" + version.Version
	}
	var found metav1.APIResourceList
	err := c.getJSON(ctx, path, &found)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("ask the cluster what it knows in %s: %w", version, err)
	}
	c.known[version] = found.APIResources
	return found.APIResources, nil
}

// namespaced returns all resources in namespaces that can be listed and deleted.
func (c *Cluster) namespaced(ctx context.Context) ([]schema.GroupVersionResource, error) {
	versions := []schema.GroupVersion{{Version: "v1"}}
	var groups metav1.APIGroupList
	if err := c.getJSON(ctx, "/apis", &groups); err != nil {
		return nil, err
	}
	for _, g := range groups.Groups {
		version, err := schema.ParseGroupVersion(g.PreferredVersion.GroupVersion)
		if err != nil {
			return nil, err
		}
		versions = append(versions, version)
	}
	var all []schema.GroupVersionResource
	for _, version := range versions {
		resources, err := c.resources(ctx, version)
		if err != nil {
			return nil, err
		}
		for _, r := range resources {
			if r.Namespaced && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "delete") {
				all = append(all, version.WithResource(r.Name))
			}
		}
	}
	return all, nil
}

func (c *Cluster) getJSON(ctx context.Context, path string, into any) error {
	data, err := c.raw.Get().AbsPath(path).Do(ctx).Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
