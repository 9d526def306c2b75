// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
