// SPDX-License-Identifier: Apache-2.0

// Package measure measures in the lab what the agents acquire, compared with a
// ground truth, and what they cost.
//
// The ground truth is which requests passed which capture point. It comes from the
// access logs of the Envoys and the request logs of the applications, never from
// the agents.
package measure

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
)

// Key identifies a request on the wire by the IDs in its trace headers, in
// lower-case hex.
type Key struct{ TraceID, SpanID string }

// Hop is one request from one pod to another.
type Hop struct {
	Key
	From, To lab.Pod
	// Client and Server are the ends of its connection between the pods.
	Client, Server netip.AddrPort
	Status         int
}

// accessLine is a line of an Envoy's access log.
type accessLine struct {
	Status        int    `json:"status"`
	UpstreamLocal string `json:"upstream_local"`
	Upstream      string `json:"upstream"`
	Traceparent   string `json:"traceparent"`
	B3TraceID     string `json:"x-b3-traceid"`
	B3SpanID      string `json:"x-b3-spanid"`
}

// Hops returns every request with a trace context that one pod sent to another,
// from the access logs of a stopped run.
func Hops(run *lab.Run) ([]Hop, error) {
	byIP := map[netip.Addr]lab.Pod{}
	for _, pod := range lab.Pods {
		ip, err := netip.ParseAddr(pod.IP)
		if err != nil {
			return nil, fmt.Errorf("address of %s: %w", pod.Name, err)
		}
		byIP[ip] = pod
		if pod.Name == "productpage" {
			byIP[netip.MustParseAddr(lab.VirtualIP)] = pod
		}
	}
	var hops []Hop
	for _, pod := range lab.Pods {
		if len(pod.Calls) == 0 {
			continue
		}
		ofPod, err := readAccessLog(run.AccessLog(pod.Name), pod, byIP)
		if err != nil {
			return nil, fmt.Errorf("read access log of %s: %w", pod.Name, err)
		}
		hops = append(hops, ofPod...)
	}
	return hops, nil
}

func readAccessLog(path string, from lab.Pod, byIP map[netip.Addr]lab.Pod) ([]Hop, error) {
	lines, err := app.ReadLines[accessLine](path, false)
	if err != nil {
		return nil, err
	}
	var hops []Hop
	for i, line := range lines {
		hop, err := line.hop()
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		hop.From, hop.To = from, byIP[hop.Server.Addr()]
		if hop.To.Name == "" {
			return nil, fmt.Errorf("line %d: no pod has the address %v", i+1, hop.Server)
		}
		hops = append(hops, hop)
	}
	return hops, nil
}

func (l accessLine) hop() (hop Hop, err error) {
	hop.Status = l.Status
	hop.TraceID, hop.SpanID = app.TraceIDs(map[string]string{
		"traceparent": l.Traceparent, "x-b3-traceid": l.B3TraceID, "x-b3-spanid": l.B3SpanID,
	})
	if hop.TraceID == "" {
		return hop, errors.New("no trace context")
	}
	if hop.Client, err = netip.ParseAddrPort(l.UpstreamLocal); err != nil {
		return hop, fmt.Errorf("request was not sent: %w", err)
	}
	hop.Server, err = netip.ParseAddrPort(l.Upstream)
	return hop, err
}

// Trace has all hops of one trace, in the order of the access logs.
type Trace []Hop

// LastTraceThrough returns the last trace in which the pod sent a request.
func LastTraceThrough(hops []Hop, pod string) (Trace, error) {
	var id string
	for _, hop := range hops {
		if hop.From.Name == pod {
			id = hop.TraceID
		}
	}
	if id == "" {
		return nil, fmt.Errorf("no trace through %s among %d requests", pod, len(hops))
	}
	return TraceOf(hops, id), nil
}

// TraceOf returns the hops of one trace.
func TraceOf(hops []Hop, id string) (trace Trace) {
	for _, hop := range hops {
		if hop.TraceID == id {
			trace = append(trace, hop)
		}
	}
	return trace
}

// ID returns the trace ID in lower-case hex.
func (t Trace) ID() string { return t[0].TraceID }

// EnvoySpans returns how many spans the Envoys report for the trace: one at each
// end of each hop.
func (t Trace) EnvoySpans() int { return 2 * len(t) }

// InterfaceSpans returns how many spans the agents should report for the trace, by
// span name.
func (t Trace) InterfaceSpans() map[string]int {
	names := map[string]int{}
	for _, hop := range t {
		for _, point := range lab.Path(hop.From, hop.To) {
			names[point.Name]++
		}
	}
	return names
}

// Spans returns the number of all spans of the trace.
func (t Trace) Spans() int {
	total := t.EnvoySpans()
	for _, n := range t.InterfaceSpans() {
		total += n
	}
	return total
}

// CheckReceived compares the hops, from the sending Envoys, with the logs of the
// applications of a stopped run: each request to a pod was received there once.
// With Zipkin, where both ends share a span ID, it compares trace and span IDs;
// with OpenTelemetry, where the receiving Envoy gives the application a span ID of
// its own, only trace IDs.
func CheckReceived(run *lab.Run, tracer lab.Tracer, hops []Hop) error {
	sent := map[string]map[Key]int{}
	for _, pod := range lab.Pods {
		sent[pod.Name] = map[Key]int{}
	}
	for _, hop := range hops {
		key := hop.Key
		if tracer != lab.Zipkin {
			key.SpanID = ""
		}
		sent[hop.To.Name][key]++
	}
	for _, pod := range lab.Pods {
		if pod.Gateway {
			continue
		}
		requests, err := app.ReadRequests(run.RequestLog(pod.Name))
		if err != nil {
			return err
		}
		left := sent[pod.Name]
		for _, request := range requests {
			key := Key{request.TraceID, request.SpanID}
			if tracer != lab.Zipkin {
				key.SpanID = ""
			}
			if left[key]--; left[key] < 0 {
				return fmt.Errorf("%s logged a request of trace %s, span %s that no Envoy sent", pod.Name, request.TraceID, request.SpanID)
			}
			if left[key] == 0 {
				delete(left, key)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d requests that were sent to %s are not in its log", len(left), pod.Name)
		}
	}
	return nil
}
