// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
)

// A service account may do what its role permits, and nothing else.
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
	if err := list(); !apierrors.IsForbidden(err) {
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
	if !apierrors.IsForbidden(err) {
		t.Errorf("a verb that the role does not have: %v, want Forbidden", err)
	}
}

// The API server has Istio's resources and validates their fields.
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

// Objects survive an outage of the API server.
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
		t.Error("a stopped API server responds")
	}
	if err := c.StartAPIServer(interrupted); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(interrupted, "kept", meta.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// A cluster that fails to start removes everything and reports the cause: a program
// that fails, or an interrupt.
func TestFailedStartLeavesNothing(t *testing.T) {
	needsCluster(t)
	tools, err := provision.Kubernetes(interrupted, testrun.Checkout(t), testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	broken := tools
	broken.APIServer = "/bin/false"
	ended, end := context.WithCancel(interrupted)
	defer end()
	for name, attempt := range map[string]struct {
		ctx      context.Context
		tools    cluster.Tools
		progress string
		want     func(error) bool
	}{
		"program fails": {interrupted, broken, "", func(err error) bool { return strings.Contains(err.Error(), "kube-apiserver ended early") }},
		"interrupt":     {ended, tools, "starting etcd", func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := cluster.Start(attempt.ctx, cluster.Options{
				Name: *clusterName + "f", Dir: filepath.Join(t.TempDir(), "cluster"), Tools: attempt.tools,
				Progress: func(format string, _ ...any) {
					if attempt.progress != "" && strings.HasPrefix(format, attempt.progress) {
						end()
					}
				},
			})
			if err == nil {
				t.Error(errors.Join(errors.New("the cluster started"), c.Close()))
			} else if !attempt.want(err) {
				t.Error(err)
			}
			if left := leftovers(*clusterName + "f"); len(left) > 0 {
				t.Errorf("leftovers: %v", left)
			}
		})
	}
}
