// SPDX-License-Identifier: Apache-2.0

// Package jaeger configures the lab's Jaeger and reads traces back from it.
package lab

import (
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

// StartJaeger starts Jaeger beside the switch and waits until it answers. Up
// has done so; this is for after StopJaeger, and Jaeger is empty then.
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
		Namespace: l.network.sw, Cgroup: l.groups["infra"],
		Stderr: filepath.Join(l.options.Dir, "jaeger.log"),
	})
	if err != nil {
		return err
	}
	l.Jaeger = NewJaegerClient(InfraIP, l.network.sw.DialContext)
	return l.ready(ctx, l.jaeger, func(ctx context.Context) error {
		_, err := l.Jaeger.Services(ctx)
		return err
	})
}

// StopJaeger ends Jaeger at once.
func (l *Lab) StopJaeger() error {
	l.Jaeger.Close()
	return l.jaeger.Kill()
}

// PauseJaeger stops Jaeger from answering while its connections stay, until
// ResumeJaeger: what an overloaded one looks like.
func (l *Lab) PauseJaeger() error { return l.jaeger.Signal(syscall.SIGSTOP) }

// ResumeJaeger lets Jaeger go on after PauseJaeger.
func (l *Lab) ResumeJaeger() error { return l.jaeger.Signal(syscall.SIGCONT) }

// ExposeJaeger makes Jaeger reachable from the host's own network, on loopback
// and Jaeger's usual port, or any free one when that is taken. Nothing of the
// host's network is changed: connections are passed on.
func (l *Lab) ExposeJaeger() (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(JaegerQueryPort)))
	if err != nil {
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", nil, fmt.Errorf("expose Jaeger: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go l.pass(ctx, conn)
		}
	}()
	stop = func() {
		cancel()
		_ = listener.Close() // nothing is lost by it
	}
	return listener.Addr().String(), stop, nil
}

// pass copies between a connection from the host and Jaeger until either side
// closes or ctx is done.
func (l *Lab) pass(ctx context.Context, from net.Conn) {
	defer from.Close()
	to, err := l.network.sw.DialContext(ctx, "tcp", net.JoinHostPort(InfraIP, strconv.Itoa(JaegerQueryPort)))
	if err != nil {
		return
	}
	defer to.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { from.Close(); to.Close() })()
	go func() {
		defer cancel()
		_, _ = io.Copy(to, from)
	}()
	_, _ = io.Copy(from, to)
	cancel()
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

// Config returns a Jaeger configuration that listens on ip and keeps the
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

// Client reads from Jaeger's query API.
type JaegerClient struct {
	base string
	http *http.Client
}

// NewClient returns a client of the query API at ip that connects by dial.
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

// Trace returns one trace; one without spans when Jaeger does not know it.
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
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Jaeger: %s: %s", path, response.Status)
	}
	body := struct {
		Data any `json:"data"`
	}{data}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return fmt.Errorf("read Jaeger's answer to %s: %w", path, err)
	}
	return nil
}

// CompleteTrace waits until Jaeger has count spans of a trace; spans come from
// many senders, each in its own time. After limit the error tells how many
// there are.
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

// Trace is a trace as Jaeger's query API gives it.
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
	// Tags are the span's attributes, Resource those of its resource, values as
	// JSON gave them.
	Tags, Resource map[string]any
}

// Kind returns the span's kind: client, server, internal or "".
func (s Span) Kind() string {
	kind, _ := s.Tags["span.kind"].(string)
	return kind
}

// End is when the span ended.
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
