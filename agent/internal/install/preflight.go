// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Level says how grave a finding is.
type Level string

// Levels.
const (
	Fine    Level = "ok"
	Warning Level = "warning"
	Refusal Level = "refused"
)

// Finding is the result of one check, one line for people.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
}

// check is one thing that is looked at before an installation.
type check struct {
	name string
	look func(ctx context.Context, c *Cluster, o *Options, m *mesh) ([]Finding, error)
}

// checks are all, in the order in which they are told.
var checks = []check{
	{"istio", checkIstio},
	{"tracing", checkTracing},
	{"mtls", checkMTLS},
	{"upstream-filters", checkUpstreamFilters},
	{"module", checkModule},
	{"proxy-image", checkProxyImage},
	{"nodes", checkNodes},
	{"prometheus", checkPodMonitor},
}

// Preflight looks whether an installation can work, changes nothing, and sets
// what the cluster decides in the options: Istio's version, whether there is a
// PodMonitor. The error is about not being able to look.
func (c *Cluster) Preflight(ctx context.Context, o *Options) ([]Finding, error) {
	m, err := c.readIstio(ctx, o.IstioNamespace)
	if err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	var all []Finding
	for _, check := range checks {
		findings, err := check.look(ctx, c, o, m)
		if err != nil {
			return nil, fmt.Errorf("look at the cluster (%s): %w", check.name, err)
		}
		for _, f := range findings {
			f.Check = check.name
			all = append(all, f)
		}
	}
	return all, nil
}

// Refused returns what stands against an installation, nil when nothing does.
func Refused(findings []Finding) error {
	var lines []string
	for _, f := range findings {
		if f.Level == Refusal {
			lines = append(lines, f.Text)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(lines, "; "))
}

func one(level Level, format string, args ...any) ([]Finding, error) {
	return []Finding{{Level: level, Text: fmt.Sprintf(format, args...)}}, nil
}

// oldestUpstream is the Istio whose Envoy (1.34) has Lua and the extension
// discovery of Wasm as upstream HTTP filters.
const oldestUpstreamMinor = 26

func checkIstio(ctx context.Context, c *Cluster, o *Options, m *mesh) ([]Finding, error) {
	for _, kind := range []schema.GroupVersionKind{kindEnvoyFilter, kindWasmPlugin, kindTelemetry} {
		known, err := c.knows(ctx, kind)
		if err != nil {
			return nil, err
		}
		if !known {
			return one(Refusal, "the cluster knows no %s %s: install Istio 1.%d or later first (istioctl install)", kind.GroupVersion(), kind.Kind, oldestUpstreamMinor)
		}
	}
	switch {
	case m.version != "":
		return istioVersion(o, m.version)
	case o.IstioVersion != "":
		return istioVersion(o, o.IstioVersion)
	}
	return one(Warning, "Istio's CRDs are there, but no Deployment with app=istiod in %s tells a version: taken for the newest; correct --istio-namespace, or name it by --istio-version", o.IstioNamespace)
}

// istioVersion sees whether a version has what the options ask for.
func istioVersion(o *Options, version string) ([]Finding, error) {
	o.IstioVersion = version
	old, err := olderThan(version, 1, oldestUpstreamMinor)
	if err != nil {
		return nil, err
	}
	if old && o.usesUpstreamFilters() {
		return one(Refusal, "Istio is %s, and --reorder %s needs 1.%d or later (upstream HTTP filters): upgrade Istio, or choose --reorder %s or %s",
			version, o.Reorder, oldestUpstreamMinor, ReorderInlineHeaders, ReorderNone)
	}
	return one(Fine, "Istio %s", version)
}

func checkModule(_ context.Context, _ *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	if o.usesWasm() && o.WasmURL == "" {
		return one(Refusal, "--reorder %s needs the module: push it to a registry that the nodes reach (make wasm), and name it by --wasm-url; or choose --reorder %s, which needs none", o.Reorder, ReorderLua)
	}
	return nil, nil
}

func checkPodMonitor(ctx context.Context, c *Cluster, o *Options, _ *mesh) ([]Finding, error) {
	var err error
	if o.PodMonitor, err = c.knows(ctx, kindPodMonitor); err != nil {
		return nil, err
	}
	if !o.PodMonitor {
		return one(Fine, "no Prometheus operator: without a PodMonitor")
	}
	return one(Fine, "with a PodMonitor for the Prometheus operator")
}

// DryRun lets the API server check what it can of the objects without keeping
// them: permissions, schemas, admission. Objects in namespaces that are yet to
// be made are left out.
func (c *Cluster) DryRun(ctx context.Context, objects []*unstructured.Unstructured) error {
	var failures []error
	for _, o := range objects {
		before, err := c.get(ctx, o)
		switch {
		case err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", describe(o), err))
			continue
		case before != nil && !isOurs(before):
			if o.GetKind() != kindNamespace.Kind {
				failures = append(failures, fmt.Errorf("%s exists and was not made by layertrace install: remove or rename it", describe(o)))
			}
			continue
		}
		_, err = c.patch(ctx, o, true)
		if apierrors.IsNotFound(err) && o.GetNamespace() != "" {
			continue // the namespace is yet to come
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", describe(o), err))
		}
	}
	return errors.Join(failures...)
}
