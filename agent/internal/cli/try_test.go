// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/clusterstatus"
	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Wrong flags are refused before the cluster is asked.
func TestTryRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"":                             "--namespace is missing",
		"--namespace=istio-system":     "root namespace",
		"--namespace=a --reorder=wasm": "--reorder",
		"--namespace=a --timeout=0s":   "--timeout",
		"--namespace=a --send=cart":    "--send",
		"--namespace=a --html=-":       "--html",
		"--namespace=a x":              "takes no arguments",
		"--remove --namespace=a":       "--namespace has no effect with --remove",
		"--remove --istio-namespace=a": "--istio-namespace has no effect with --remove",
		"--remove --send=a:1/":         "--send has no effect with --remove",
	} {
		code, stdout, stderr := runHere(t, append([]string{"try"}, strings.Fields(args)...)...)
		if code != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) {
			t.Errorf("try %s: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"http://shop.example/cart?x=1": " http://shop.example/cart?x=1",
		"cart:8080/items?x=1":          "cart:8080 /items?x=1",
		"cart:http":                    "cart:http /",
		"ftp://x/":                     "error", "http:///x": "error", "cart": "error", "cart/items": "error", ":80/": "error", "a:b:c/": "error",
	} {
		got := "error"
		if target, err := parseTarget(text); err == nil {
			got = target.service + " " + target.url.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if target, err := parseTarget(""); target != nil || err != nil {
		t.Errorf("nothing: %v, %v", target, err)
	}
}

// seenAt is a trace that capture points of nodes saw, answered or not.
func seenAt(id byte, answered bool, nodes ...string) tracestore.Trace {
	t := tracestore.Trace{ID: [16]byte{id}}
	for i, node := range nodes {
		o := observe.Observation{
			Key:     observe.Key{Client: netip.MustParseAddrPort("10.0.0.1:1"), Server: netip.MustParseAddrPort("10.0.0.2:2")},
			Point:   &observe.Point{ID: node + "/" + string(rune('a'+i)), Kind: observe.KindVNIC, Node: node, Interface: "veth1", Workload: observe.Workload{Service: "cart"}},
			Request: observe.Message{First: 1000, Last: 2000, Bytes: 10}, Method: "GET", Path: "/",
		}
		if answered {
			o.Response, o.Status = observe.Message{First: 3000, Last: 4000, Bytes: 20}, 200
		} else {
			o.Flags = observe.FlagNoResponse
		}
		o.Context.Context = tracecontext.Context{TraceID: tracecontext.TraceID(t.ID), SpanID: [8]byte{1}, Format: tracecontext.FormatW3C, Sampling: tracecontext.Accepted}
		t.Observations = append(t.Observations, o)
	}
	return t
}

// The trace to show is the one that was seen at the most capture points, the latest of them, and
// was answered.
func TestBestOf(t *testing.T) {
	if best := bestOf(nil); best != nil {
		t.Errorf("of nothing: %+v", best)
	}
	if best := bestOf([]tracestore.Trace{seenAt(1, false, "n1")}); best != nil {
		t.Errorf("without an answer: %+v", best)
	}
	best := bestOf([]tracestore.Trace{
		seenAt(1, true, "n1"), seenAt(2, false, "n1", "n1", "n2"), seenAt(3, true, "n1", "n2"), seenAt(4, true, "n1", "n2"),
	})
	if best == nil || !strings.HasPrefix(best.report.TraceID, "04") || best.points != 2 || best.nodes != 2 || best.traces != 4 {
		t.Errorf("the best is %+v", best)
	}
}

// A trace has the name of the request of its root hop, also where another node's clock is late.
func TestRootRequest(t *testing.T) {
	trace := seenAt(1, true, "n1", "n2")
	root, child := &trace.Observations[0], &trace.Observations[1]
	root.Path, root.Wall, root.Context.SpanID = "/root", 2000, [8]byte{1}
	child.Path, child.Wall, child.Context.SpanID = "/child", 1000, [8]byte{2}
	report := explain.Report{Hops: []explain.Hop{{SpanID: "0100000000000000", To: "shop"}, {Depth: 1, SpanID: "0200000000000000"}}}
	if service, operation := rootRequest(&trace, &report); service != "10.0.0.2" || operation != "GET /root" {
		t.Errorf("%q, %q", service, operation)
	}
	root.Method = ""
	if service, operation := rootRequest(&trace, &report); service != "shop" || operation != "" {
		t.Errorf("without its request line: %q, %q", service, operation)
	}
}

// Without a trace in time, the reason is what the agents saw.
func TestTryReason(t *testing.T) {
	agents := func(requests, found, unsampled float64) []clusterstatus.Agent {
		half := clusterstatus.Traffic{Requests: requests / 2, Found: found / 2, Unsampled: unsampled / 2}
		return []clusterstatus.Agent{{Traffic: half}, {Traffic: half}}
	}
	w := &tryWait{namespace: "shop"}
	for want, some := range map[string][]clusterstatus.Agent{
		"saw no HTTP/1 request at all":         agents(0, 0, 0),
		"none of 10 requests":                  agents(10, 0, 0),
		"all 8 trace contexts":                 agents(10, 8, 8),
		"6 requests on the nodes were sampled": agents(10, 8, 2),
	} {
		if got := w.reason(some); !strings.Contains(got, want) || !strings.Contains(got, "--send SERVICE:PORT/PATH") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// An agent that waits for its image cannot start; one that is being created can.
func TestCannotStart(t *testing.T) {
	for problem, want := range map[string]bool{
		"ImagePullBackOff: no such image": true, "CrashLoopBackOff: Error (denied)": true,
		"ContainerCreating: ": false, "ErrImagePull: timeout": false, "": false,
	} {
		if got := cannotStart(clusterstatus.Agent{Problem: problem}); got != want {
			t.Errorf("%q: %v", problem, got)
		}
	}
}
