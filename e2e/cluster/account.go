// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// AwaitServiceAccount returns when a namespace has its default service account,
// which a controller makes: before that no pod can be made in it.
func (c *Cluster) AwaitServiceAccount(ctx context.Context, namespace string) error {
	return sandbox.Await(ctx, "service account of namespace "+namespace, startLimit, pollEvery, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", meta.GetOptions{})
		return err
	})
}
