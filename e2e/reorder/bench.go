// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
	"github.com/layertrace/layertrace/e2e/reorder/upstream"
)

// Bench is an Envoy between a client and an upstream of ours.
type Bench struct {
	Proxy *proxy.Proxy

	tracer     lab.Tracer
	placements []Placement
	upstream   *upstream.Server
	collector  *collector
}

// String names what runs in the Envoy.
func (b *Bench) String() string { return fmt.Sprint(b.tracer, " ", b.placements) }

// startBench starts an Envoy with a listener for each placement, protocol and
// setup of the cases.
func startBench(ctx context.Context, o Options, tracer lab.Tracer, placements []Placement, cases []golden.Case) (*Bench, error) {
	config := proxy.Config{Envoy: o.Envoy, Tracer: tracer, InlineHeaders: placements[0].InlineHeaders()}
	seen := map[string]bool{}
	for _, placement := range placements {
		for _, protocol := range protocols {
			for _, c := range cases {
				l, err := listener(tracer, placement, protocol, c.Setup, o.Module)
				if err != nil {
					return nil, err
				}
				if !seen[l.Name] {
					seen[l.Name] = true
					config.Listeners = append(config.Listeners, l)
				}
			}
		}
	}
	config.Dir = filepath.Join(o.Dir, string(tracer)+"-"+string(placements[len(placements)-1]))
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, err
	}
	b := &Bench{tracer: tracer, placements: placements}
	var err error
	if b.upstream, err = upstream.Start(); err != nil {
		return nil, err
	}
	if b.collector, err = startCollector(); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	config.Upstream, config.Collector = b.upstream.Address(), b.collector.address
	if b.Proxy, err = proxy.Start(ctx, config); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func (b *Bench) stop() (err error) {
	if b.Proxy != nil {
		err = b.Proxy.Stop()
	}
	if b.collector != nil {
		b.collector.close()
	}
	b.upstream.Close()
	return err
}

// Exchange sends a case's request and returns what reached the upstream.
func (b *Bench) Exchange(ctx context.Context, placement Placement, protocol proxy.Protocol, c golden.Case) ([]upstream.Head, error) {
	address, err := b.Proxy.Address(listenerName(placement, protocol, c.Setup))
	if err != nil {
		return nil, err
	}
	switch c.Setup.FirstAttempt {
	case "503":
		b.upstream.Expect(upstream.Unavailable)
	case "reset":
		b.upstream.Expect(upstream.Reset)
	default:
		b.upstream.Expect()
	}
	b.upstream.Take() // what may have come late of a case that failed
	if err := send(ctx, address, c); err != nil {
		return b.upstream.Take(), err
	}
	return b.upstream.Take(), nil
}
