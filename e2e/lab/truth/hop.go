// SPDX-License-Identifier: Apache-2.0

// Package truth knows which requests passed which capture point, from the
// Envoys' access logs and the applications' request logs, never from the
// agents, and compares the agents' exchanges with that.
package truth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/requestlog"
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
	hop.TraceID, hop.SpanID = requestlog.IDs(map[string]string{
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
