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
	// tryTraces is the number of traces of which the one to show is chosen.
	tryTraces = 200
	// tryFailures is how often in a row the agents may fail to answer: one may restart.
	tryFailures = 5
	// sendTimeout is for one request of --send.
	sendTimeout = 10 * time.Second
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
		status, err := c.GetFromService(ctx, namespace, t.service, t.url, map[string]string{"traceparent": parent})
		if err != nil {
			return fmt.Errorf("GET %s of service %s through the API server: %w (status %d)", t.url, t.service, err, status)
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

// tryWait waits for a trial to show something.
type tryWait struct {
	cluster         *install.Cluster
	namespace, root string
	target          *target
	say             func(format string, args ...any)
	sendError       error // of the last request
	failures        int   // of reading the agents, one after the other
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
}

// trace waits for a traced request, and returns the trace that was seen at the most capture
// points.
func (w *tryWait) trace(ctx context.Context) (*sight, error) {
	received := tracestore.NewReceived(trySpans)
	var first time.Time
	var agents []clusterstatus.Agent
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
		best := bestOf(received.Traces())
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

// read reads what the agents that are ready have kept.
func (w *tryWait) read(ctx context.Context, agents []clusterstatus.Agent, into *tracestore.Received) error {
	for _, a := range agents {
		if !a.Ready {
			continue
		}
		data, err := a.Spans(ctx, w.cluster)
		if err == nil {
			err = into.Add(data)
		}
		if err != nil {
			return fmt.Errorf("read the spans of the agent on %s through the API server: %w", a.Node, err)
		}
	}
	return nil
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
// that was answered; nil without one.
func bestOf(traces []tracestore.Trace) *sight {
	var best *sight
	for _, t := range traces[:min(len(traces), tryTraces)] {
		points, nodes := map[string]bool{}, map[string]bool{}
		for i := range t.Observations {
			points[t.Observations[i].Point.ID] = true
			nodes[t.Observations[i].Point.Node] = true
		}
		if len(points) == 0 || best != nil && len(points) <= best.points {
			continue
		}
		if report := explain.Explain(t, nil); report.Total > 0 {
			report.Service, report.Operation = firstRequest(t)
			best = &sight{report: &report, points: len(points), nodes: len(nodes)}
		}
	}
	if best != nil {
		best.traces = len(traces)
	}
	return best
}

// firstRequest names a trace without proxies' spans by the request that was seen first, of
// those whose request line is known.
func firstRequest(t tracestore.Trace) (service, operation string) {
	var first *observe.Observation
	for i := range t.Observations {
		if o := &t.Observations[i]; o.Method != "" && (first == nil || o.Wall < first.Wall) {
			first = o
		}
	}
	if first == nil {
		return "", ""
	}
	return cmp.Or(first.Peers.Server.Service, first.Server.Addr().String()), first.Method + " " + first.Path
}
