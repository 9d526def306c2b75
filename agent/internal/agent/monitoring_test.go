// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/observe"
)

const monitoring = "../../../istio/monitoring/"

// targetLabels are the labels that Prometheus adds, with those of docs/metrics.md and of the
// PodMonitor, and le of classic buckets.
var targetLabels = []string{"instance", "job", "cluster", "node", "le"}

// metricNames returns all metrics that an agent can have, with their labels.
func metricNames(t *testing.T) map[string][]string {
	t.Helper()
	metrics, times := ExampleMetrics("v1")
	metrics.MustRegister(probe.ZeroCounters{})
	seen := &observe.Observation{Point: &observe.Point{Node: "node1"}}
	seen.Request.Last, seen.Response.Last = 1, 2
	times.Observe(&breakdown.Hop{ServerPNIC: seen, Segments: []breakdown.Segment{{Layer: observe.Application}}})
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{"up": nil, "ALERTS": {"alertname", "alertstate"}}
	for _, f := range families {
		var labels []string
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
		}
		names[f.GetName()] = labels
		switch f.GetType().String() {
		case "HISTOGRAM":
			names[f.GetName()+"_bucket"] = labels
			fallthrough
		case "SUMMARY":
			names[f.GetName()+"_sum"], names[f.GetName()+"_count"] = labels, labels
		}
	}
	return names
}

// Dashboard and alert rules use metrics and labels that exist.
func TestMonitoringUsesMetricsThatExist(t *testing.T) {
	names := metricNames(t)
	expressions := append(dashboardExpressions(t), ruleExpressions(t, names)...)
	if len(expressions) < 30 {
		t.Errorf("only %d expressions were found", len(expressions))
	}
	for _, e := range expressions {
		used := readPromQL(e)
		var there []string
		for _, s := range used.selectors {
			labels, ok := names[s.metric]
			if !ok {
				t.Errorf("there is no metric %q in\n%s", s.metric, e)
			}
			for _, l := range s.labels {
				if !slices.Contains(append(labels, targetLabels...), l) {
					t.Errorf("metric %s has no label %q in\n%s", s.metric, l, e)
				}
			}
			there = append(there, labels...)
		}
		for _, l := range used.grouped {
			if !slices.Contains(append(there, targetLabels...), l) {
				t.Errorf("no metric has the label %q in\n%s", l, e)
			}
		}
		if len(used.selectors) == 0 {
			t.Errorf("no metric in\n%s", e)
		}
	}
}

func dashboardExpressions(t *testing.T) (all []string) {
	t.Helper()
	var dashboard struct {
		Panels     []struct{ Targets []struct{ Expr string } }
		Templating struct{ List []struct{ Definition string } }
	}
	readFile(t, "layertrace-layers.json", json.Unmarshal, &dashboard)
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			if target.Expr != "" {
				all = append(all, target.Expr)
			}
		}
	}
	ofVariable := regexp.MustCompile(`^(?:label_values\((.*), \w+|query_result\((.*))\)$`) // as e2e/monitoring runs them
	for _, v := range dashboard.Templating.List {
		if m := ofVariable.FindStringSubmatch(v.Definition); m != nil {
			all = append(all, m[1]+m[2])
		}
	}
	return all
}

// ruleExpressions also adds the recorded metrics to names. Their names begin with
// their labels; those of services have a namespace too.
func ruleExpressions(t *testing.T, names map[string][]string) (all []string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Record, Expr string }
		}
	}
	readFile(t, "rules.yaml", func(data []byte, v any) error { return yaml.Unmarshal(data, v) }, &rules)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all = append(all, r.Expr)
			if level, _, ok := strings.Cut(r.Record, ":"); ok {
				for label := range strings.SplitSeq(level, "_") {
					names[r.Record] = append(names[r.Record], label, label+"_namespace")
				}
			}
		}
	}
	return all
}

// Each layer has one colour of its own in all panels with layers, and merged layers another.
func TestDashboardHasAColorForEachLayer(t *testing.T) {
	type override struct {
		Matcher    struct{ ID, Options string }
		Properties []struct {
			ID    string
			Value struct{ FixedColor string }
		}
	}
	var dashboard struct {
		Panels []struct {
			Title       string
			Targets     []struct{ LegendFormat string }
			FieldConfig struct{ Overrides []override }
		}
	}
	readFile(t, "layertrace-layers.json", json.Unmarshal, &dashboard)
	colors := map[string]string{} // by layer
	panels := 0
	for _, p := range dashboard.Panels {
		if len(p.Targets) == 0 || !strings.HasPrefix(p.Targets[0].LegendFormat, "{{layer}}") {
			continue
		}
		panels++
		for _, layer := range []string{
			string(observe.Application), string(observe.ProtocolStack), string(observe.VirtualNetwork), string(observe.NodeDriver), string(observe.RelayNetwork), "virtual-network+protocol-stack",
		} {
			var found []string
			for _, o := range p.FieldConfig.Overrides {
				if o.Matcher.ID == "byRegexp" && regexp.MustCompile(strings.Trim(o.Matcher.Options, "/")).MatchString(layer+" details bookinfo") {
					found = append(found, o.Properties[0].Value.FixedColor)
				}
			}
			if len(found) != 1 || colors[layer] != "" && colors[layer] != found[0] {
				t.Errorf("%s: the colours of %s are %q, elsewhere %q", p.Title, layer, found, colors[layer])
				continue
			}
			colors[layer] = found[0]
		}
	}
	different := map[string]bool{}
	for _, color := range colors {
		different[color] = true
	}
	if panels != 4 || len(different) != 6 {
		t.Errorf("%d panels with the colours %v", panels, colors)
	}
}

// Links of the dashboard and the alerts lead to headings of the documentation, and every
// alert has one of its own name.
func TestMonitoringLinksToTheDocumentation(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	readFile(t, "rules.yaml", func(data []byte, v any) error { return yaml.Unmarshal(data, v) }, &rules)
	var links []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			link := r.Annotations["runbook_url"]
			if !strings.HasSuffix(link, "/metrics.md#"+strings.ToLower(r.Alert)) {
				t.Errorf("the runbook of %s is at %q", r.Alert, link)
			}
			links = append(links, link)
		}
	}
	dashboard, err := os.ReadFile(monitoring + "layertrace-layers.json")
	if err != nil {
		t.Fatal(err)
	}
	links = append(links, regexp.MustCompile(`https://github.com/[^"]*`).FindAllString(string(dashboard), -1)...)
	if len(links) < 30 {
		t.Errorf("only %d links were found", len(links))
	}
	notInAnchors := regexp.MustCompile(`[^a-z0-9 -]`)
	for _, link := range links {
		name, anchor, _ := strings.Cut(strings.TrimPrefix(link, "https://github.com/layertrace/layertrace/blob/main/"), "#")
		page, err := os.ReadFile("../../../" + name)
		if err != nil {
			t.Errorf("%s: %v", link, err)
			continue
		}
		found := anchor == ""
		for line := range strings.Lines(string(page)) {
			if title := strings.TrimLeft(line, "#"); title != line {
				title = notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
				found = found || strings.ReplaceAll(title, " ", "-") == anchor
			}
		}
		if !found {
			t.Errorf("%s: the page has no such heading", link)
		}
	}
}

func readFile(t *testing.T, name string, unmarshal func([]byte, any) error, v any) {
	t.Helper()
	data, err := os.ReadFile(monitoring + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

// promQL is what an expression uses. Prometheus's own parser is in a module
// that wants a newer Go than this one and most of its dependencies; e2e/monitoring
// lets a real Prometheus read every expression.
type promQL struct {
	selectors []promSelector
	grouped   []string // labels in by (), on () and the like
}

type promSelector struct {
	metric string
	labels []string
}

var (
	promToken = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'[^']*'|\$?[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9][0-9a-zA-Z.]*|[^\s]`)
	promName  = regexp.MustCompile(`^[a-zA-Z_:]`)
	// promWords are neither metrics nor functions; labels follow promGroupings.
	promWords     = []string{"and", "or", "unless", "offset", "bool", "sum", "avg", "min", "max", "count", "topk"}
	promGroupings = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
)

// readPromQL finds metrics and labels in an expression that is known to be valid.
func readPromQL(expression string) (p promQL) {
	tokens := promToken.FindAllString(expression, -1)
	next := func(i int) string {
		if i+1 < len(tokens) {
			return tokens[i+1]
		}
		return ""
	}
	for i := 0; i < len(tokens); i++ {
		token := tokens[i]
		switch {
		case slices.Contains(promGroupings, token):
			if next(i) != "(" {
				continue
			}
			for i += 2; i < len(tokens) && tokens[i] != ")"; i++ {
				if tokens[i] != "," {
					p.grouped = append(p.grouped, tokens[i])
				}
			}
		case token == "{":
			s := &p.selectors[len(p.selectors)-1]
			for ; tokens[i] != "}"; i++ {
				if promName.MatchString(tokens[i]) {
					s.labels = append(s.labels, tokens[i])
				}
			}
		case token == "[":
			for tokens[i] != "]" {
				i++
			}
		case promName.MatchString(token) && next(i) != "(" && !slices.Contains(promWords, token):
			p.selectors = append(p.selectors, promSelector{metric: token})
		}
	}
	return p
}

func TestReadPromQL(t *testing.T) {
	got := readPromQL(`histogram_quantile(0.99, sum by (layer, le) (rate(a_bucket{x=~"$s{",y!="}"}[$__rate_interval]))) / ignoring (z) group_left () (b:c[1d] offset 30m) > 2e3 and d`)
	want := promQL{
		selectors: []promSelector{{"a_bucket", []string{"x", "y"}}, {metric: "b:c"}, {metric: "d"}},
		grouped:   []string{"layer", "le", "z"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(promQL{}, promSelector{})); diff != "" {
		t.Errorf("want - got +\n%s", diff)
	}
}
