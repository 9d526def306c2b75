// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"text/template"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// JoinOTLPPort is the port of join's OTLP receiver, at Jaeger's address. With a Balancer it
// is that of the Collector, and those of the joins are the next ones.
const JoinOTLPPort = 4327

// JoinHeader is a gRPC header with the number of the join that sends.
const JoinHeader = "layertrace-lab-join"

// joinMetricsAddress is in Jaeger's network namespace.
func joinMetricsAddress(i int) string { return fmt.Sprintf("127.0.0.1:%d", 9465+i) }

func joinAddress(port int) string { return net.JoinHostPort(InfraIP, strconv.Itoa(port)) }

//go:embed balancer.yaml.tmpl
var balancerConfig string

var balancerTemplate = template.Must(template.New("balancer").Parse(balancerConfig))

// Joins returns the number of joins of the run.
func (r *Run) Joins() int {
	if r.setup.Balancer == "" {
		return 1
	}
	return 2
}

// startJoins starts the joins, and the Collector if there is one.
func (r *Run) startJoins() error {
	r.joins = make([]*sandbox.Process, r.Joins())
	for i := range r.joins {
		if err := r.launchJoin(i); err != nil {
			return err
		}
	}
	if r.setup.Balancer == "" {
		return nil
	}
	var joins []string
	for i := range r.joins {
		joins = append(joins, r.joinAddress(i))
	}
	path := r.file("balancer", "yaml")
	err := writeCollectorConfig(path, balancerTemplate, map[string]any{"Listen": joinAddress(JoinOTLPPort), "Store": r.joinTo(), "Joins": joins})
	if err != nil {
		return err
	}
	r.balancer, err = sandbox.Start(sandbox.Spec{
		Name: "balancer", Path: r.setup.Balancer, Args: []string{"--config", path},
		Namespace: r.lab.network.infra, Cgroup: r.lab.groups["infra"], Stderr: r.file("balancer", "log"),
	})
	return err
}

// joinTo is where joins send their spans.
func (r *Run) joinTo() string {
	if r.setup.JoinTo != "" {
		return r.setup.JoinTo
	}
	return joinAddress(JaegerOTLPPort)
}

// joinAddress is that of the OTLP receiver of join i.
func (r *Run) joinAddress(i int) string {
	if r.setup.Balancer == "" {
		return joinAddress(JoinOTLPPort)
	}
	return joinAddress(JoinOTLPPort + 1 + i)
}

func (r *Run) launchJoin(i int) (err error) {
	r.launches++
	args := []string{
		"join", "--listen", r.joinAddress(i), "--otlp-endpoint", r.joinTo(), "--otlp-insecure", "--otlp-header", fmt.Sprintf("%s=%d", JoinHeader, i),
		"--wait", "4s", "--sighting-wait", "60s", "--queue-size", "65536", "--metrics-address", joinMetricsAddress(i),
	}
	name := fmt.Sprintf("%d-%d", i, r.launches)
	r.joins[i], err = sandbox.Start(sandbox.Spec{
		Name: fmt.Sprintf("join %d", i), Path: r.lab.options.Tools.Agent, Args: slices.Concat(args, r.setup.JoinFlags),
		Namespace: r.lab.network.infra, Cgroup: r.lab.groups["infra"],
		Stdout: r.file("join", name+".out"), Stderr: r.file("join", name+".log"),
	})
	return err
}

// KillJoin ends a join as a crash does.
func (r *Run) KillJoin(i int) error { return r.joins[i].Kill() }

// RestartJoin starts a join that was killed, and waits until it is ready.
func (r *Run) RestartJoin(ctx context.Context, i int) error {
	if err := r.launchJoin(i); err != nil {
		return err
	}
	return r.joinReady(ctx, i)
}

// joinsReady waits until all joins and the Collector are ready.
func (r *Run) joinsReady(ctx context.Context) error {
	for i := range r.joins {
		if err := r.joinReady(ctx, i); err != nil {
			return err
		}
	}
	if r.balancer == nil {
		return nil
	}
	return r.lab.ready(ctx, r.balancer, func(ctx context.Context) error {
		connection, err := r.lab.network.infra.DialContext(ctx, "tcp", joinAddress(JoinOTLPPort))
		if err != nil {
			return err
		}
		return connection.Close() // it was only a trial
	})
}

func (r *Run) joinReady(ctx context.Context, i int) error {
	return r.lab.ready(ctx, r.joins[i], func(ctx context.Context) error {
		_, err := r.lab.network.infra.Get(ctx, "http://"+joinMetricsAddress(i)+"/readyz")
		return err
	})
}

// JoinMetrics reads the metrics of a join, as AgentMetrics does.
func (r *Run) JoinMetrics(ctx context.Context, i int) (map[string]float64, error) {
	body, err := r.lab.network.infra.Get(ctx, "http://"+joinMetricsAddress(i)+"/metrics")
	if err != nil {
		return nil, err
	}
	return ParseMetrics(body)
}

// stopJoins ends the Collector, which sends what it has, and then the joins.
func (r *Run) stopJoins() error {
	var errs []error
	if r.balancer != nil {
		errs = append(errs, stopAll([]*sandbox.Process{r.balancer}))
	}
	errs = append(errs, stopAll(r.joins))
	r.balancer, r.joins = nil, nil
	return errors.Join(errs...)
}
