// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// strictly reads a dashboard by Grafana's own schema, with the options of each
// kind of panel and data source, and refuses fields that it does not have.
func strictly(data []byte) error {
	plugins.RegisterDefaultPlugins()
	var d dashboard.Dashboard //nolint:staticcheck // the schema that all Grafanas import; its successor is another format
	err := d.UnmarshalJSONStrict(data)
	// Without a complaint it returns an empty list of them, not nil.
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
			t.Fatalf("%s: the dashboard has none", name)
		}
		if strictly([]byte(changed)) == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
