// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// MeshConfig has the fields of Istio's MeshConfig that matter here (istio.io/api,
// mesh/v1alpha1/config.proto).
type MeshConfig struct {
	EnableTracing      *bool                        `json:"enableTracing"`
	EnableAutoMTLS     *bool                        `json:"enableAutoMtls"`
	ExtensionProviders []map[string]json.RawMessage `json:"extensionProviders"`
	DefaultProviders   struct {
		Tracing       []string `json:"tracing"`
		AccessLogging []string `json:"accessLogging"`
	} `json:"defaultProviders"`
	AccessLogFile               string `json:"accessLogFile"`
	EnableEnvoyAccessLogService bool   `json:"enableEnvoyAccessLogService"`
}

// tracerKinds are the kinds of extension providers that trace.
var tracerKinds = []string{"zipkin", "opentelemetry", "datadog", "skywalking", "lightstep", "opencensus", "stackdriver"}

// TracingProviders returns the kind of each provider that traces, by name.
func (m *MeshConfig) TracingProviders() map[string]string {
	found := map[string]string{}
	for _, provider := range m.ExtensionProviders {
		var name string
		if err := json.Unmarshal(provider["name"], &name); err != nil {
			continue // istiod rejects it too
		}
		for kind := range provider {
			if slices.Contains(tracerKinds, kind) {
				found[name] = kind
			}
		}
	}
	return found
}

// Mesh describes an Istio control plane.
type Mesh struct {
	// Version as MAJOR.MINOR..., "" if unknown.
	Version string
	// Revisions are the names of all control planes, sorted.
	Revisions []string
	// Config is nil without a mesh configuration.
	Config *MeshConfig
}

// ReadMesh reads the control plane of a revision in a namespace; with "", of several the
// oldest.
func (c *Cluster) ReadMesh(ctx context.Context, namespace, revision string) (*Mesh, error) {
	found := &Mesh{}
	deployments, err := List[appsv1.Deployment](ctx, c, kindDeployment, namespace, metav1.ListOptions{LabelSelector: "app=istiod"})
	if err != nil {
		return nil, err
	}
	for _, d := range deployments {
		name := cmp.Or(d.Labels[revisionLabel], defaultRevision)
		found.Revisions = append(found.Revisions, name)
		if revision != "" && name != revision {
			continue
		}
		version := imageVersion(d)
		if version == "" {
			continue
		}
		if older, err := versionLess(version, found.Version); err != nil || older {
			found.Version = version
		}
	}
	maps, err := List[corev1.ConfigMap](ctx, c, kindConfigMap, namespace, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, m := range maps {
		text, has := m.Data["mesh"]
		if !has || !isMeshOf(m.Name, revision, found.Config != nil) {
			continue
		}
		found.Config = &MeshConfig{}
		if err := yaml.Unmarshal([]byte(text), found.Config); err != nil {
			return nil, fmt.Errorf("parse the mesh configuration in ConfigMap %s/%s: %w", namespace, m.Name, err)
		}
	}
	slices.Sort(found.Revisions)
	return found, nil
}

// meshName returns the name of the ConfigMap with the mesh configuration of a revision.
func meshName(revision string) string {
	if revision == "" || revision == defaultRevision {
		return "istio"
	}
	return "istio-" + revision
}

// isMeshOf reports whether a ConfigMap has the mesh configuration of a revision. Without
// one, istio-REVISION only counts if there is no plain one.
func isMeshOf(name, revision string, another bool) bool {
	plain := meshName("")
	return name == meshName(revision) || meshName(revision) == plain && strings.HasPrefix(name, plain+"-") && !another
}

// imageVersion returns the version in the tag of istiod's image, such as
// 1.31.1-distroless of docker.io/istio/pilot:1.31.1-distroless, "" without one.
func imageVersion(d *appsv1.Deployment) string {
	for _, container := range d.Spec.Template.Spec.Containers {
		image, _, _ := strings.Cut(container.Image, "@")
		tag := image[strings.LastIndex(image, ":")+1:]
		if container.Name == "discovery" && majorMinor.MatchString(tag) {
			return strings.TrimPrefix(tag, "v")
		}
	}
	return ""
}

// versionLess compares the first two numbers; "" is the newest version.
func versionLess(a, b string) (bool, error) {
	if b == "" {
		return true, nil
	}
	major, minor, err := parseVersion(b)
	if err != nil {
		return false, err
	}
	return olderThan(a, major, minor)
}

// majorMinor matches the start of versions of Istio and of kernels.
var majorMinor = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

// parseVersion returns the first two numbers of a version.
func parseVersion(text string) (major, minor int, err error) {
	m := majorMinor.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("%q does not start with a version such as 1.31", text)
	}
	if major, err = strconv.Atoi(m[1]); err == nil {
		minor, err = strconv.Atoi(m[2])
	}
	return major, minor, err
}

// olderThan reports whether a version is older than major.minor; "" is the newest
// version.
func olderThan(version string, major, minor int) (bool, error) {
	if version == "" {
		return false, nil
	}
	m, n, err := parseVersion(version)
	return m < major || m == major && n < minor, err
}
