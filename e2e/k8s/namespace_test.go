// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab/await"
)

// limit is how long a condition may take to come true on a slow machine.
const limit = 2 * time.Minute

// makeNamespace makes a namespace with its default service account, which goes
// when the test is over, with all that is in it.
func makeNamespace(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	namespace := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: name}}
	if _, err := c.Client.CoreV1().Namespaces().Create(interrupted, namespace, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNamespace(t, c, name) })
	err := await.Until(interrupted, "service account of "+name, limit, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(name).Get(ctx, "default", meta.GetOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deleteNamespace returns when the namespace is gone.
func deleteNamespace(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	err := await.Until(interrupted, "end of namespace "+name, limit, 50*time.Millisecond, func(ctx context.Context) error {
		err := c.Client.CoreV1().Namespaces().Delete(ctx, name, meta.DeleteOptions{})
		if errors.IsNotFound(err) {
			return nil
		}
		if err == nil || errors.IsConflict(err) {
			err = fmt.Errorf("still there")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
