// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

func TestParse(t *testing.T) {
	out := `{"trace_ids":["a","c"],"slow_total_ns":9000,"unattributed_ns":10,"verdict":{"layer":"node-driver","location":"node3",
	"excess_ns":5000,"confidence":"high","merged_layers":["node-driver","virtual-network"]}}
{"trace_ids":["b"],"verdict":{"layer":"none"}}`
	got, err := parseReports([]byte(out))
	want := []Verdict{
		{Layer: observe.NodeDriver, Location: "node3", Confidence: "high", Excess: 5 * time.Microsecond,
			Unattributed: 10, Total: 9 * time.Microsecond, MergedLayers: []observe.Layer{observe.NodeDriver, observe.VirtualNetwork}},
		{Layer: observe.NoLayer},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{`{"trace_ids":["a"]}`, `{"verdict":{"layer":"none"}}`, `oops`} {
		if _, err := parseReports([]byte(bad)); err == nil || !strings.Contains(err.Error(), "explain") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
