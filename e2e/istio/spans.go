// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/cluster"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// reports sends sampled and other requests and checks the records that reach the two
// nodes, where receivers are in place of agents.
func (l mtlsLog) reports(ctx context.Context, c *chain) error {
	e := &c.encrypted
	for i, node := range e.nodes {
		listener, err := node.Namespace.Listen(node.IP + ":4327")
		if err != nil {
			return fmt.Errorf("receive records on %s: %w", node.Name, err)
		}
		e.receivers[i] = receiveRecords(listener)
		defer e.receivers[i].close()
	}
	const sampled, unsampled = "0af7651916cd43dd8448eb2110000001", "0af7651916cd43dd8448eb2110000002"
	// A proxy drops its first records until it is connected.
	var got [2][]record
	err := sandbox.Await(ctx, "records", configLimit, 200*time.Millisecond, func(ctx context.Context) error {
		for _, parent := range []string{"00-" + unsampled + "-b7ad6b7169203331-00", "00-" + sampled + "-b7ad6b7169203331-01"} {
			if err := sendContext(ctx, c.client.HTTP, c.url, parent); err != nil {
				return err
			}
		}
		for i := range got {
			got[i] = append(got[i], e.receivers[i].take()...)
			if !slices.ContainsFunc(got[i], func(r record) bool { return r.traceID() == sampled }) {
				return fmt.Errorf("none of trace %s on %s, but %v", sampled, e.nodes[i].Name, got[i])
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(l.checkRecords(got[0], l.client, clerkIP, unsampled), l.checkRecords(got[1], "layertrace-server", vaultIP, unsampled))
}

// checkRecords checks that all records of a node are of its pod's proxy, of one kind,
// of sampled requests, and complete.
func (l mtlsLog) checkRecords(all []record, log, pod, unsampled string) error {
	var errs []error
	bad := func(r record, format string, args ...any) {
		errs = append(errs, fmt.Errorf("record %v: "+format, append([]any{r}, args...)...))
	}
	for _, r := range all {
		local, _, _ := strings.Cut(r.labels["local"], ":")
		switch {
		case r.body != log:
			bad(r, "want the log %s", log)
		case r.traceID() == unsampled:
			bad(r, "its request was not sampled")
		case r.peer != pod || local != pod:
			bad(r, "it came from %s, and its own end is %s: want %s", r.peer, local, pod)
		case r.time == 0 || r.labels["code"] != "200" || r.labels["protocol"] != "HTTP/1.1" || r.labels["method"] != "GET" || r.labels["path"] != "/":
			bad(r, "incomplete")
		case log == "layertrace-server" && l.incoming != strings.HasSuffix(r.labels["incoming-traceparent"], "-01"):
			bad(r, "the incoming context is %q", r.labels["incoming-traceparent"])
		}
		for _, name := range []string{"sent", "received"} {
			if n := r.number(name); n < 100 || n > 10_000 {
				bad(r, "%s is %d", name, n)
			}
		}
	}
	return errors.Join(errs...)
}

// caller is a pod whose requests to vault are encrypted, and how requests get there.
type caller struct {
	pod    string
	client *http.Client
	url    string
	// hidden is set if the request that the pod receives is encrypted as well: it has no
	// span of its own.
	hidden bool
}

func (c *chain) clerk() caller {
	return caller{pod: "clerk", client: c.client.HTTP, url: vaultURL, hidden: true}
}

// spans runs the agents and checks the spans of encrypted requests: of a sidecar, of a
// gateway that gets plain text, and of one that gets HTTPS.
func (l mtlsLog) spans(ctx context.Context, c *chain) error {
	if err := c.runAgents(ctx); err != nil {
		return err
	}
	secure, err := c.secureClient()
	if err != nil {
		return err
	}
	defer secure.CloseIdleConnections()
	for _, from := range []caller{
		c.clerk(),
		{pod: "door", client: c.encrypted.outside, url: doorURL},
		{pod: "door", client: secure, url: secureURL, hidden: true},
	} {
		if err := l.awaitSpans(ctx, c, from, "exact"); err != nil {
			return err
		}
	}
	return sandbox.Await(ctx, "the counts of layertrace status", configLimit, 500*time.Millisecond, c.showsJoins)
}

// status is what layertrace status says of encrypted requests.
type status struct {
	Workloads []struct {
		Name      string `json:"name"`
		Reports   struct{ On bool }
		Encrypted struct {
			Connections float64 `json:"connections"`
			Received    float64 `json:"records_received"`
			Joined      float64 `json:"records_joined"`
		} `json:"encrypted"`
		RecordsDropped *float64 `json:"records_dropped"`
	} `json:"workloads"`
	Problems []string `json:"problems"`
}

func (c *chain) status(ctx context.Context) (s status, err error) {
	text, failed := c.layertrace(ctx, "status", "--json")
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("read the status: %w\n%s", errors.Join(failed, err), text)
	}
	return s, nil // its exit code only says whether all agents are ready
}

// showsJoins checks what layertrace status says of the two workloads.
func (c *chain) showsJoins(ctx context.Context) error {
	status, err := c.status(ctx)
	if err != nil {
		return err
	}
	seen := 0
	for _, w := range status.Workloads {
		if w.Name != "clerk" && w.Name != "vault" {
			continue
		}
		seen++
		if e := w.Encrypted; !w.Reports.On || e.Connections == 0 || e.Joined == 0 || e.Joined > e.Received {
			return fmt.Errorf("workload %+v", w)
		}
	}
	if seen != 2 {
		return fmt.Errorf("%d of 2 workloads", seen)
	}
	return nil
}

// interfaceKinds are the interfaces between a caller and vault, by the names of their spans.
func (f caller) interfaceKinds() map[string]string {
	return map[string]string{f.pod + "_veth-" + f.pod: "vnic", "nodea_eth0": "pnic", "nodeb_eth0": "pnic", "vault_veth-vault": "vnic"}
}

// awaitSpans sends requests, each with a trace of its own, until Jaeger has the spans of
// one of them at all four interfaces between the caller and vault, and checks these.
func (l mtlsLog) awaitSpans(ctx context.Context, c *chain, from caller, join string) error {
	want := slices.Sorted(maps.Keys(from.interfaceKinds()))
	var traces []string
	return sandbox.Await(ctx, "spans of an encrypted request of "+from.pod, configLimit, 500*time.Millisecond, func(ctx context.Context) error {
		var names []string
		for _, trace := range traces[max(0, len(traces)-12):] { // a record and its spans take a second or two
			got, err := c.jaeger.Trace(ctx, trace)
			if err != nil {
				return err
			}
			spans := got.Spans
			if !from.hidden { // what the caller received as plain text has no join
				spans = slices.DeleteFunc(spans, func(s lab.Span) bool { return s.Tags["layertrace.join"] == nil })
			}
			names = names[:0]
			for _, s := range spans {
				names = append(names, s.Name)
			}
			slices.Sort(names)
			if slices.Equal(names, want) {
				err := l.checkSpans(spans, from, join)
				if errors.Is(err, errDraining) {
					traces = slices.DeleteFunc(traces, func(t string) bool { return t == trace })
				}
				return err
			}
			if len(names) > len(want) {
				return fmt.Errorf("trace %s has the spans %v", trace, names)
			}
		}
		c.encrypted.traces++
		traces = append(traces, fmt.Sprintf("0af7651916cd43dd8448eb2200%06x", c.encrypted.traces))
		if err := sendContext(ctx, from.client, from.url, "00-"+traces[len(traces)-1]+"-b7ad6b7169203331-01"); err != nil {
			return err
		}
		return fmt.Errorf("the last trace in Jaeger has %v", names)
	})
}

// errDraining is returned for a request on a connection from before the log changed: Envoy
// keeps its old filter chain until it is drained.
var errDraining = errors.New("the server's proxy reported the incoming context, as before the change")

// checkSpans checks what the spans of one request say: the pods, nodes and interfaces, how
// they were joined, and that client and server name the same parent if the server's proxy
// reports the incoming context.
func (l mtlsLog) checkSpans(spans []lab.Span, from caller, join string) error {
	first := from.pod + "_veth-" + from.pod
	pods := map[string]string{first: from.pod, "vault_veth-vault": "vault"}
	nodes := map[string]string{first: "nodea", "nodea_eth0": "nodea", "nodeb_eth0": "nodeb", "vault_veth-vault": "nodeb"}
	parents := map[string]string{}
	var errs []error
	for _, s := range spans {
		parents[s.Name] = s.Parent
		pod, _ := s.Resource["k8s.pod.name"].(string)
		if pod != pods[s.Name] || s.Resource["host.name"] != nodes[s.Name] {
			errs = append(errs, fmt.Errorf("%s is of pod %q and node %v", s.Name, pod, s.Resource["host.name"]))
		}
		_, device, _ := strings.Cut(s.Name, "_")
		if s.Resource["network.interface.name"] != device || s.Resource["layertrace.capture_point.kind"] != from.interfaceKinds()[s.Name] {
			errs = append(errs, fmt.Errorf("%s is of the resource %v", s.Name, s.Resource))
		}
		if s.Tags["layertrace.join"] != join || s.Tags["server.address"] != vaultIP || s.Tags["server.port"] != float64(8000) {
			errs = append(errs, fmt.Errorf("%s has the attributes %v, want the join %s and the server %s:8000", s.Name, s.Tags, join, vaultIP))
		}
		if s.Duration <= 0 || s.Duration > time.Minute {
			errs = append(errs, fmt.Errorf("%s took %v", s.Name, s.Duration))
		}
	}
	same := parents[first] == parents["vault_veth-vault"]
	if same && !l.incoming && len(errs) == 0 {
		return errDraining
	}
	if same != l.incoming || parents[first] != parents["nodea_eth0"] || parents["nodeb_eth0"] != parents["vault_veth-vault"] {
		errs = append(errs, fmt.Errorf("the parents are %v", parents))
	}
	return errors.Join(errs...)
}

// refusesForged sends a record from door that names a connection of clerk's. It is refused
// and counted, and its trace gets no span.
func (l mtlsLog) refusesForged(ctx context.Context, c *chain) error {
	node := c.encrypted.nodes[0]
	const counter = `layertrace_access_log_records_refused_total{reason="foreign_address"}`
	before, err := metric(ctx, node, counter)
	if err != nil {
		return err
	}
	const trace = "0af7651916cd43dd8448eb2330000001"
	err = sendRecord(ctx, c.encrypted.door.Namespace, node.IP+":4327", l.client, map[string]string{
		"traceparent": "00-" + trace + "-b7ad6b7169203331-01", "local": clerkIP + ":40000", "remote": vaultIP + ":8000",
		"tx_beg": "1000", "rx_beg": "2000", "rx_end": "3000", "sent": "500", "received": "500", "protocol": "HTTP/1.1", "code": "200",
	})
	if err != nil {
		return err
	}
	err = sandbox.Await(ctx, "the count of refused records", configLimit, 100*time.Millisecond, func(ctx context.Context) error {
		now, err := metric(ctx, node, counter)
		if err == nil && now != before+1 {
			err = fmt.Errorf("%s is %v, was %v", counter, now, before)
		}
		return err
	})
	if err != nil {
		return err
	}
	got, err := c.jaeger.Trace(ctx, trace)
	if err == nil && len(got.Spans) > 0 {
		err = fmt.Errorf("the forged record has the spans %v", got.Spans)
	}
	return err
}

// metric returns the value of an agent's metric.
func metric(ctx context.Context, node *cluster.MeshNode, name string) (float64, error) {
	text, err := node.Namespace.Get(ctx, "http://"+node.IP+":9464/metrics")
	if err != nil {
		return 0, err
	}
	metrics, err := lab.ParseMetrics(text)
	if err != nil {
		return 0, err
	}
	value, found := metrics[name]
	if !found {
		return 0, fmt.Errorf("%s has no metric %s", node.Name, name)
	}
	return value, nil
}

// killed kills both agents under load. No request may fail; the proxies' records are lost
// and counted, and those that come later are joined.
func (l mtlsLog) killed(ctx context.Context, c *chain) error {
	return c.underLoad(ctx, func(ctx context.Context) error {
		before, err := c.lostRecords(ctx)
		if err != nil {
			return err
		}
		for i, agent := range c.encrypted.agents {
			if agent == nil {
				return errors.New("no agent runs")
			}
			if err := agent.Kill(); err != nil {
				return err
			}
			c.encrypted.agents[i] = nil
		}
		err = sandbox.Await(ctx, "lost records", configLimit, 200*time.Millisecond, func(ctx context.Context) error {
			now, err := c.lostRecords(ctx)
			if err == nil && now <= before {
				err = fmt.Errorf("the proxies count %d, as before", now)
			}
			if err == nil {
				c.options.Progress("  the clerk's proxy dropped %d records", now-before)
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := c.showsDrops(ctx, before); err != nil {
			return err
		}
		if err := c.runAgents(ctx); err != nil {
			return err
		}
		return l.awaitSpans(ctx, c, c.clerk(), "exact")
	})
}

// showsDrops checks that layertrace status has the drops of clerk's proxy, which are more
// than before and no more than the proxy counts afterwards.
func (c *chain) showsDrops(ctx context.Context, before int) error {
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	now, err := c.lostRecords(ctx)
	if err != nil {
		return err
	}
	for _, w := range s.Workloads {
		if w.Name != "clerk" {
			continue
		}
		if w.RecordsDropped == nil || int(*w.RecordsDropped) <= before || int(*w.RecordsDropped) > now {
			return fmt.Errorf("status has dropped records %v, the proxy %d to %d", w.RecordsDropped, before, now)
		}
		return nil
	}
	return fmt.Errorf("status has no workload clerk, but %+v", s.Workloads)
}

// lostRecords returns how many records clerk's proxy has dropped, by its own counter.
func (c *chain) lostRecords(ctx context.Context) (int, error) {
	text, err := sandbox.Get(ctx, c.encrypted.clerk.HTTP, envoyAdmin+"/stats?filter=access_logs")
	if err != nil {
		return 0, err
	}
	sum, found := 0, false
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if strings.HasSuffix(name, "logs_dropped") {
			n, err := strconv.Atoi(value)
			if err != nil {
				return 0, err
			}
			sum, found = sum+n, true
		}
	}
	if !found {
		return 0, fmt.Errorf("the proxy has no counter of dropped records:\n%s", text)
	}
	return sum, nil
}

// sendContext sends a request of a trace.
func sendContext(ctx context.Context, client *http.Client, url, traceparent string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("traceparent", traceparent)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}
