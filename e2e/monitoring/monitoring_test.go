// SPDX-License-Identifier: Apache-2.0

// Package monitoring tests the dashboard and the alert rules of istio/monitoring with a
// real Prometheus that scrapes the code of an agent's metrics.
package monitoring

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// folder has the files under test.
const folder = "../../istio/monitoring"

// programs returns Prometheus and promtool.
func programs(t *testing.T) (server, promtool string) {
	t.Helper()
	if testing.Short() {
		t.Skip("rules and queries take half a minute: not with -short")
	}
	checkout, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	server, promtool, err = provision.Prometheus(t.Context(), checkout, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return server, promtool
}

// Each alert fires when it should, and only then: rules_test.yaml.
func TestRules(t *testing.T) {
	_, promtool := programs(t)
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"}, {"test", "rules", "rules_test.yaml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Every query of the dashboard and the rules has a result, in a Prometheus with native
// histograms and in one with classic buckets, and the relay network has the delay
// between the nodes.
func TestQueries(t *testing.T) {
	program, _ := programs(t)
	g := readDashboard(t)
	queries := g.queries(t, g.everything())
	targets := example(t)
	for name, scrape := range map[string]string{
		"native":  "scrape_native_histograms: true",
		"classic": "scrape_native_histograms: false",
		"both":    "scrape_native_histograms: true, always_scrape_classic_histograms: true",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // mostly waits for scrapes
			p := startPrometheus(t, program, targets, scrape)
			for _, q := range slices.Concat(queries, g.queries(t, g.one()), recordings(t, p)) {
				if err := sandbox.Await(t.Context(), q.name, 30*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
					return p.hasData(ctx, q.expr)
				}); err != nil {
					t.Errorf("%s\n%s", err, q.expr)
				}
			}
			checkRelay(t, p, named(t, queries, "Relay network per hop, mean A"))
			g.checkHealth(t, p)
			g.checkVariables(t, p)
			g.checkLinks(t, p)
			checkKind(t, p, name)
			if ids, err := p.exemplars(t.Context(), `{__name__=~"layertrace_layer_duration_seconds.*"}`); err != nil || len(ids) == 0 || len(ids[0]) != 32 {
				t.Errorf("trace IDs of exemplars: %q, %v", ids, err)
			}
		})
	}
}

// checkRelay compares the panel with the delay of the example between nodes: 200 to
// 400 µs, on average 300.
func checkRelay(t *testing.T, p *prometheus, expr string) {
	t.Helper()
	// Two agents are scraped at different times: the average takes some scrapes.
	if err := sandbox.Await(t.Context(), "relay network", 30*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
		samples, err := p.query(ctx, expr)
		if err == nil && (len(samples) != 1 || math.Abs(samples[0].value-300e-6) > 30e-6) {
			err = fmt.Errorf("%v s, want one hop of about 300 µs", samples)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// checkKind checks that the scrape setting has its effect.
func checkKind(t *testing.T, p *prometheus, name string) {
	t.Helper()
	for expr, want := range map[string]bool{
		"layertrace_layer_duration_seconds": name != "classic", "layertrace_layer_duration_seconds_bucket": name != "native",
	} {
		samples, err := p.query(t.Context(), "count("+expr+")")
		if err != nil || (len(samples) > 0) != want {
			t.Errorf("%s exists: %v, %v", expr, samples, err)
		}
	}
}

// example starts the example agents and returns their addresses.
func example(t *testing.T) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "example")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../agent/internal/agent/example")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "127.0.0.1:0", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	var addresses []string
	for lines := bufio.NewScanner(out); len(addresses) < 2; {
		if !lines.Scan() {
			t.Fatalf("the example printed %q, then nothing (%v)", addresses, lines.Err())
		}
		addresses = append(addresses, lines.Text())
	}
	return addresses
}

// start runs a program until the end of the test.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // the test's context ends it
}

// strictly validates a dashboard by Grafana's own schema, including the options of each
// kind of panel and data source. Unknown fields are errors.
func strictly(data []byte) error {
	plugins.RegisterDefaultPlugins()
	var d dashboard.Dashboard //nolint:staticcheck // all Grafanas import this schema; its successor is another format
	err := d.UnmarshalJSONStrict(data)
	// Without errors it returns an empty list, not nil.
	if all, ok := errors.AsType[cog.BuildErrors](err); err != nil && (!ok || len(all) > 0) {
		return err
	}
	return d.Validate()
}

func TestDashboardFitsGrafanasSchema(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(folder, "layertrace-layers.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := strictly(data); err != nil {
		t.Errorf("%v", err)
	}
	for name, change := range map[string]*strings.Replacer{
		"a misspelt option": strings.NewReplacer(`"legend"`, `"legends"`),
		"a missing one":     strings.NewReplacer(`"showLegend": true,`, ``),
		"a wrong type":      strings.NewReplacer(`"graphTooltip": 1`, `"graphTooltip": "1"`),
	} {
		changed := change.Replace(string(data))
		if changed == string(data) {
			t.Fatalf("%s: the dashboard has no such option", name)
		}
		if strictly([]byte(changed)) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
