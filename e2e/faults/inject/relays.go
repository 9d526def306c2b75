// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/relay"
	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// delay holds all that goes from one node to another. A request may pass there
// several times: what it was held in sum counts.
func (b *Bench) delay(ctx context.Context, c faults.Case, r Request) (sum time.Duration, err error) {
	before, behind, err := b.relayed(c, func(*sight) relay.Plan { return relay.Delay(c.Magnitude) },
		func() error { return r.Send(ctx) })
	if err != nil {
		return 0, err
	}
	for _, e := range before.exchanges(r.TraceID) {
		for _, m := range []tap.Message{e.Request, e.Response} {
			if !m.Src.IsValid() || nodeOf(m.Src.Addr().String()) != c.FromNode || nodeOf(m.Dst.Addr().String()) != c.ToNode {
				continue
			}
			one, err := held(before, behind, m)
			if err != nil {
				return 0, err
			}
			sum += one
		}
	}
	return met(sum, nil)
}

// lose loses the last packet of the message on the case's leg, once.
func (b *Bench) lose(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	before, behind, err := b.relayed(c, func(before *sight) relay.Plan {
		return relay.Lose(target(before, c.Leg, r.TraceID))
	}, func() error { return r.Send(ctx) })
	if err != nil {
		return 0, err
	}
	return between(before, behind, r.TraceID, c.Leg)
}

// reorder has the first packet of a long message come last.
func (b *Bench) reorder(ctx context.Context, c faults.Case, r Request) (time.Duration, error) {
	before, behind, err := b.relayed(c, func(before *sight) relay.Plan {
		return relay.Reorder(target(before, c.Leg, r.TraceID), c.Magnitude)
	}, func() error { return b.long(ctx, c.Leg, r) })
	if err != nil {
		return 0, err
	}
	return between(before, behind, r.TraceID, c.Leg)
}

// relayed does something while what goes from one node to the pods of another
// passes the relay, and returns what was seen where it comes from the one and
// where it leaves to the other.
func (b *Bench) relayed(c faults.Case, plan func(before *sight) relay.Plan, do func() error) (before, behind *sight, err error) {
	sw := b.lab.InfraNamespace()
	spots := []spot{{sw, lab.NodeName(c.FromNode)}, {sw, lab.NodeName(c.ToNode)}}
	seen, err := watched(spots, func(seen []*sight) (err error) {
		b.relay.Set(plan(seen[0]))
		defer b.relay.Set(relay.Pass{})
		node, pods := b.lab.NodeNamespace(c.FromNode), lab.PodSubnet(c.ToNode)
		if err := node.ReplaceRoute(pods, lab.InfraIP); err != nil {
			return fmt.Errorf("route through the relay: %w", err)
		}
		defer func() { err = errors.Join(err, node.ReplaceRoute(pods, lab.NodeIP(c.ToNode))) }()
		if err := do(); err != nil {
			return err
		}
		if !b.relay.Met() {
			return fmt.Errorf("%w: no packet was taken for it", ErrMissed)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return seen[0], seen[1], nil
}

// nodeOf is the node of the pod that has an address, 0 for others.
func nodeOf(ip string) int {
	for _, pod := range lab.Pods {
		if pod.IP == ip {
			return pod.Node
		}
	}
	return 0
}
