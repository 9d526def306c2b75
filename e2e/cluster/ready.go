// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// AwaitReady asks again and again until ready returns nil. When the program
// ends before that, there is nothing to wait for: the error has what it wrote.
func AwaitReady(ctx context.Context, p *sandbox.Process, ready func(context.Context) error) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	return sandbox.Await(ctx, p.Name(), startLimit, pollEvery, func(ctx context.Context) error {
		if err := p.Running(); err != nil {
			giveUp()
			return err
		}
		return ready(ctx)
	})
}
