// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// The time of a hop that was not seen counts as the application's, which is not blamed for
// it with confidence. The baseline shows that a hop is missing.
func TestMissingHop(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	baseline := baselineOf(r, 40, nil)
	lacks := func(span byte, client bool) func(*observe.Observation) bool {
		return func(o *observe.Observation) bool {
			return o.Context.SpanID[0] == span && (!client || o.Socket != nil && o.Socket.Client)
		}
	}
	for name, test := range map[string]struct {
		drop     func(*observe.Observation) bool
		evidence string
		want     Confidence
	}{
		"all seen":                   {nil, "", High},
		"the call of an application": {lacks(3, false), "the hop productpage (sidecar) > productpage caused no hops, but in the baseline 1", Low},
		"a call inside a pod":        {lacks(5, false), "the hop productpage > details caused no hops, but in the baseline 1", Low},
		"the first hop":              {lacks(1, false), "the trace begins with the hop productpage (sidecar) > productpage, seen from process to process", Medium},
		"the first socket":           {lacks(1, true), "seen from pod to pod of its sender", Medium},
	} {
		one := pageTrace(r, 1, test.drop)
		v := Explain(one, baseline).Verdict
		if v.Confidence != test.want {
			t.Errorf("%s: %s confidence, want %s: %s %q", name, v.Confidence, test.want, v.Text, v.Evidence)
		}
		if test.evidence != "" && !slices.ContainsFunc(v.Evidence, func(e string) bool { return strings.Contains(e, test.evidence) }) {
			t.Errorf("%s: evidence %q lacks %q", name, v.Evidence, test.evidence)
		}
		group := []tracestore.Trace{one, pageTrace(r, 2, test.drop), pageTrace(r, 3, test.drop), pageTrace(r, 4, test.drop)}
		if c := compareAnew(group, baseline); c.Verdict.Confidence != test.want {
			t.Errorf("%s: %s confidence together, want %s: %s", name, c.Verdict.Confidence, test.want, c.Verdict.Text)
		}
	}
}
