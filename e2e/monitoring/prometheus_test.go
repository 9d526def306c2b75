// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
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
)

// prometheus is a running server.
type prometheus struct{ base string }

// startPrometheus starts one that scrapes the targets five times a second.
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
- {job_name: layertrace-agent, static_configs: [{targets: [%q, %q]}], %s}
`, rules, targets[0], targets[1], scrape)
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
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

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get asks for a path; data, if any, takes the answer's field of that name.
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

// query returns the values of an instant query, 0 for histograms.
func (p *prometheus) query(ctx context.Context, expr string) ([]float64, error) {
	var data struct {
		Result []struct {
			Value []any `json:"value"`
		} `json:"result"`
	}
	if err := p.get(ctx, "/api/v1/query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, err
	}
	values := make([]float64, len(data.Result))
	for i, r := range data.Result {
		if len(r.Value) != 2 {
			continue
		}
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, err
		}
		values[i] = v
	}
	return values, nil
}

// answers returns an error while a query has no result or one that is no number.
func (p *prometheus) answers(ctx context.Context, expr string) error {
	values, err := p.query(ctx, expr)
	if err != nil {
		return err
	}
	for _, v := range values {
		if v == v { // not NaN
			return nil
		}
	}
	return fmt.Errorf("no data in %d series", len(values))
}

// exemplars returns the trace IDs of those that a query's series have.
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

// query is one of the dashboard's or the rules', under its panel's or own name.
type query struct{ name, expr string }

// dashboardQueries returns those of all panels, with everything chosen.
func dashboardQueries(t *testing.T) []query {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, "layertrace-layers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	chosen := strings.NewReplacer("$__rate_interval", "10s", "$source", ".*", "$destination", ".*", "$layer", ".*")
	var all []query
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if target.Expr != "" {
				all = append(all, query{p.Title + " " + target.RefID, chosen.Replace(target.Expr)})
			}
		}
	}
	if len(all) < 15 {
		t.Fatalf("the dashboard has %d queries only", len(all))
	}
	return all
}

// recordings returns what Prometheus records by its rules, and fails where it
// cannot.
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
	if len(all) != 3 || alerts != 8 {
		t.Errorf("%d recordings and %d alerts are loaded", len(all), alerts)
	}
	return all
}
