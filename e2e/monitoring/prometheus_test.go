// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/testkit"
)

// prometheus is a running server.
type prometheus struct{ base string }

// startPrometheus starts a server that scrapes the targets five times per second: as the nodes
// node1 and node2 of a cluster east, whose node3 does not respond.
func startPrometheus(t *testing.T, program string, targets []string, scrape string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(filepath.Join(folder, "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
- job_name: layertrace-agent
  static_configs:
  - {targets: [%q], labels: {cluster: east, node: node1}}
  - {targets: [%q], labels: {cluster: east, node: node2}}
  - {targets: ["127.0.0.1:1"], labels: {cluster: east, node: node3}}
  %s
`, rules, targets[0], targets[1], strings.ReplaceAll(scrape, ", ", "\n  "))
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := testkit.FreeAddress(t)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("Prometheus:\n%s", text)
		}
	})
	cmd := exec.CommandContext(t.Context(), program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address, "--enable-feature=exemplar-storage", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	start(t, cmd)
	p := &prometheus{base: "http://" + address}
	if err := sandbox.Await(t.Context(), "Prometheus", 30*time.Second, 50*time.Millisecond, func(ctx context.Context) error {
		return p.get(ctx, "/-/ready", nil, nil)
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// get requests a path, and decodes the field data of the response into data if not nil.
func (p *prometheus) get(ctx context.Context, path string, parameters url.Values, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+path+"?"+parameters.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if data == nil && response.StatusCode == http.StatusOK {
		return nil
	}
	body := struct {
		Data  any    `json:"data"`
		Error string `json:"error"`
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil || body.Error != "" || response.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("%s: %s %s", path, response.Status, body.Error), err)
	}
	return nil
}

// sample is one result of an instant query; value is 0 for histograms.
type sample struct {
	labels map[string]string
	value  float64
}

// query returns the results of an instant query.
func (p *prometheus) query(ctx context.Context, expr string) ([]sample, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  []any
		}
	}
	if err := p.get(ctx, "/api/v1/query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, err
	}
	samples := make([]sample, len(data.Result))
	for i, r := range data.Result {
		samples[i].labels = r.Metric
		if len(r.Value) != 2 {
			continue
		}
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, err
		}
		samples[i].value = v
	}
	return samples, nil
}

// hasData returns an error while a query has no result that is a number.
func (p *prometheus) hasData(ctx context.Context, expr string) error {
	samples, err := p.query(ctx, expr)
	if err != nil {
		return err
	}
	for _, s := range samples {
		if s.value == s.value { // not NaN
			return nil
		}
	}
	return fmt.Errorf("no data in %d series", len(samples))
}

// exemplars returns the trace IDs of the exemplars of a query's series.
func (p *prometheus) exemplars(ctx context.Context, expr string) ([]string, error) {
	var data []struct {
		Exemplars []struct {
			Labels map[string]string `json:"labels"`
		} `json:"exemplars"`
	}
	now := time.Now()
	err := p.get(ctx, "/api/v1/query_exemplars", url.Values{
		"query": {expr}, "start": {now.Add(-time.Hour).Format(time.RFC3339)}, "end": {now.Add(time.Minute).Format(time.RFC3339)},
	}, &data)
	var ids []string
	for _, series := range data {
		for _, e := range series.Exemplars {
			ids = append(ids, e.Labels["trace_id"])
		}
	}
	return ids, err
}

// query is a query of the dashboard or the rules, with the name of its panel or rule.
type query struct{ name, expr string }

// recordings returns the recording rules, and fails for rules with errors.
func recordings(t *testing.T, p *prometheus) (all []query) {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Type, Query, LastError string }
		}
	}
	if err := p.get(t.Context(), "/api/v1/rules", url.Values{}, &data); err != nil {
		t.Fatal(err)
	}
	alerts := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.LastError != "" {
				t.Errorf("rule %s: %s", r.Name, r.LastError)
			}
			if r.Type == "recording" {
				all = append(all, query{r.Name, r.Query})
			} else {
				alerts++
			}
		}
	}
	if len(all) != 3 || alerts != 11 {
		t.Errorf("%d recording rules and %d alerts loaded", len(all), alerts)
	}
	return all
}
