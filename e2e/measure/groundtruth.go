// SPDX-License-Identifier: Apache-2.0

// Package truth knows which requests passed which capture point, from the
// Envoys' access logs and the applications' request logs, never from the
// agents, and compares the agents' exchanges with that.
package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/app"
)

// Key identifies a request on the wire: the IDs in its trace headers, in
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

// Hops reads the access logs of a stopped run: every request that one pod sent
// to another with a trace context.
func Hops(run *lab.Run) ([]Hop, error) {
	byIP := map[netip.Addr]lab.Pod{}
	for _, pod := range lab.Pods {
		ip, err := netip.ParseAddr(pod.IP)
		if err != nil {
			return nil, fmt.Errorf("address of %s: %w", pod.Name, err)
		}
		byIP[ip] = pod
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
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var hops []Hop
	for lines := json.NewDecoder(f); ; {
		var line accessLine
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return hops, nil
		} else if err != nil {
			return nil, err
		}
		hop, err := line.hop()
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(hops)+1, err)
		}
		hop.From, hop.To = from, byIP[hop.Server.Addr()]
		if hop.To.Name == "" {
			return nil, fmt.Errorf("line %d: no pod has the address %v", len(hops)+1, hop.Server)
		}
		hops = append(hops, hop)
	}
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
		return hop, fmt.Errorf("request did not go out: %w", err)
	}
	hop.Server, err = netip.ParseAddrPort(l.Upstream)
	return hop, err
}

// Trace is all hops of one trace, in the order of the access logs.
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

// EnvoySpans is how many spans the Envoys make of the trace: one at each end
// of each hop.
func (t Trace) EnvoySpans() int { return 2 * len(t) }

// InterfaceSpans returns the names of the spans that the agents should make of
// the trace, with how many there should be of each.
func (t Trace) InterfaceSpans() map[string]int {
	names := map[string]int{}
	for _, hop := range t {
		for _, point := range lab.Path(hop.From, hop.To) {
			names[point.Name]++
		}
	}
	return names
}

// Spans is the number of all spans of the trace.
func (t Trace) Spans() int {
	total := t.EnvoySpans()
	for _, n := range t.InterfaceSpans() {
		total += n
	}
	return total
}

// CheckReceived compares the hops, which come from the sending Envoys, with
// what the applications of a stopped run logged: each request that was sent to
// a pod was received there once. With Zipkin, whose two ends share a span ID,
// trace and span ID are compared; with OpenTelemetry the receiving Envoy gives
// the application a span ID of its own, and trace IDs are.
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
