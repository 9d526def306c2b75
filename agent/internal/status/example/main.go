// SPDX-License-Identifier: Apache-2.0

// Command example serves the metrics of two agents of made-up nodes, through the
// code that serves real ones: to look at the dashboard and the alert rules of
// istio/monitoring without a cluster. A front page on node1 asks details on
// node2 and a cache on node1.
//
//	go run ./agent/internal/status/example 127.0.0.1:9464 127.0.0.1:9465
//
// A port of 0 takes a free one; the addresses are printed.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/prometheus/client_golang/prometheus"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "example:", err)
		os.Exit(1)
	}
}

// node is one made-up agent.
type node struct {
	times  *status.LayerTimes
	server *status.Server
}

func run(ctx context.Context, addresses []string) error {
	if len(addresses) != 2 {
		return errors.New("name two addresses to listen on, such as 127.0.0.1:9464 127.0.0.1:9465")
	}
	var nodes []*node
	for _, address := range addresses {
		server, err := status.Listen(address)
		if err != nil {
			return err
		}
		defer server.Close(ctx)
		n := &node{times: status.NewLayerTimes(), server: server}
		registry := status.NewRegistry([]prometheus.Collector{n.times}, health)
		server.Serve(registry, func() (string, error) { return "", nil }, slog.Default())
		nodes = append(nodes, n)
		fmt.Println(server.Address())
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		for i, sightings := range request(rand.Uint64(), rand.Float64) {
			for _, leg := range breakdown.Split(sightings, nil).Hops {
				nodes[i].times.Observe(leg)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// health is what an agent tells of itself, with nothing lost.
func health() ([]status.Sample, error) {
	var all []status.Sample
	for _, c := range probe.CounterNames() {
		all = append(all, status.Sample{Name: c.Name, Help: c.Help})
	}
	gauge := func(name string, v float64, label ...string) {
		s := status.Sample{Name: name, Help: "Made up.", Gauge: true, Value: v}
		if len(label) == 2 {
			s.Label, s.LabelValue = label[0], label[1]
		}
		all = append(all, s)
	}
	gauge("ready", 1)
	gauge("build_info", 1, "version", "example")
	gauge("interfaces", 2, "role", "vnic")
	gauge("interfaces", 1, "role", "pnic")
	gauge("interfaces_unattached", 0)
	for _, name := range []string{"traces_split_early", "observations_late", "spans_failed"} {
		all = append(all, status.Sample{Name: name, Help: "Made up."})
	}
	return append(all, status.Sample{Name: "spans_dropped", Help: "Made up.", Label: "reason", LabelValue: "queue_full"}), nil
}
