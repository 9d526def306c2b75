// SPDX-License-Identifier: Apache-2.0

package join

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/doctable"
)

// The table of docs/devices.md is generated from the registered metrics.
func TestDocumentationListsAllMetrics(t *testing.T) {
	families, err := ExampleMetrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	table := doctable.New("metric", "type", "labels", "what")
	for _, f := range families {
		labels := ""
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = "`" + l.GetName() + "`"
		}
		table.Row("`"+f.GetName()+"`", strings.ToLower(f.GetType().String()), labels, f.GetHelp())
	}
	doctable.Check(t, "../../../docs/devices.md", map[string]*doctable.Table{"join": table})
}
