// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

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

// Kinds that are read. The exported ones are those of package clusterstatus.
var (
	kindConfigMap          = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	KindNamespace          = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	kindNode               = schema.GroupVersionKind{Version: "v1", Kind: "Node"}
	KindPod                = schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	KindDaemonSet          = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "DaemonSet"}
	kindDeployment         = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	kindEnvoyFilter        = schema.GroupVersionKind{Group: "networking.istio.io", Version: "v1alpha3", Kind: "EnvoyFilter"}
	kindWasmPlugin         = schema.GroupVersionKind{Group: "extensions.istio.io", Version: "v1alpha1", Kind: "WasmPlugin"}
	KindTelemetry          = schema.GroupVersionKind{Group: "telemetry.istio.io", Version: "v1", Kind: "Telemetry"}
	kindPeerAuthentication = schema.GroupVersionKind{Group: "security.istio.io", Version: "v1", Kind: "PeerAuthentication"}
	kindPodMonitor         = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor"}
	kindPrometheusRule     = schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "PrometheusRule"}
)

// Cluster is a client of an API server. It uses the dynamic client, as typed
// client sets would link every API group into the binary (20 MB).
type Cluster struct {
	// Name of the kubeconfig's context, "" in a pod.
	Name    string
	objects dynamic.Interface
	raw     rest.Interface
	known   map[schema.GroupVersion][]metav1.APIResource
}

// Connect reads the kubeconfig file (empty: as kubectl does) and selects its
// context (empty: the current one). It does not contact the API server yet.
func Connect(kubeconfig, context string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w; correct --kubeconfig or --context", err)
	}
	// The default of 5 requests per second is meant for controllers.
	config.QPS, config.Burst = 50, 100
	config.UserAgent = fieldManager
	config.Wrap(func(to http.RoundTripper) http.RoundTripper { return boundProxied{to} })
	c := &Cluster{Name: context, known: map[schema.GroupVersion][]metav1.APIResource{}}
	if raw, err := loader.RawConfig(); err == nil && c.Name == "" {
		c.Name = raw.CurrentContext
	}
	if c.objects, err = dynamic.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("create a client for the cluster: %w", err)
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(runtime.NewScheme()).WithoutConversion()
	if c.raw, err = rest.UnversionedRESTClientFor(config); err != nil {
		return nil, fmt.Errorf("create a client for the cluster: %w", err)
	}
	return c, nil
}

// Contexts returns the names of the contexts in a kubeconfig file (empty: as kubectl reads it).
func Contexts(kubeconfig string) ([]string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	return slices.Sorted(maps.Keys(config.Contexts)), nil
}

// get returns the cluster's version of an object, nil if it does not exist.
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

// List returns all objects of a kind as T, in one namespace or, with "", in all.
// A kind that the cluster does not have is an empty list.
func List[T any](ctx context.Context, c *Cluster, kind schema.GroupVersionKind, namespace string, options metav1.ListOptions) ([]*T, error) {
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

// errNoKind: the cluster does not have a kind, because its CRD is missing for
// instance.
var errNoKind = errors.New("the cluster does not have this kind")

// resource returns the client for a kind. A namespaced kind is limited to that
// namespace ("": all).
func (c *Cluster) resource(ctx context.Context, kind schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	resources, err := c.resources(ctx, kind.GroupVersion())
	if err != nil {
		return nil, err
	}
	for _, r := range resources {
		if r.Kind != kind.Kind || strings.Contains(r.Name, "/") { // subresource
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

// hasKind reports whether the cluster has a kind.
func (c *Cluster) hasKind(ctx context.Context, kind schema.GroupVersionKind) (bool, error) {
	_, err := c.resource(ctx, kind, "")
	if errors.Is(err, errNoKind) {
		return false, nil
	}
	return err == nil, err
}

// resources returns the API resources of a group version, none if the API server
// does not have it. client-go's discovery client would link the types of all API
// groups into the binary (20 MB).
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
		return nil, fmt.Errorf("discover the resources of %s: %w", version, err)
	}
	c.known[version] = found.APIResources
	return found.APIResources, nil
}

// namespaced returns all namespaced resources that can be listed and deleted.
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

// GetFromPod sends GET to a port of a pod through the API server, which needs the
// permission get on pods/proxy.
func (c *Cluster) GetFromPod(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error) {
	body, err := c.raw.Get().
		AbsPath("/api/v1/namespaces", namespace, "pods", fmt.Sprintf("%s:%d", pod, port), "proxy", path).
		Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxFromPod+1))
	if err == nil && len(data) > maxFromPod {
		err = fmt.Errorf("it responds with more than %d MiB", maxFromPod>>20)
	}
	return data, err
}

// GetFromService sends GET with headers to a service, SERVICE:PORT, through the API server,
// which needs the permission get on services/proxy. The response is read, and forgotten.
func (c *Cluster) GetFromService(ctx context.Context, namespace, service string, path *url.URL, headers map[string]string) error {
	// One segment: of several, AbsPath drops a slash at the end.
	request := c.raw.Get().AbsPath("/api/v1/namespaces/" + namespace + "/services/" + service + "/proxy" + path.Path)
	for name, values := range path.Query() {
		for _, value := range values {
			request = request.Param(name, value)
		}
	}
	for name, value := range headers {
		request = request.SetHeader(name, value)
	}
	body, err := request.Stream(ctx)
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return fmt.Errorf("%w (status %d)", err, status.Status().Code)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(body, maxFromPod))
	return err
}

const (
	// maxFromPod is how many bytes of a pod's response are read: it may be anybody's.
	maxFromPod = 16 << 20
	// maxError is how many bytes of an error's response are read.
	maxError = 64 << 10
)

// boundProxied bounds the responses of pods and services, of which client-go reads those with
// an error as a whole.
type boundProxied struct{ to http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b boundProxied) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.to.RoundTrip(request)
	if err != nil || response.StatusCode < http.StatusMultipleChoices || !strings.Contains(request.URL.Path, "/proxy/") {
		return response, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxError), response.Body}
	return response, nil
}

func (c *Cluster) getJSON(ctx context.Context, path string, into any) error {
	data, err := c.raw.Get().AbsPath(path).Do(ctx).Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
