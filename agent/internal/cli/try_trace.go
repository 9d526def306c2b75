// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/agent/internal/clusterstatus"
	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/observe"
)

// Variables for tests.
var (
	// tryInterval is the time between two reads of the agents, and two requests of --send.
	tryInterval = time.Second
	// trySettle is for how long further spans are read after the first traced request was
	// seen: other nodes' agents may not know their pods' names yet, or read later.
	trySettle = 5 * time.Second
)

const (
	// tryPatience is for how long all agents are awaited if some are ready.
	tryPatience = time.Minute
	// trySpans is the number of spans that are read at most, some 2 KB each.
	trySpans = 50_000
	// tryFailures is how often in a row the agents may fail to answer: one may restart.
	tryFailures = 5
	// sendTimeout is for one request of --send, readTimeout for the spans of one agent.
	sendTimeout, readTimeout = 10 * time.Second, 10 * time.Second
)

// errTryTimeout is the cause of the end of a context when --timeout is over.
var errTryTimeout = errors.New("--timeout is over")

// target is where requests are sent to.
type target struct {
	url *url.URL
	// service is set for one of the cluster, NAME:PORT; only path and query of url count then.
	service string
}

// parseTarget reads --send: a URL, or SERVICE:PORT/PATH; nil for "".
func parseTarget(text string) (*target, error) {
	if text == "" {
		return nil, nil
	}
	const forms = "write a URL such as http://shop.example/cart, or a service such as cart:8080/items"
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("--send %q: %s", text, forms)
		}
		return &target{url: u}, nil
	}
	service, path, _ := strings.Cut(text, "/")
	name, port, found := strings.Cut(service, ":")
	u, err := url.Parse("/" + path)
	if err != nil || !found || name == "" || port == "" || strings.Contains(port, ":") {
		return nil, fmt.Errorf("--send %q: %s", text, forms)
	}
	return &target{url: u, service: service}, nil
}

// send sends one request with a sampled trace context of its own.
func (t *target) send(ctx context.Context, c *install.Cluster, namespace string) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails
	parent := fmt.Sprintf("00-%x-%x-01", id[:16], id[16:])
	if t.service != "" {
		if err := c.GetFromService(ctx, namespace, t.service, t.url, map[string]string{"traceparent": parent}); err != nil {
			return fmt.Errorf("GET %s of service %s through the API server: %w", t.url, t.service, err)
		}
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("traceparent", parent)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("GET %s: %s", t.url, response.Status)
	}
	return err
}

// unknownDrops is used until an agent's number is read.
const unknownDrops = -1

// tryWait waits for a trial to show something.
type tryWait struct {
	cluster         *install.Cluster
	namespace, root string
	target          *target
	say             func(format string, args ...any)
	sendError       error // of the last request
	failures        int   // of reading the agents, one after the other
	// Of the agents, by their pods: emptied are those whose spans from before were thrown away,
	// with the number that they had dropped by then, or unknownDrops; unreachable are those that
	// were said to be.
	emptied     map[string]float64
	unreachable map[string]bool
}

// agents waits until the agents are ready: all of them, or after tryPatience some.
func (w *tryWait) agents(ctx context.Context) error {
	began := time.Now()
	var agents []clusterstatus.Agent
	for {
		now, rolledOut, err := clusterstatus.Agents(ctx, w.cluster)
		if err == nil {
			agents = now
		} else if ctx.Err() == nil {
			return err
		}
		ready, waiting := 0, []string{}
		for _, a := range agents {
			if a.Ready {
				ready++
			} else {
				waiting = append(waiting, notReady(a))
			}
		}
		switch {
		case rolledOut, ready > 0 && time.Since(began) > tryPatience:
			w.say("for the agents: %d of %d are ready%s", ready, len(agents), colon(waiting))
			return nil
		case ready == 0 && len(agents) > 0 && !slices.ContainsFunc(agents, func(a clusterstatus.Agent) bool { return !cannotStart(a) }):
			return fmt.Errorf("no agent can start: %s", strings.Join(waiting, "; "))
		}
		w.say("for the agents: %d of %d are ready%s", ready, len(agents), colon(waiting))
		if err := pause(ctx); err != nil {
			if errors.Is(err, errTryTimeout) {
				return fmt.Errorf("no agent was ready in time (--timeout): %s", strings.Join(append(waiting, noAgents(agents)...), "; "))
			}
			return err
		}
	}
}

func noAgents(agents []clusterstatus.Agent) []string {
	if len(agents) > 0 {
		return nil
	}
	return []string{"the DaemonSet has no pods: no node matches its selector, or its controller does not run"}
}

func notReady(a clusterstatus.Agent) string {
	where := a.Node
	if where == "" {
		where = "pod " + a.Pod
	}
	if a.Problem == "" {
		return where + ": starting"
	}
	return where + ": " + strings.TrimSuffix(a.Problem, ": ")
}

func colon(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return ": " + strings.Join(list, "; ")
}

// cannotStart reports whether an agent's pod waits for something that does not change by
// itself (kubelet's reasons).
func cannotStart(a clusterstatus.Agent) bool {
	return slices.ContainsFunc([]string{"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CrashLoopBackOff", "CreateContainerConfigError"},
		func(reason string) bool { return strings.HasPrefix(a.Problem, reason) })
}

// pause waits for the next look, or returns the cause why there is none.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(tryInterval):
		return nil
	}
}

// sight is the trace to show.
type sight struct {
	report *explain.Report
	// points and nodes are those that saw the trace, traces how many there were to choose from.
	points, nodes, traces int
	// dropped spans are of this trace or others: agents or try had too many.
	dropped int
	// exported and lost are the agents' numbers of spans that their receiver took, or not.
	exported, lost float64
}

// trace waits for a traced request, and returns the trace that was seen at the most capture
// points. Requests from before it do not count: agents that have kept all they can have the
// oldest spans, of an earlier trial perhaps.
func (w *tryWait) trace(ctx context.Context) (*sight, error) {
	w.emptied, w.unreachable = map[string]float64{}, map[string]bool{}
	received := tracestore.NewReceived(trySpans)
	var first time.Time
	agents, _, err := clusterstatus.Agents(ctx, w.cluster)
	if err == nil {
		_ = w.read(ctx, agents, received) // is repeated below
	}
	for {
		if w.target != nil {
			w.sendError = w.target.send(ctx, w.cluster, w.namespace)
		}
		now, _, err := clusterstatus.Agents(ctx, w.cluster)
		if err == nil {
			agents = now
			err = w.read(ctx, agents, received)
		}
		if w.failures++; err == nil {
			w.failures = 0
		} else if w.failures >= tryFailures && ctx.Err() == nil {
			return nil, err
		}
		best := w.best(received, agents)
		if best != nil && first.IsZero() {
			first = time.Now()
			w.say("for the rest of the traces: a traced request was seen")
		}
		if best != nil && time.Since(first) >= trySettle {
			return best, nil
		}
		if best == nil {
			w.say("for a traced request of %s: %s", w.namespace, w.progress(agents))
		}
		if err := pause(ctx); err != nil {
			switch {
			case best != nil:
				return best, nil
			case errors.Is(err, errTryTimeout):
				return nil, nothing{fmt.Errorf("no traced request of %s was seen in time (--timeout): %s", w.namespace, w.reason(agents))}
			}
			return nil, err
		}
	}
}

// read reads what the agents that are ready have kept, and throws away what it reads from an
// agent for the first time. An agent that cannot be read is said once; it is an error if none can.
func (w *tryWait) read(ctx context.Context, agents []clusterstatus.Agent, into *tracestore.Received) error {
	var failed error
	read := 0
	for _, a := range agents {
		if !a.Ready {
			continue
		}
		data, err := w.spans(ctx, a)
		before, emptied := w.emptied[a.Pod]
		switch {
		case err != nil:
		case !emptied:
			w.emptied[a.Pod] = unknownDrops
		default:
			if before == unknownDrops {
				w.emptied[a.Pod] = a.KeptDropped // its metrics are of after it was emptied
			}
			err = into.Add(data)
		}
		if err == nil {
			read++
			continue
		}
		if failed == nil {
			failed = fmt.Errorf("read the spans of the agent on %s through the API server: %w", a.Node, err)
		}
		if ctx.Err() == nil && !w.unreachable[a.Pod] {
			w.unreachable[a.Pod] = true
			w.say("without the agent on %s, whose spans cannot be read: %v", a.Node, err)
		}
	}
	if read > 0 {
		return nil
	}
	return failed
}

// spans reads what an agent has kept.
func (w *tryWait) spans(ctx context.Context, a clusterstatus.Agent) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return a.Spans(ctx, w.cluster)
}

// best returns the trace to show, nil without one.
func (w *tryWait) best(received *tracestore.Received, agents []clusterstatus.Agent) *sight {
	best := bestOf(received.Traces())
	if best == nil {
		return nil
	}
	best.dropped = received.Dropped()
	for _, a := range agents {
		if before, known := w.emptied[a.Pod]; known && before != unknownDrops {
			best.dropped += int(max(0, a.KeptDropped-before))
		}
		best.exported += a.SpansExported
		best.lost += a.SpansLost
	}
	return best
}

// progress is what the agents have seen so far.
func (w *tryWait) progress(agents []clusterstatus.Agent) string {
	sum := sumOf(agents)
	text := fmt.Sprintf("on the nodes %.0f HTTP requests, %.0f with a trace context, %.0f of these not sampled", sum.Requests, sum.Found, sum.Unsampled)
	if w.sendError != nil {
		text += "; " + w.sendError.Error()
	}
	return text
}

func sumOf(agents []clusterstatus.Agent) (sum clusterstatus.Traffic) {
	for _, a := range agents {
		sum.Requests += a.Requests
		sum.Found += a.Found
		sum.Unsampled += a.Unsampled
	}
	return sum
}

// reason is why no traced request was seen, and what to do.
func (w *tryWait) reason(agents []clusterstatus.Agent) string {
	sum := sumOf(agents)
	const send = "--send SERVICE:PORT/PATH sends requests that are traced"
	switch {
	case w.sendError != nil:
		return fmt.Sprintf("the requests of --send fail: %v", w.sendError)
	case sum.Requests == 0:
		return "the agents saw no HTTP/1 request at all: there was no traffic, or it is HTTP/2 or encrypted; " + send
	case sum.Found == 0:
		return fmt.Sprintf("none of %.0f requests on the nodes had a trace context: proxies from before the trial take its configuration within seconds, so they do not trace, or the requests come from outside of the mesh; %s", sum.Requests, send)
	case sum.Found == sum.Unsampled:
		return fmt.Sprintf("all %.0f trace contexts on the nodes are of requests that are not sampled: where a trace begins, such as at the ingress gateway, decides, and that is outside of the namespace; %s", sum.Found, send)
	default:
		return fmt.Sprintf("%.0f requests on the nodes were sampled, none of them to or from %s, or none was answered; %s", sum.Found-sum.Unsampled, w.namespace, send)
	}
}

// bestOf returns the trace that was seen at the most capture points, of those with a request
// that was answered; of several the latest. It is nil without one.
func bestOf(traces []tracestore.Trace) *sight {
	type candidate struct {
		trace         *tracestore.Trace
		points, nodes int
	}
	var all []candidate
	for n := range traces {
		t := &traces[len(traces)-1-n] // latest first
		points, nodes := map[string]bool{}, map[string]bool{}
		for i := range t.Observations {
			points[t.Observations[i].Point.ID] = true
			nodes[t.Observations[i].Point.Node] = true
		}
		if len(points) > 0 {
			all = append(all, candidate{t, len(points), len(nodes)})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(b.points, a.points) })
	for _, c := range all {
		if report := explain.Explain(*c.trace, nil); report.Total > 0 {
			report.Service, report.Operation = rootRequest(c.trace, &report)
			return &sight{report: &report, points: c.points, nodes: c.nodes, traces: len(traces)}
		}
	}
	return nil
}

// rootRequest names a trace without proxies' spans by the request of its first root hop, if
// the request line is known. Nodes' clocks differ, so the first by time may be another's.
func rootRequest(t *tracestore.Trace, report *explain.Report) (service, operation string) {
	root := slices.IndexFunc(report.Hops, func(h explain.Hop) bool { return h.Depth == 0 })
	if root < 0 {
		return "", ""
	}
	var first *observe.Observation
	for i := range t.Observations {
		o := &t.Observations[i]
		if o.Method != "" && o.Context.SpanID.String() == report.Hops[root].SpanID && (first == nil || o.Wall < first.Wall) {
			first = o
		}
	}
	if first == nil {
		return report.Hops[root].To, ""
	}
	return cmp.Or(first.Peers.Server.Service, first.Server.Addr().String()), first.Method + " " + first.Path
}
