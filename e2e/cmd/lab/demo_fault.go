// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// demoStore is where explain reads the traces: Jaeger, or Zipkin that gets its spans by way
// of a Collector.
type demoStore struct {
	ui             string
	jar, collector string
}

// provide gets the programs of the store. It asks for Java first: everything else takes
// minutes.
func (s *demoStore) provide(ctx context.Context, progress provision.Progress) (err error) {
	if s.ui != zipkinUI {
		return nil
	}
	if err := provision.CheckJava(); err != nil {
		return err
	}
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	if s.jar, err = provision.Zipkin(ctx, progress); err != nil {
		return err
	}
	s.collector, err = provision.Collector(ctx, checkout, progress)
	return err
}

// start starts the store beside Jaeger, and changes a setup to send to it.
func (s *demoStore) start(ctx context.Context, l *lab.Lab, setup *lab.Setup) error {
	if s.ui != zipkinUI {
		return nil
	}
	if _, err := l.StartZipkin(ctx, s.jar); err != nil {
		return err
	}
	setup.Collector = true
	return l.StartCollector(ctx, s.collector, lab.Destinations{Zipkin: lab.ZipkinReceiver()})
}

// await waits until the store has the spans that Jaeger has.
func (s *demoStore) await(ctx context.Context, l *lab.Lab, trace lab.Trace) error {
	if s.ui != zipkinUI {
		return nil
	}
	return sandbox.Await(ctx, "the trace in Zipkin", 20*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
		have, err := l.ZipkinSpans(ctx, trace.ID)
		if err == nil && have < len(trace.Spans) {
			err = fmt.Errorf("%d of %d spans", have, len(trace.Spans))
		}
		return err
	})
}

// name and url are those of the store, the URL in the lab's network.
func (s *demoStore) name() string {
	if s.ui == zipkinUI {
		return "Zipkin"
	}
	return "Jaeger"
}

func (s *demoStore) url() string {
	if s.ui == zipkinUI {
		return lab.URL(lab.ZipkinPort)
	}
	return lab.JaegerURL()
}

// expose makes the store reachable on the host's loopback.
func (s *demoStore) expose(l *lab.Lab) (*sandbox.PortForward, error) {
	if s.ui == zipkinUI {
		return l.ExposeZipkin()
	}
	return l.ExposeJaeger()
}

// demoFault is what makes one request slow: a network between two nodes that Envoys and
// applications cannot look into. To them, details looks slow.
var demoFault = faults.Case{
	Kind: faults.RelayDelay, FromNode: 3, ToNode: 4, Magnitude: 20 * time.Millisecond, Version: "reviews-v2",
}

const (
	// demoUsual is how many requests are made one after the other before the slow one: as
	// many as explain compares with, so that none of the load before them counts.
	demoUsual = 100
	// demoTries is how often a request is made slow, if this machine made it slow as well.
	demoTries = 5
)

// slowPart is one request that is slow by a fault, and what explain says about it.
type slowPart struct {
	lab      *lab.Lab
	tracer   lab.Tracer
	store    *demoStore
	progress func(format string, args ...any)

	setup    lab.Setup
	injector *faults.Injector
	request  faults.Injection
	trace    lab.Trace
	verdict  string
}

// prepare starts the store, and changes the setup: agents report layers.
func (p *slowPart) prepare(ctx context.Context, setup *lab.Setup) error {
	if err := p.store.start(ctx, p.lab, setup); err != nil {
		return err
	}
	variant, err := matrix.ParseVariant("default")
	if err != nil {
		return err
	}
	layers := variant.Setup(p.lab, p.tracer)
	setup.AgentFlags, setup.NodeFlags = append(setup.AgentFlags, layers.AgentFlags...), layers.NodeFlags
	p.setup = *setup
	return nil
}

// more is what the part does with a run. The injector has to see all encrypted connections
// from their start, so it comes before the load.
func (p *slowPart) more(ctx context.Context) measure.More {
	return measure.More{
		Before: func(run *lab.Run) (err error) {
			p.injector, err = faults.NewInjector(p.lab, run)
			return err
		},
		After: func(*lab.Run) ([]string, error) {
			sent, err := p.make(ctx)
			return sent, errors.Join(err, p.close())
		},
	}
}

// close ends the injector. It can be called twice.
func (p *slowPart) close() error {
	if p.injector == nil {
		return nil
	}
	injector := p.injector
	p.injector = nil
	return injector.Close()
}

// make makes a request slow, and explains it. It returns the trace IDs of its requests.
func (p *slowPart) make(ctx context.Context) (sent []string, err error) {
	client := faults.NewClient(p.lab, p.tracer)
	defer client.Close()
	client.Sent = func(traceID string) { sent = append(sent, traceID) }
	p.progress("one request is made slow: packets from node%d to node%d wait for %v between the nodes",
		demoFault.FromNode, demoFault.ToNode, demoFault.Magnitude)
	session := &faults.Session{Injector: p.injector, Client: client, Load: faults.NewLoad(1)}
	if p.request, err = p.slowRequest(ctx, session); err != nil {
		return nil, err
	}
	return sent, p.explain(ctx)
}

// explain waits until the store has the request's trace, and has it explained.
func (p *slowPart) explain(ctx context.Context) (err error) {
	p.progress("waiting for all spans of trace %s", p.request.TraceID)
	if err := p.lab.Jaeger.AwaitSpans(ctx, []string{p.request.TraceID}); err != nil {
		return err
	}
	if p.trace, err = p.lab.Jaeger.Trace(ctx, p.request.TraceID); err != nil {
		return err
	}
	if err := p.store.await(ctx, p.lab, p.trace); err != nil {
		return err
	}
	text, err := p.lab.Layertrace(ctx, "explain", "--url", p.store.url(), p.request.TraceID)
	p.verdict, _, _ = strings.Cut(string(text), "\nHOPS ") // without its hops: the trace is printed
	return err
}

// slowRequest sends a few requests and then the slow one: again if the machine made it
// slower than the fault did.
func (p *slowPart) slowRequest(ctx context.Context, s *faults.Session) (slow faults.Injection, err error) {
	for range demoTries {
		if err := s.Plain(ctx, faults.Traffic{}, demoUsual); err != nil {
			return slow, err
		}
		slow, err = s.Make(ctx, demoFault)
		if err != nil && !faults.Useless(err) {
			return slow, err
		}
		if err == nil && slow.Sound() {
			return slow, nil
		}
	}
	if err == nil {
		p.progress("this machine is busy: the request was delayed by something else as well")
	}
	return slow, err
}

// print prints what happened, the trace, and the verdict.
func (p *slowPart) print(w io.Writer) {
	fmt.Fprintf(w, `
In the last setup one request was made slow: packets from node%d to node%d waited for
%v between the nodes. The client waited for %.1f ms, usually for %.1f ms. Its trace, with
the spans of Envoys and of interfaces (marked |):

`, demoFault.FromNode, demoFault.ToNode, demoFault.Magnitude, milliseconds(p.request.Client), milliseconds(p.request.Baseline))
	printTree(w, withoutLayers(p.trace))
	fmt.Fprintf(w, "\n$ layertrace explain %s        (from %s)\n\n%s", p.request.TraceID, p.store.name(), p.verdict)
}

// printVerdict prints what explain says about the request in the encrypted setup, if one was
// made slow there.
func (p *slowPart) printVerdict(w io.Writer) {
	if p.verdict == "" {
		return
	}
	verdict, _, _ := strings.Cut(p.verdict, "\n\n")
	fmt.Fprintf(w, `
In the encrypted setup one request was made slow in the same way. The client waited for
%.1f ms, usually for %.1f ms.

$ layertrace explain %s        (from %s)

%s
`, milliseconds(p.request.Client), milliseconds(p.request.Baseline), p.request.TraceID, p.store.name(), verdict)
}

// withoutLayers leaves out the spans of sockets and layers.
func withoutLayers(trace lab.Trace) lab.Trace {
	trace.Spans = slices.DeleteFunc(slices.Clone(trace.Spans), func(s lab.Span) bool {
		_, layer := s.Tags["layertrace.layer"]
		_, side := s.Tags["layertrace.socket.side"]
		return layer || side
	})
	return trace
}

// keepUp runs the mesh again, with the store reachable from the host, until ctx ends.
func (p *slowPart) keepUp(ctx context.Context) error {
	p.setup.Name = "kept"
	run, err := p.lab.Start(ctx, p.setup)
	if err != nil {
		return err
	}
	exposed, err := p.store.expose(p.lab)
	if err != nil {
		return errors.Join(err, run.Stop())
	}
	url := "http://" + exposed.Address()
	page := url
	if p.store.ui == zipkinUI {
		page += "/zipkin/traces/" + p.request.TraceID
	}
	fmt.Printf("\n%s:        %s  (Ctrl-C ends the demo)\n", p.store.name(), page)
	fmt.Printf("Explain:       bin/layertrace explain --url %s %s\n", url, p.request.TraceID)
	fmt.Printf("More requests: nsenter --net=/run/netns/%s curl %s\n", p.lab.NodeNamespace(lab.ClientNode).Name, lab.FrontPage())
	<-ctx.Done()
	return errors.Join(exposed.Close(), run.Stop())
}
