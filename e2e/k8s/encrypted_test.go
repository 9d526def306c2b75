// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"strings"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/e2e/cluster"
)

var telemetries = schema.GroupVersionResource{Group: "telemetry.istio.io", Version: "v1", Resource: "telemetries"}

// Istio's default encrypts, so --mtls is on by itself. With the Telemetry API, the access
// log of the mesh configuration stays, and what keeps records away is named with the
// lines that help.
func testEncrypted(t *testing.T, c *cluster.Cluster) {
	uninstallAfter(t, c)
	out := does(t, c, "install", "--yes", "--reorder=none")
	expect(t, out, "encrypted hops get their trace from records of the proxies (--mtls-log envoyfilter)",
		"created   Service layertrace-system/layertrace-access-log", "created   EnvoyFilter istio-system/layertrace-mtls")
	ds, err := c.Client.AppsV1().DaemonSets(agentNamespace).Get(interrupted, "layertrace-agent", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := c.Client.CoreV1().ConfigMaps(agentNamespace).Get(interrupted, ds.Spec.Template.Spec.Volumes[0].ConfigMap.Name, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if settings := config.Data["mtls.yaml"]; !strings.Contains(settings, "mtls: true\n") {
		t.Errorf("the agents' settings are %q", settings)
	}
	if out := does(t, c, "install", "--yes", "--reorder=none"); !strings.Contains(out, "Nothing to change") {
		t.Error("a second installation changes something")
	}

	apply(t, c, strings.Replace(meshConfig, "  mesh: |\n", "  mesh: |\n    accessLogFile: /dev/stdout\n", 1))
	makeNamespace(t, c, "shop")
	apply(t, c, `
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: own-log, namespace: shop}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: shop}
spec: {egress: [{hosts: ["./*", "istio-system/*"]}]}
`)
	out = does(t, c, "install", "--yes", "--reorder=none", "--mtls-log=telemetry")
	expect(t, out, "deleted   EnvoyFilter istio-system/layertrace-mtls", "created   Telemetry istio-system/layertrace",
		"the mesh's access logs stay: envoy",
		"lacks the access log providers layertrace-client, layertrace-server", "extensionProviders:\n- envoyOtelAls:",
		"Telemetry shop/own-log has accessLogging of its own", "accessLogging:\n- filter:\n    expression:",
		"Sidecar shop/narrow hides the agents' service from its proxies")
	telemetry, err := c.Dynamic.Resource(telemetries).Namespace("istio-system").Get(interrupted, "layertrace", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	logs, _, err := unstructured.NestedSlice(telemetry.Object, "spec", "accessLogging")
	if err != nil || len(logs) != 3 || !strings.Contains(fmt.Sprint(logs[2]), "name:envoy") {
		t.Errorf("the Telemetry's logs are %v, %v", logs, err)
	}
	out, _ = layertrace(t, c, "status")
	expect(t, out, "the mesh configuration lacks the access log providers")

	out = does(t, c, "install", "--yes", "--reorder=none", "--mtls=off")
	expect(t, out, "deleted   Telemetry istio-system/layertrace", "deleted   Service layertrace-system/layertrace-access-log", "--mtls on lets the proxies report it")
	does(t, c, "uninstall", "--yes")
	for _, object := range all(t, c) {
		if strings.Contains(object, "layertrace") {
			t.Errorf("left: %s", object)
		}
	}
	apply(t, c, meshConfig)
}

// apply applies objects.
func apply(t *testing.T, c *cluster.Cluster, manifests string) {
	t.Helper()
	if err := c.Apply(interrupted, []byte(manifests)); err != nil {
		t.Fatal(err)
	}
}
