// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// StartJaeger starts an empty Jaeger on the switch and waits until it is ready. Up
// calls it; tests call it again after StopJaeger.
func (l *Lab) StartJaeger(ctx context.Context) error {
	config, err := JaegerConfig(InfraIP, l.options.MaxTraces)
	if err != nil {
		return err
	}
	path := filepath.Join(l.options.Dir, "jaeger.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return fmt.Errorf("write the Jaeger configuration: %w", err)
	}
	l.jaeger, err = sandbox.Start(sandbox.Spec{
		Name: "jaeger", Path: l.options.Tools.Jaeger, Args: []string{"--config", path},
		Namespace: l.network.infra, Cgroup: l.groups["infra"],
		Stderr: filepath.Join(l.options.Dir, "jaeger.log"),
	})
	if err != nil {
		return err
	}
	l.Jaeger = NewJaegerClient(InfraIP, l.network.infra.DialContext)
	return l.ready(ctx, l.jaeger, func(ctx context.Context) error {
		_, err := l.Jaeger.Services(ctx)
		return err
	})
}

// StopJaeger kills Jaeger.
func (l *Lab) StopJaeger() error {
	l.Jaeger.Close()
	return l.jaeger.Kill()
}

// PauseJaeger stops Jaeger from responding while its connections stay, as when it
// is overloaded, until ResumeJaeger.
func (l *Lab) PauseJaeger() error { return l.jaeger.Signal(syscall.SIGSTOP) }

// ResumeJaeger lets Jaeger continue after PauseJaeger.
func (l *Lab) ResumeJaeger() error { return l.jaeger.Signal(syscall.SIGCONT) }

// ExposeJaeger makes Jaeger reachable on the host's loopback, at Jaeger's usual
// port, or at a free one when that is taken. Close the result.
func (l *Lab) ExposeJaeger() (*sandbox.PortForward, error) {
	target := net.JoinHostPort(InfraIP, strconv.Itoa(JaegerQueryPort))
	return sandbox.ForwardPort(l.network.infra, JaegerQueryPort, target)
}

// Ports of Jaeger's receivers and its query API and UI.
const (
	JaegerOTLPPort     = 4317
	JaegerOTLPHTTPPort = 4318
	JaegerZipkinPort   = 9411
	JaegerQueryPort    = 16686
)

//go:embed jaeger.yaml.tmpl
var jaegerConfig string

var jaegerTemplate = template.Must(template.New("jaeger").Parse(jaegerConfig))

// JaegerConfig returns a Jaeger configuration that listens on ip and keeps the
// latest maxTraces traces in memory.
func JaegerConfig(ip string, maxTraces int) (string, error) {
	var out strings.Builder
	err := jaegerTemplate.Execute(&out, map[string]any{
		"IP": ip, "MaxTraces": maxTraces,
		"OTLP": JaegerOTLPPort, "HTTP": JaegerOTLPHTTPPort, "Zipkin": JaegerZipkinPort, "Query": JaegerQueryPort,
	})
	if err != nil {
		return "", fmt.Errorf("write the Jaeger configuration: %w", err)
	}
	return out.String(), nil
}

// JaegerClient reads from Jaeger's query API.
type JaegerClient struct {
	base string
	http *http.Client
}

// NewJaegerClient returns a client of the query API at ip that connects by dial.
func NewJaegerClient(ip string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *JaegerClient {
	return &JaegerClient{
		base: "http://" + net.JoinHostPort(ip, strconv.Itoa(JaegerQueryPort)),
		http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial}},
	}
}

// Close closes idle connections.
func (c *JaegerClient) Close() { c.http.CloseIdleConnections() }

// Services returns the names of all services that have sent spans.
func (c *JaegerClient) Services(ctx context.Context) ([]string, error) {
	var names []string
	return names, c.get(ctx, "/api/services", &names)
}

// Trace returns one trace, without spans when Jaeger does not have it.
func (c *JaegerClient) Trace(ctx context.Context, traceID string) (Trace, error) {
	traces, err := c.traces(ctx, "/api/traces/"+url.PathEscape(traceID))
	if err != nil || len(traces) == 0 {
		return Trace{ID: traceID}, err
	}
	return traces[0], nil
}

func (c *JaegerClient) traces(ctx context.Context, path string) ([]Trace, error) {
	var data []wireTrace
	if err := c.get(ctx, path, &data); err != nil {
		return nil, err
	}
	traces := make([]Trace, len(data))
	for i, t := range data {
		traces[i] = t.trace()
	}
	return traces, nil
}

func (c *JaegerClient) get(ctx context.Context, path string, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return fmt.Errorf("query Jaeger: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("query Jaeger: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("query Jaeger: %s: %s", path, response.Status)
	}
	body := struct {
		Data any `json:"data"`
	}{data}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return fmt.Errorf("read Jaeger's response to %s: %w", path, err)
	}
	return nil
}

// CompleteTrace waits until Jaeger has count spans of a trace, which come from many
// senders at different times. After limit the error has their number.
func (c *JaegerClient) CompleteTrace(ctx context.Context, traceID string, count int, limit time.Duration) (trace Trace, err error) {
	what := fmt.Sprintf("trace %s in Jaeger", traceID)
	err = sandbox.Await(ctx, what, limit, 100*time.Millisecond, func(ctx context.Context) error {
		var err error
		trace, err = c.Trace(ctx, traceID)
		if err == nil && len(trace.Spans) < count {
			err = fmt.Errorf("%d of %d spans", len(trace.Spans), count)
		}
		return err
	})
	return trace, err
}

// settleTime is how long no span must arrive for a trace to be complete. Envoys send
// spans every half second. Agents send them after an exchange was idle, for which they
// check every second, and hold them for up to another second.
const settleTime = 3500 * time.Millisecond

// AwaitSpans waits until Jaeger has all spans of the traces. Their number depends
// on the agents, so it waits until no more arrive.
func (c *JaegerClient) AwaitSpans(ctx context.Context, ids []string) error {
	last, since := 0, time.Now()
	return sandbox.Await(ctx, "all spans in Jaeger", time.Minute, 300*time.Millisecond, func(ctx context.Context) error {
		count := 0
		for _, id := range ids {
			trace, err := c.Trace(ctx, id)
			if err != nil {
				return err
			}
			if len(trace.Spans) == 0 {
				since = time.Now()
				return fmt.Errorf("no spans of trace %s", id)
			}
			count += len(trace.Spans)
		}
		if count != last {
			last, since = count, time.Now()
		}
		if time.Since(since) < settleTime {
			return fmt.Errorf("%d spans, and more may arrive", count)
		}
		return nil
	})
}

// PostSpan sends Jaeger the span of a client without proxy, by the client's clock, as
// OTLP JSON. post connects to Jaeger's address ip.
func PostSpan(ctx context.Context, post *http.Client, ip string, s Span, traceID string) error {
	type object = map[string]any
	attributes := []object{}
	for key, value := range s.Tags {
		attributes = append(attributes, object{"key": key, "value": object{"stringValue": value}})
	}
	body, err := json.Marshal(object{"resourceSpans": []object{{
		"resource": object{"attributes": []object{{"key": "service.name", "value": object{"stringValue": s.Service}}}},
		"scopeSpans": []object{{"spans": []object{{
			"traceId": traceID, "spanId": s.ID, "name": s.Name, "kind": 3, "attributes": attributes,
			"startTimeUnixNano": strconv.FormatInt(s.Start.UnixNano(), 10), "endTimeUnixNano": strconv.FormatInt(s.End().UnixNano(), 10),
		}}}},
	}}})
	if err != nil {
		return fmt.Errorf("post a span: %w", err)
	}
	url := fmt.Sprintf("http://%s/v1/traces", net.JoinHostPort(ip, strconv.Itoa(JaegerOTLPHTTPPort)))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("post a span: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := post.Do(request)
	if err != nil {
		return fmt.Errorf("post a span: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("post a span: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("post a span: %s", response.Status)
	}
	return nil
}

// Trace is a trace in Jaeger.
type Trace struct {
	// ID is the trace ID in lower-case hex.
	ID    string
	Spans []Span
}

// Span is one span of a trace.
type Span struct {
	// ID and Parent are span IDs in lower-case hex; Parent is empty at a root.
	ID, Parent string
	// Name is the operation, Service the service.name of its resource.
	Name, Service string
	Start         time.Time
	Duration      time.Duration
	// Tags are the span's attributes, Resource those of its resource. Values are
	// as decoded from JSON.
	Tags, Resource map[string]any
}

// Kind returns the span's kind: client, server, internal or "".
func (s Span) Kind() string {
	kind, _ := s.Tags["span.kind"].(string)
	return kind
}

// End returns when the span ended.
func (s Span) End() time.Time { return s.Start.Add(s.Duration) }

type wireTrace struct {
	TraceID string `json:"traceID"`
	Spans   []struct {
		SpanID        string `json:"spanID"`
		OperationName string `json:"operationName"`
		ProcessID     string `json:"processID"`
		StartTime     int64  `json:"startTime"`
		Duration      int64  `json:"duration"`
		References    []struct {
			RefType string `json:"refType"`
			SpanID  string `json:"spanID"`
		} `json:"references"`
		Tags wireTags `json:"tags"`
	} `json:"spans"`
	Processes map[string]struct {
		ServiceName string   `json:"serviceName"`
		Tags        wireTags `json:"tags"`
	} `json:"processes"`
}

type wireTags []struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

func (w wireTags) tags() map[string]any {
	tags := map[string]any{}
	for _, tag := range w {
		tags[tag.Key] = tag.Value
	}
	return tags
}

func (w wireTrace) trace() Trace {
	t := Trace{ID: w.TraceID}
	for _, s := range w.Spans {
		process := w.Processes[s.ProcessID]
		span := Span{
			ID: s.SpanID, Name: s.OperationName, Service: process.ServiceName,
			Start:    time.UnixMicro(s.StartTime),
			Duration: time.Duration(s.Duration) * time.Microsecond,
			Tags:     s.Tags.tags(), Resource: process.Tags.tags(),
		}
		for _, ref := range s.References {
			if ref.RefType == "CHILD_OF" {
				span.Parent = ref.SpanID
			}
		}
		t.Spans = append(t.Spans, span)
	}
	return t
}
