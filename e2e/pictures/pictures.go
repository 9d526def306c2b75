// SPDX-License-Identifier: Apache-2.0

// Package pictures makes the documents' pictures from a real run: a trace with
// interface spans in Zipkin's UI, and the page of layertrace explain.
package pictures

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
)

// Maker makes the pictures. All fields are required.
type Maker struct {
	Lab *lab.Lab
	// ZipkinJAR is Zipkin's server.
	ZipkinJAR string
	// Dir gets the pictures, Logs the logs.
	Dir, Logs string
	Progress  func(format string, args ...any)
}

// The request in the pictures is slow between two nodes: packets from details'
// node to productpage's are late.
var slowNetwork = faults.Case{
	Kind: faults.RelayDelay, FromNode: 3, ToNode: 4,
	Magnitude: 20 * time.Millisecond, Version: "reviews-v2",
}

// Two more requests are slow for seconds, for the texts in docs/explain.md: details sends
// its response as a stream of events, and productpage leaves the long response of reviews
// unread.
var (
	slowStream = faults.Case{
		Kind: faults.EventStream, Pod: "details", Magnitude: 5 * time.Second, Version: "reviews-v2",
	}
	slowReader = faults.Case{
		Kind: faults.SlowReader, Pod: "productpage", Magnitude: time.Second, Version: "reviews-v2",
		Transfer: faults.Transfer{Caller: "productpage", Callee: "reviews-v2", Response: true},
	}
)

// baseline is how many requests without a fault come before each slow one: few
// slow ones must be in what explain compares with.
const baseline = 60

// maxUnexplained is the time, by the client's clock, that the fault does not explain: of
// a fault of milliseconds, and of one of seconds.
const (
	maxUnexplained     = 2 * time.Millisecond
	maxUnexplainedLong = 50 * time.Millisecond
)

// Make makes all pictures.
func (m *Maker) Make(ctx context.Context) error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return fmt.Errorf("make pictures: %w", err)
	}
	variant, err := matrix.ParseVariant("default")
	if err != nil {
		return err
	}
	layers := variant.Setup(m.Lab, lab.Zipkin)
	layers.Name = "pictures-layers"
	interfaces := layers
	interfaces.Name = "pictures-interfaces"
	interfaces.AgentFlags, interfaces.NodeFlags = []string{"--idle-timeout=300ms"}, nil

	m.Progress("a trace with interface spans")
	err = m.slowTraces(ctx, variant, interfaces, view{slowNetwork, m.zipkinPicture})
	if err != nil {
		return err
	}
	m.Progress("traces with layers")
	return m.slowTraces(ctx, variant, layers,
		view{slowNetwork, m.explainPicture},
		view{slowStream, m.explainText("explain-stream")},
		view{slowReader, m.explainText("explain-reader")})
}

// view is a slow request and what shows its trace.
type view struct {
	one  faults.Case
	show func(context.Context, lab.Trace) error
}

// slowTraces runs the mesh in a setup, makes slow requests, each after others, and shows
// their traces.
func (m *Maker) slowTraces(ctx context.Context, v matrix.Variant, setup lab.Setup, views ...view) error {
	return v.WithSession(ctx, m.Lab, lab.Zipkin, setup, func(s *faults.Session) error {
		for _, one := range views {
			slow, err := slowRequest(ctx, s, one.one)
			if err != nil {
				return err
			}
			if err := m.Lab.Jaeger.AwaitSpans(ctx, []string{slow.TraceID}); err != nil {
				return err
			}
			trace, err := m.Lab.Jaeger.Trace(ctx, slow.TraceID)
			if err != nil {
				return err
			}
			if err := one.show(ctx, trace); err != nil {
				return err
			}
		}
		return nil
	})
}

// slowRequest repeats the request until nothing but the fault made it slow, by
// the client's clock. A busy machine adds delays of its own.
func slowRequest(ctx context.Context, s *faults.Session, one faults.Case) (slow faults.Injection, err error) {
	most := maxUnexplained
	if one.Magnitude >= time.Second {
		most = maxUnexplainedLong
	}
	for range 20 {
		if err := s.Plain(ctx, faults.Traffic{}, baseline); err != nil {
			return slow, err
		}
		slow, err = s.Make(ctx, one)
		if err != nil && !faults.Useless(err) {
			return slow, err
		}
		if err == nil && slow.Sound() && slow.Unexplained() <= most {
			return slow, nil
		}
	}
	return slow, errors.New("make a slow request: this machine is too busy: each was delayed by something else as well")
}

func (m *Maker) zipkinPicture(ctx context.Context, trace lab.Trace) (err error) {
	server, err := m.startZipkin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	if err := server.send(ctx, trace, len(trace.Spans)); err != nil {
		return err
	}
	return m.photograph(ctx, "zipkin-trace.png", picture{url: server.page(trace.ID), width: 1360, height: 1250})
}

// explainPicture photographs the page of explain.
func (m *Maker) explainPicture(ctx context.Context, trace lab.Trace) error {
	page, err := m.explain(ctx, trace, "explain")
	if err != nil {
		return err
	}
	return m.photograph(ctx, "explain.png", picture{url: "file://" + page, width: 1200, height: 1000})
}

// explainText returns a function that only writes what explain says, under a name, for the
// examples in docs/explain.md.
func (m *Maker) explainText(name string) func(context.Context, lab.Trace) error {
	return func(ctx context.Context, trace lab.Trace) error {
		page, err := m.explain(ctx, trace, name)
		if err == nil {
			m.Progress("wrote %s", page)
		}
		return err
	}
}

// explain writes the page and the text of explain into the directory for logs, and returns
// the page's file.
func (m *Maker) explain(ctx context.Context, trace lab.Trace, name string) (page string, err error) {
	page = filepath.Join(m.Logs, name+".html")
	text, err := m.Lab.Layertrace(ctx, "explain", "--jaeger", lab.JaegerURL(), "--html", page, trace.ID)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(m.Logs, name+".txt"), text, 0o644); err != nil {
		return "", fmt.Errorf("write the text of explain: %w", err)
	}
	return page, nil
}

func (m *Maker) photograph(ctx context.Context, name string, v picture) error {
	file := filepath.Join(m.Dir, name)
	if err := photograph(ctx, m.Lab, v, file); err != nil {
		return err
	}
	m.Progress("wrote %s", file)
	return nil
}
