// SPDX-License-Identifier: Apache-2.0

package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/peer/ask"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/observe"
)

// Case is a request, and what layertrace explain must find.
type Case struct {
	Name string
	ask.Request
	// Outage is for how long the router forwards nothing, from half a second after
	// the request on.
	Outage time.Duration
	// Layers are the layers that a verdict may name, Location its location.
	Layers   []observe.Layer
	Location string
	// MayBeUnknown: a verdict of low confidence may name others. Of encrypted messages a
	// capture point may lose a segment, and then has no times of the rest.
	MayBeUnknown bool
}

// traceID returns a trace ID of few digits.
func traceID(n int) string { return fmt.Sprintf("%032x", n) }

// A response to bulkPath does not fit into the buffers between the peers, one to longPath not
// into those of two sidecars either.
var (
	bulkPath = ask.Bulk + "?n=3000000"
	longPath = ask.Long + "?n=32000000"
)

// longBytes is as long, for requests.
const longBytes = 32_000_000

// uploadPath is of a request whose body the server reads after a time.
func uploadPath(d time.Duration) string {
	return fmt.Sprintf("%s?wait_ms=%d", ask.Upload, d.Milliseconds())
}

func pausePath(d time.Duration) string {
	return fmt.Sprintf("%s?wait_ms=%d", ask.Pause, d.Milliseconds())
}

// Cases returns a server that pauses in its response, one that sends events, a client that
// does not read, and a router that forwards nothing for some time. A reader that leaves
// bytes in its receive queue is the application of its service, by what it does, or the
// receive queue in its protocol stack, by where the bytes wait.
//
// Over sidecars they are the same. A reader of a response that the sidecars' buffers have room
// for holds up no one but its own sidecar, of a longer one all senders. On a busy
// machine that one passes for longer than the shortest waits, and so do long requests.
func Cases(sidecars bool) []Case {
	cases := []Case{
		{Name: "body 3 s after the head", Request: ask.Request{TraceID: traceID(0xf001), Path: pausePath(3 * time.Second)},
			Layers: []observe.Layer{observe.Application}, Location: "server"},
		{Name: "4 events, each after 2.5 s", Request: ask.Request{TraceID: traceID(0xf002), Path: ask.Events + "?n=4&wait_ms=2500"},
			Layers: []observe.Layer{observe.Application}, Location: "server"},
		reader("reader waits 5 s", 0xf003, 5*time.Second, bulkPath),
		reader("reader waits 1 s", 0xf004, time.Second, bulkPath),
		reader("reader waits 0.3 s", 0xf005, 300*time.Millisecond, bulkPath),
		{Name: "nothing forwarded for 6 s", Request: ask.Request{TraceID: traceID(0xf006), Path: pausePath(time.Second)},
			Outage: 6 * time.Second, Layers: []observe.Layer{observe.VirtualNetwork}, Location: nodeName},
	}
	if sidecars {
		cases = append(cases,
			reader("reader of a long response waits 5 s", 0xf013, 5*time.Second, longPath),
			reader("reader of a long response waits 1 s", 0xf014, time.Second, longPath),
			uploadReader("reader of a long request waits 5 s", 0xf023, 5*time.Second))
		for i := range cases {
			cases[i].MayBeUnknown = true
		}
	}
	return cases
}

func reader(name string, n int, wait time.Duration, path string) Case {
	return Case{
		Name: name, Request: ask.Request{TraceID: traceID(n), Path: path, ReadAfter: wait, Window: 64 << 10},
		Layers: []observe.Layer{observe.Application, observe.ProtocolStack}, Location: "client",
	}
}

func uploadReader(name string, n int, wait time.Duration) Case {
	return Case{
		Name: name, Request: ask.Request{TraceID: traceID(n), Path: uploadPath(wait), Body: longBytes},
		Layers: []observe.Layer{observe.Application, observe.ProtocolStack}, Location: "server",
	}
}

// Select returns the cases whose names contain a text.
func Select(cases []Case, named string) ([]Case, error) {
	selected := slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return !strings.Contains(c.Name, named) })
	if len(selected) == 0 {
		return nil, fmt.Errorf("select cases: no name contains %q; the names are in e2e/live/cases.go", named)
	}
	return selected, nil
}

// Result is a case and what layertrace explain found.
type Result struct {
	Case
	// Client is how long the request took by the client's clock, Total by explain.
	Client, Total time.Duration
	Verdict       struct {
		Layer      observe.Layer `json:"layer"`
		Location   string        `json:"location"`
		Confidence string        `json:"confidence"`
		Text       string        `json:"text"`
	}
	// Problems are what is wrong; none if all is right. NotKnown: explain does not say, or
	// not surely, and says why.
	Problems []string
	NotKnown bool
	// Text is the whole report of explain.
	Text string
}

// maxOff is the share by which a total may differ from the client's clock.
const maxOff = 0.02

// Check sends the requests of cases after those of a baseline, and explains them.
func (t *Testbed) Check(ctx context.Context, cases []Case) (results []Result, err error) {
	var usual []ask.Request
	for n := range 40 {
		usual = append(usual,
			ask.Request{TraceID: traceID(0xd000 + n), Path: pausePath(20 * time.Millisecond)},
			ask.Request{TraceID: traceID(0xe000 + n), Path: bulkPath, Window: 64 << 10})
		if t.options.TLS != nil {
			usual = append(usual, ask.Request{TraceID: traceID(0xe100 + n), Path: longPath, Window: 64 << 10},
				ask.Request{TraceID: traceID(0xe200 + n), Path: uploadPath(0), Body: longBytes})
		}
	}
	t.options.Progress("%d requests for the baseline", len(usual))
	baseline, err := t.ask(ctx, "baseline", usual, false)
	if err != nil {
		return nil, err
	}
	t.options.Progress("%d slow requests", len(cases))
	slow, err := t.askCases(ctx, cases)
	if err != nil {
		return nil, err
	}
	for _, e := range slices.Concat(baseline, slow) {
		// A sidecar's span begins before the bytes that it sends, and ends after.
		proxy := lab.Span{
			ID: ask.SpanID(e.TraceID), Name: "GET server", Service: "client", Tags: map[string]any{"component": "proxy"},
			Start: e.Start.Add(-200 * time.Microsecond), Duration: e.Took + 300*time.Microsecond,
		}
		if err := t.post(ctx, e.TraceID, proxy); err != nil {
			return nil, err
		}
	}
	var ids []string
	for _, c := range cases {
		ids = append(ids, c.TraceID)
	}
	if err := t.Jaeger.AwaitSpans(ctx, ids); err != nil {
		return nil, err
	}
	for _, c := range cases {
		i := slices.IndexFunc(slow, func(e ask.Event) bool { return e.TraceID == c.TraceID })
		if i < 0 {
			return nil, fmt.Errorf("%s: the client did not finish", c.Name)
		}
		r, err := t.explain(ctx, c, slow[i].Took)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

// askCases sends the requests of cases together; those with an outage of the router
// afterwards, one by one.
func (t *Testbed) askCases(ctx context.Context, cases []Case) (finished []ask.Event, err error) {
	var together []ask.Request
	for _, c := range cases {
		if c.Outage == 0 {
			together = append(together, c.Request)
		}
	}
	if finished, err = t.ask(ctx, "slow", together, true); err != nil {
		return nil, err
	}
	for _, c := range cases {
		if c.Outage == 0 {
			continue
		}
		group, inGroup := errgroup.WithContext(ctx)
		name := "outage-" + c.TraceID[28:]
		var one []ask.Event
		group.Go(func() (err error) {
			one, err = t.ask(inGroup, name, []ask.Request{c.Request}, false)
			return err
		})
		group.Go(func() error { return t.interrupt(inGroup, name, c.Outage) })
		if err := group.Wait(); err != nil {
			return nil, err
		}
		finished = append(finished, one...)
	}
	return finished, nil
}

// interrupt stops forwarding half a second after a client's first request, for some time.
func (t *Testbed) interrupt(ctx context.Context, client string, outage time.Duration) error {
	err := sandbox.Await(ctx, "the request before the outage", 10*time.Second, 5*time.Millisecond, func(context.Context) error {
		events, err := ask.ReadEvents(t.output(client))
		if err == nil && len(events) == 0 {
			err = errors.New("not sent yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // part of the case
	if err := t.router.Sysctl(map[string]string{"ip_forward": "0"}); err != nil {
		return err
	}
	time.Sleep(outage) // the fault
	return t.router.Sysctl(map[string]string{"ip_forward": "1"})
}

// ask runs a client with a plan, and returns the requests that it finished.
func (t *Testbed) ask(ctx context.Context, name string, plan []ask.Request, together bool) (finished []ask.Event, err error) {
	if len(plan) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	args := []string{"ask", "--server", serverAddr, "--plan", string(text), fmt.Sprintf("--together=%v", together)}
	client, err := t.start(name, t.options.Tools.Peer, t.client, t.inner, args...)
	if err != nil {
		return nil, err
	}
	if err := client.Wait(ctx); err != nil {
		return nil, err
	}
	events, err := ask.ReadEvents(t.output(name))
	return slices.DeleteFunc(events, func(e ask.Event) bool { return e.Took == 0 }), err
}

// explain explains the trace of a case, and compares.
func (t *Testbed) explain(ctx context.Context, c Case, took time.Duration) (r Result, err error) {
	r = Result{Case: c, Client: took}
	jaeger := fmt.Sprintf("http://%s:%d", loopback, lab.JaegerQueryPort)
	out, err := t.layertrace(ctx, "explain", "--json", "--jaeger", jaeger, c.TraceID)
	if err != nil {
		return r, err
	}
	report := struct {
		Total   *int64 `json:"total_ns"`
		Verdict any    `json:"verdict"`
	}{Verdict: &r.Verdict}
	if err := json.Unmarshal(out, &report); err != nil || report.Total == nil {
		return r, errors.Join(fmt.Errorf("read the report of layertrace explain on %s: no total_ns", c.TraceID), err)
	}
	r.Total = time.Duration(*report.Total)
	text, err := t.layertrace(ctx, "explain", "--jaeger", jaeger, c.TraceID)
	if err != nil {
		return r, err
	}
	r.Text = string(text)
	r.judge()
	return r, nil
}

// judge lists what is wrong.
func (r *Result) judge() {
	if off := (r.Total - r.Client).Abs(); float64(off) > maxOff*float64(r.Client) {
		r.Problems = append(r.Problems, fmt.Sprintf("total off by %.1f %%", 100*float64(off)/float64(r.Client)))
	}
	switch {
	case slices.Contains(r.Layers, r.Verdict.Layer) && r.Verdict.Location == r.Location:
	case r.MayBeUnknown && (r.Verdict.Confidence == "low" || r.Verdict.Layer == observe.NoLayer && r.Verdict.Confidence != "high"):
		r.NotKnown = true
	default:
		r.Problems = append(r.Problems, fmt.Sprintf("blames %s at %q", r.Verdict.Layer, r.Verdict.Location))
	}
}

// WriteResults writes results as a table.
func WriteResults(out io.Writer, results []Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tCLIENT\tEXPLAIN\tVERDICT\tCONFIDENCE\tWRONG")
	for _, r := range results {
		if r.NotKnown {
			r.Problems = append(r.Problems, "not known")
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%s at %s\t%s\t%s\n", r.Name, r.Client.Round(100*time.Microsecond), r.Total.Round(100*time.Microsecond),
			r.Verdict.Layer, r.Verdict.Location, r.Verdict.Confidence, strings.Join(r.Problems, "; "))
	}
	return w.Flush()
}
