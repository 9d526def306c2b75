// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Attempt is a request from one pod to another as it was on the wire, by the capture at the
// host end of the sending pod's interface, decrypted with Envoy's secrets.
type Attempt struct {
	connection
	From, To        lab.Pod
	TraceID, SpanID string
	Sampled         bool
	Path            string
	// Status is that of the final response, 0 without one.
	Status int
	// Number counts the attempts of a connection from 0.
	Number int
	// Request and Response are the application data records of both messages.
	Request, Response Extent
}

// Extent is a range of bytes in a direction of a connection; empty if nothing was sent.
type Extent struct{ begin, end uint32 }

func (e *Extent) add(r record) {
	if e.end == 0 {
		e.begin = r.begin
	}
	e.end = r.end
}

// Empty reports whether nothing was sent.
func (e Extent) Empty() bool { return e.end == 0 }

// Truth is what passed the capture points.
type Truth struct {
	Attempts []Attempt
	// Unread are records that were not decrypted although they can be application data.
	Unread int
	// points are what passed each capture point, by its name.
	points map[string]passages
}

// Captures are running captures at all capture points.
type Captures struct {
	lab     *lab.Lab
	running []*lab.PacketCapture
	calls   map[string]string // file by the name of the calling pod
	headers map[int]string    // file by node
}

// Capture begins to capture. Connections that are open already are not known.
func Capture(ctx context.Context, l *lab.Lab, file func(name string) string) (*Captures, error) {
	c := &Captures{lab: l, calls: map[string]string{}, headers: map[int]string{}}
	for _, pod := range lab.Pods {
		if len(pod.Calls) == 0 {
			continue
		}
		c.calls[pod.Name] = file("calls-" + pod.Name + ".pcap")
		one, err := l.CaptureCalls(ctx, pod, c.calls[pod.Name])
		if err != nil {
			return nil, err
		}
		c.running = append(c.running, one)
	}
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		c.headers[node] = file("headers-" + lab.NodeName(node) + ".pcap")
		one, err := l.CaptureHeaders(ctx, node, c.headers[node])
		if err != nil {
			return nil, err
		}
		c.running = append(c.running, one)
	}
	return c, nil
}

// Stop ends the captures.
func (c *Captures) Stop(ctx context.Context) error {
	var group errgroup.Group
	for _, one := range c.running {
		group.Go(func() error { return one.Stop(ctx) })
	}
	return group.Wait()
}

// Truth decrypts what was captured during a run, which has to be stopped so that Envoys
// have written their secrets.
func (c *Captures) Truth(ctx context.Context, run *lab.Run) (*Truth, error) {
	t := &Truth{points: map[string]passages{}}
	for _, node := range slices.Sorted(maps.Keys(c.headers)) {
		names, err := c.lab.InterfaceNames(node)
		if err != nil {
			return nil, err
		}
		passed, err := readPassages(c.headers[node], names)
		if err != nil {
			return nil, err
		}
		for _, point := range lab.Points() {
			if point.Node == lab.NodeName(node) {
				t.points[point.Name] = passed[point.Interface]
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.calls)) {
		pod, err := lab.PodByName(name)
		if err != nil {
			return nil, err
		}
		if err := t.read(ctx, pod, c.calls[name], run.KeyLog(name)); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// read adds the attempts in the capture of a pod's calls.
func (t *Truth) read(ctx context.Context, pod lab.Pod, capture, keyLog string) error {
	frames, err := decrypt(ctx, capture, keyLog)
	if err != nil {
		return err
	}
	const ethernet = 14
	var tracked tracker
	open := map[connection]*talk{}
	number := 0
	err = readPackets(capture, func(data []byte, at int64) error {
		number++
		p, err := tracked.parse(data[min(ethernet, len(data)):], at)
		if err != nil || len(p.payload) == 0 {
			return nil
		}
		if len(p.payload) != int(p.end-p.begin) {
			return fmt.Errorf("frame %d is cut", number)
		}
		of := open[p.connection]
		if of == nil {
			to, err := podWithIP(p.server.Addr().String())
			if err != nil {
				return err
			}
			of = &talk{truth: t, from: pod, to: to, connection: p.connection}
			open[p.connection] = of
		}
		if ended := of.records[p.from].add(p.begin, p.payload); len(ended) > 0 {
			of.add(p.from, ended, frames[number])
		}
		return nil
	})
	for _, of := range open {
		of.addCut()
		of.finish()
	}
	return err
}

func podWithIP(ip string) (lab.Pod, error) {
	for _, pod := range lab.Pods {
		if pod.IP == ip {
			return pod, nil
		}
	}
	return lab.Pod{}, fmt.Errorf("no pod has the address %s", ip)
}

// talk is the attempts on a connection: Envoys send a request when the response to the one
// before has ended.
type talk struct {
	truth *Truth
	connection
	from, to lab.Pod
	records  [2]recordReader
	// current is the last attempt.
	current *Attempt
	count   int
}

// add adds the records that end in a frame.
func (t *talk) add(from side, ended []record, f frame) {
	if len(f.kinds) == len(ended) {
		for i := range ended {
			ended[i].kind = f.kinds[i]
		}
	} else {
		t.truth.Unread += len(ended)
	}
	for _, r := range ended {
		if r.kind != recordApplicationData {
			continue
		}
		if from == client {
			if len(f.requests) > 0 {
				t.begin(f.requests[0])
				f.requests = f.requests[1:]
			}
			if t.current != nil {
				t.current.Request.add(r)
			}
			continue
		}
		for ; t.current != nil && len(f.codes) > 0; f.codes = f.codes[1:] {
			if code := f.codes[0]; code/100 != 1 { // not an interim response
				t.current.Status = code
			}
		}
		if t.current != nil {
			t.current.Response.add(r)
		}
	}
}

// addCut adds the records of the last attempt that the end of the connection cut: their bytes
// passed, and cannot be decrypted.
func (t *talk) addCut() {
	if t.current == nil {
		return
	}
	for from, message := range map[side]*Extent{client: &t.current.Request, server: &t.current.Response} {
		if r := &t.records[from]; len(r.header) > 0 && r.header[0] == recordApplicationData {
			message.add(record{begin: r.begin, end: r.next, kind: recordApplicationData})
		}
	}
}

func (t *talk) begin(h head) {
	t.finish()
	t.current = &Attempt{
		connection: t.connection, From: t.from, To: t.to, TraceID: h.traceID, SpanID: h.spanID,
		Sampled: h.sampled, Path: h.path, Number: t.count,
	}
	t.count++
}

func (t *talk) finish() {
	if t.current != nil {
		t.truth.Attempts = append(t.truth.Attempts, *t.current)
		t.current = nil
	}
}

// Times are those of an attempt at a capture point, Unix times in ns, 0 if nothing passed.
type Times struct{ RequestFirst, RequestLast, ResponseFirst, ResponseLast int64 }

// At returns the times of an attempt at a capture point.
func (t *Truth) At(a *Attempt, point lab.Point) (times Times) {
	passed := t.points[point.Name]
	if !a.Request.Empty() {
		times.RequestFirst = passed.at(a.connection, client, a.Request.begin)
		times.RequestLast = passed.at(a.connection, client, a.Request.end-1)
	}
	if !a.Response.Empty() {
		times.ResponseFirst = passed.at(a.connection, server, a.Response.begin)
		times.ResponseLast = passed.at(a.connection, server, a.Response.end-1)
	}
	return times
}
