// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A service account may do what a role says, and nothing else.
func TestServiceAccountsAreAuthorizedByRoles(t *testing.T) {
	c := theCluster(t)
	makeNamespace(t, c, "accounts")
	config, err := c.ServiceAccountKubeconfig(interrupted, "accounts", "default", filepath.Join(t.TempDir(), "kubeconfig"), false)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	list := func() error {
		_, err := client.CoreV1().Pods("accounts").List(interrupted, meta.ListOptions{})
		return err
	}
	if err := list(); !errors.IsForbidden(err) {
		t.Errorf("without a role: %v, want Forbidden", err)
	}
	roles := []byte(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: accounts}
rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: accounts}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default, namespace: accounts}]
`)
	if err := c.Apply(interrupted, roles); err != nil {
		t.Fatal(err)
	}
	awaitNil(t, "the role", list)
	_, err = client.CoreV1().Pods("accounts").Watch(interrupted, meta.ListOptions{})
	if !errors.IsForbidden(err) {
		t.Errorf("a verb that the role does not have: %v, want Forbidden", err)
	}
}

// Istio's resources are there, and their fields are checked.
func TestFieldsOfIstioResourcesAreChecked(t *testing.T) {
	c := theCluster(t)
	makeNamespace(t, c, "fields")
	plugin := func(spec string) []byte {
		return []byte("{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {name: p, namespace: fields}, spec: " + spec + "}")
	}
	if err := c.Apply(interrupted, plugin(`{url: "http://192.0.2.1/x.wasm", failStrategy: FAIL_OPEN}`)); err != nil {
		t.Errorf("a good WasmPlugin: %v", err)
	}
	for spec, want := range map[string]string{
		`{url: "http://192.0.2.1/x.wasm", colour: red}`:             "colour",
		`{url: "http://192.0.2.1/x.wasm", failStrategy: SOMETIMES}`: "failStrategy",
	} {
		if err := c.Apply(interrupted, plugin(spec)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %s", spec, err, want)
		}
	}
}

// What was made before an outage of the API server is there after it.
func TestObjectsOutlastTheAPIServer(t *testing.T) {
	c := theCluster(t)
	made := &core.ConfigMap{ObjectMeta: meta.ObjectMeta{Name: "kept"}}
	maps := c.Client.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(interrupted, made, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := maps.Delete(interrupted, "kept", meta.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if err := c.StopAPIServer(); err != nil {
		t.Error(err)
	}
	if _, err := maps.Get(interrupted, "kept", meta.GetOptions{}); err == nil {
		t.Error("an API server that was stopped answers")
	}
	if err := c.StartAPIServer(interrupted); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(interrupted, "kept", meta.GetOptions{}); err != nil {
		t.Error(err)
	}
}
