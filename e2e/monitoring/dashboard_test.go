// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// grafana is what Grafana does with a dashboard's variables, queries and links.
type grafana struct {
	Panels []struct {
		Title       string
		Type        string
		Targets     []struct{ RefID, Expr string }
		FieldConfig struct {
			Defaults struct{ Links []struct{ Title, URL string } }
		}
	}
	Templating struct {
		List []struct{ Name, Type, Definition, Regex, AllValue string }
	}
}

func readDashboard(t *testing.T) *grafana {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, "layertrace-layers.json"))
	if err != nil {
		t.Fatal(err)
	}
	g := &grafana{}
	if err := json.Unmarshal(data, g); err != nil {
		t.Fatal(err)
	}
	return g
}

// everything selects All in each variable.
func (g *grafana) everything() map[string]string {
	chosen := map[string]string{"__rate_interval": "10s", "__from": "1700000000000", "__to": "1700000600000"}
	for _, v := range g.Templating.List {
		chosen[v.Name] = v.AllValue
		if v.Type == "datasource" {
			chosen[v.Name] = "uid-of-" + v.Name
		}
	}
	return chosen
}

// one selects a value in each variable.
func (g *grafana) one() map[string]string {
	chosen := g.everything()
	maps.Copy(chosen, map[string]string{
		"cluster": "east", "node": "node1", "namespace": "bookinfo", "source_namespace": "bookinfo", "source": "productpage", "destination": "details", "layer": "virtual-network",
	})
	return chosen
}

var variable = regexp.MustCompile(`\$(?:\{([\w.]+)\}|(\w+))`)

// fill replaces the variables in a text. Those without a value are errors.
func fill(t *testing.T, text string, chosen map[string]string) string {
	t.Helper()
	return variable.ReplaceAllStringFunc(text, func(used string) string {
		value, known := chosen[strings.Trim(used, "${}")]
		if !known {
			t.Errorf("%s has no value in %s", used, text)
		}
		return value
	})
}

// queries returns the queries of all panels for the chosen variables.
func (g *grafana) queries(t *testing.T, chosen map[string]string) (all []query) {
	t.Helper()
	for _, p := range g.Panels {
		for _, target := range p.Targets {
			if target.Expr != "" {
				all = append(all, query{p.Title + " " + target.RefID, fill(t, target.Expr, chosen)})
			}
		}
	}
	if len(all) < 25 {
		t.Fatalf("the dashboard has only %d queries", len(all))
	}
	return all
}

// named returns the query of a panel.
func named(t *testing.T, all []query, name string) string {
	t.Helper()
	i := slices.IndexFunc(all, func(q query) bool { return q.name == name })
	if i < 0 {
		t.Fatalf("no panel has the query %s", name)
	}
	return all[i].expr
}

// Forms of the definitions of variables.
var (
	ofLabel = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	ofQuery = regexp.MustCompile(`^query_result\((.*)\)$`)
)

// offered returns the values that a variable offers when All is selected in the others.
func (g *grafana) offered(ctx context.Context, t *testing.T, p *prometheus, definition, regex string) (values []string, err error) {
	t.Helper()
	text := fill(t, definition, g.everything())
	if m := ofLabel.FindStringSubmatch(text); m != nil {
		err = p.get(ctx, "/api/v1/label/"+m[2]+"/values", url.Values{"match[]": {m[1]}}, &values)
		return values, err
	}
	m := ofQuery.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("unknown form: %s", definition)
	}
	samples, err := p.query(ctx, m[1])
	pattern := regexp.MustCompile(strings.Trim(regex, "/"))
	for _, s := range samples {
		var labels []string
		for name, value := range s.labels {
			labels = append(labels, fmt.Sprintf("%s=%q", name, value))
		}
		if m := pattern.FindStringSubmatch("{" + strings.Join(labels, ",") + "}"); m != nil {
			values = append(values, m[1])
		}
	}
	slices.Sort(values)
	return values, err
}

// checkVariables compares what the variables offer.
func (g *grafana) checkVariables(t *testing.T, p *prometheus) {
	t.Helper()
	want := map[string]string{
		"cluster": "[east]", "node": "[node1 node2]", "namespace": "[bookinfo]", "source_namespace": "[bookinfo]", "source": "[productpage]", "destination": "[cache details]",
		"layer": "[application node-driver protocol-stack protocol-stack+application relay-network+virtual-network+protocol-stack+application+node-driver virtual-network]",
	}
	for _, v := range g.Templating.List {
		if v.Type == "datasource" {
			continue
		}
		if err := sandbox.Await(t.Context(), "variable "+v.Name, 30*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
			values, err := g.offered(ctx, t, p, v.Definition, v.Regex)
			if got := fmt.Sprint(values); err == nil && got != want[v.Name] {
				err = fmt.Errorf("offers %s, want %s", got, want[v.Name])
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		delete(want, v.Name)
	}
	if len(want) > 0 {
		t.Errorf("no variables %v", want)
	}
}

// checkLinks follows the links of panels to their traces: each has a valid address with the
// name of a service or node.
func (g *grafana) checkLinks(t *testing.T, p *prometheus) {
	t.Helper()
	panels := 0
	for _, panel := range g.Panels {
		links := panel.FieldConfig.Defaults.Links
		if len(links) == 0 {
			continue
		}
		panels++
		for _, target := range panel.Targets[:1] { // others of these panels are sums
			var samples []sample
			if err := sandbox.Await(t.Context(), panel.Title, 30*time.Second, 100*time.Millisecond, func(ctx context.Context) (err error) {
				if samples, err = p.query(ctx, fill(t, target.Expr, g.everything())); err == nil && len(samples) == 0 {
					err = errors.New("no series")
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for _, s := range samples {
				chosen := g.everything()
				for label, value := range s.labels {
					chosen["__field.labels."+label] = value
				}
				for _, link := range links {
					checkLink(t, panel.Title, fill(t, link.URL, chosen), s.labels)
				}
			}
		}
	}
	if panels < 5 {
		t.Errorf("only %d panels have links to traces", panels)
	}
}

// checkLink checks the address of a page of Grafana's Explore.
func checkLink(t *testing.T, panel, link string, labels map[string]string) {
	t.Helper()
	address, err := url.Parse(link)
	if err != nil {
		t.Fatalf("%s: %v", panel, err)
	}
	var panes map[string]struct {
		Datasource string
		Queries    []struct {
			Datasource                       struct{ Type, UID string }
			RefID, QueryType, Service, Query string
		}
		Range struct{ From, To string }
	}
	if err := json.Unmarshal([]byte(address.Query().Get("panes")), &panes); err != nil || address.Path != "/explore" || len(panes) != 1 {
		t.Fatalf("%s: %s: %v", panel, link, err)
	}
	for _, pane := range panes {
		q := pane.Queries[0]
		service := q.Service
		if q.Datasource.Type == "tempo" {
			service = strings.TrimSuffix(strings.TrimPrefix(q.Query, `{ resource.service.name = "`), `" }`)
		}
		if pane.Datasource != "uid-of-"+q.Datasource.Type || q.Datasource.UID != pane.Datasource || pane.Range.From != "1700000000000" {
			t.Errorf("%s: %+v", panel, pane)
		}
		if service == "" || !slices.Contains(slices.Collect(maps.Values(labels)), service) {
			t.Errorf("%s: the link searches for %q, and the series has %v", panel, service, labels)
		}
	}
}

// checkHealth checks the first row: one agent is down, the others are healthy.
func (g *grafana) checkHealth(t *testing.T, p *prometheus) {
	t.Helper()
	all := g.queries(t, g.everything())
	healthy := g.queries(t, g.one())
	nosuch := g.one()
	nosuch["node"] = "nosuch"
	for _, test := range []struct {
		name string
		expr string
		want []float64
	}{
		{"all agents", named(t, all, "Health A"), []float64{1}},
		{"node1", named(t, healthy, "Health A"), []float64{0}},
		{"no agent", named(t, g.queries(t, nosuch), "Health A"), nil},
		{"agents ready", named(t, all, "Agents A"), []float64{2}},
		{"agents down", named(t, all, "Agents C"), []float64{1}},
		{"contexts in front", named(t, all, "Contexts in front A"), []float64{0.98}},
	} {
		if err := sandbox.Await(t.Context(), test.name, 30*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
			samples, err := p.query(ctx, test.expr)
			if err != nil || len(samples) != len(test.want) || len(samples) == 1 && !(math.Abs(samples[0].value-test.want[0]) < 0.015) {
				err = fmt.Errorf("%v, want %v (%v)", samples, test.want, err)
			}
			return err
		}); err != nil {
			t.Errorf("%v\n%s", err, test.expr)
		}
	}
}
