// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"testing"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// makeNamespace makes a namespace with its default service account, which goes
// when the test is over, with all that is in it.
func makeNamespace(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}
	if _, err := c.Client.CoreV1().Namespaces().Create(interrupted, namespace, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNamespace(t, c, name) })
	if err := c.AwaitServiceAccount(interrupted, name); err != nil {
		t.Fatal(err)
	}
}

// deleteNamespace returns when the namespace is gone.
func deleteNamespace(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	awaitNil(t, "end of namespace "+name, func() error {
		err := c.Client.CoreV1().Namespaces().Delete(interrupted, name, meta.DeleteOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil, apierrors.IsConflict(err):
			return errors.New("still there")
		}
		return err
	})
}
