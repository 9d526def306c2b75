// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Testbed is an Envoy between a client and an upstream.
type Testbed struct {
	Proxy *Envoy

	tracer     lab.Tracer
	placements []Placement
	upstream   *Upstream
	collector  *collector
}

// String returns the tracer and placements of the Envoy.
func (b *Testbed) String() string { return fmt.Sprint(b.tracer, " ", b.placements) }

// startTestbed starts an Envoy with a listener for each placement, protocol and setup
// of the cases.
func startTestbed(ctx context.Context, o Options, tracer lab.Tracer, placements []Placement, cases []Case) (*Testbed, error) {
	config := envoyConfig{Envoy: o.Envoy, Tracer: tracer, InlineHeaders: placements[0].InlineHeaders()}
	seen := map[string]bool{}
	for _, placement := range placements {
		module := o.Module
		if placement != placement.reference() {
			module = o.compact
		}
		for _, protocol := range protocols {
			for _, c := range cases {
				l, err := newListener(tracer, placement, protocol, c.Setup, module)
				if err != nil {
					return nil, err
				}
				if !seen[l.Name] {
					seen[l.Name] = true
					config.Listeners = append(config.Listeners, l)
				}
			}
		}
	}
	config.Dir = filepath.Join(o.Dir, string(tracer)+"-"+string(placements[len(placements)-1]))
	if err := os.MkdirAll(config.Dir, 0o755); err != nil {
		return nil, err
	}
	b := &Testbed{tracer: tracer, placements: placements}
	var err error
	if b.upstream, err = startUpstream(); err != nil {
		return nil, err
	}
	if b.collector, err = startCollector(); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	config.Upstream, config.Collector = b.upstream.Address(), b.collector.address
	if b.Proxy, err = startEnvoy(ctx, config); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

func (b *Testbed) stop() (err error) {
	if b.Proxy != nil {
		err = b.Proxy.Stop()
	}
	if b.collector != nil {
		b.collector.close()
	}
	b.upstream.Close()
	return err
}

// Exchange sends the request of a case and returns what reached the upstream.
func (b *Testbed) Exchange(ctx context.Context, placement Placement, protocol Protocol, c Case) ([]Head, error) {
	address, err := b.Proxy.Address(listenerName(placement, protocol, c.Setup))
	if err != nil {
		return nil, err
	}
	switch c.Setup.FirstAttempt {
	case "503":
		b.upstream.setResponses(responseUnavailable)
	case "reset":
		b.upstream.setResponses(responseReset)
	default:
		b.upstream.setResponses()
	}
	b.upstream.Take() // a late request of an earlier case that failed
	if err := sendRequest(ctx, address, caseRequest(c)); err != nil {
		return b.upstream.Take(), err
	}
	return b.upstream.Take(), nil
}

// warmUp sends root requests to the listeners whose filter sets placeholders, until
// it does: the filter must first see that the tracer overwrites them.
func (b *Testbed) warmUp(ctx context.Context, cases []Case) error {
	done := map[string]bool{}
	for _, placement := range b.placements {
		for _, protocol := range protocols {
			for _, c := range cases {
				name := listenerName(placement, protocol, c.Setup)
				if placement.reference() != WasmConnectionManager || c.Setup.NoTracer || c.Setup.Refused || done[name] {
					continue
				}
				done[name] = true
				if err := b.awaitPlaceholders(ctx, placement, protocol, c.Setup); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	return nil
}

func (b *Testbed) awaitPlaceholders(ctx context.Context, placement Placement, protocol Protocol, setup Setup) error {
	const counter = "layertrace_requests_with_placeholders"
	before, err := b.Proxy.Counters(ctx, counter)
	if err != nil {
		return err
	}
	setup.FirstAttempt = ""
	return sandbox.Await(ctx, "the filter to set placeholders", time.Minute, 10*time.Millisecond, func(ctx context.Context) error {
		if _, err := b.Exchange(ctx, placement, protocol, Case{Name: "warm-up", Setup: setup}); err != nil {
			return err
		}
		now, err := b.Proxy.Counters(ctx, counter)
		if err == nil && now == before {
			err = errors.New("none yet")
		}
		return err
	})
}

// sendRequest writes a request without a library that could reorder its headers. A
// status other than 200 is an error.
func sendRequest(ctx context.Context, to netip.AddrPort, request string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return fmt.Errorf("connect to Envoy: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return fmt.Errorf("connect to Envoy: %w", err)
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		return fmt.Errorf("send to Envoy: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("read Envoy's response: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("Envoy responded %s", response.Status)
	}
	return nil
}

func caseRequest(c Case) string {
	method := "GET"
	if c.Setup.Body > 0 {
		method = "POST"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s /%s HTTP/1.1\r\nhost: wire.test\r\n", method, c.Name)
	for _, f := range c.Client {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if c.Setup.Body > 0 {
		fmt.Fprintf(&b, "content-length: %d\r\n", c.Setup.Body)
	}
	b.WriteString("\r\n" + strings.Repeat("b", c.Setup.Body))
	return b.String()
}

// collector accepts the tracers' spans and discards them. Without it Envoy would log
// failures.
type collector struct {
	server  *http.Server
	address netip.AddrPort
}

// zipkinPath is the path of the zipkin tracer's spans (envoy.yaml.tmpl).
const zipkinPath = "/api/v2/spans"

func startCollector() (*collector, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for spans: %w", err)
	}
	c := &collector{address: listener.Addr().(*net.TCPAddr).AddrPort()}
	c.server = &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // ignored
			if r.URL.Path == zipkinPath {
				w.WriteHeader(http.StatusAccepted) // the only status that Envoy's zipkin tracer accepts
			}
		}),
	}
	go func() { _ = c.server.Serve(listener) }() // until close
	return c, nil
}

func (c *collector) close() { _ = c.server.Close() }
