// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// watched is a line of layertrace try --local --output json.
type watched struct {
	Client, Server, Method, Path string
	Status                       int
	Duration                     int64  `json:"duration_ns"`
	TraceID                      string `json:"trace_id"`
	Layers                       []struct {
		Layer, Location string
		Time            int64   `json:"time_ns"`
		Share           float64 `json:"share"`
	}
	Marks []string
}

// layertrace try --local sees a request pass a proxy, an application and a container, with a
// trace context and without one. The container's application takes slowTakes: with a context that
// is the layer of all three, without one of its own hop, and the marks say what the others'
// times are. A filtered run shows the container's hop only.
func TestWatch(t *testing.T) {
	m := newMachine(t)
	m.start("stock", "docker-"+container+".scope")
	m.start("shop", "shop.service")
	m.start("edge", "edge.service")
	stock := container[:12] // the short ID: no runtime knows it

	all := m.watch("all", "--path="+slowPath+"watched-*")
	const trace = "00000000000000000000000000000001"
	m.get(trace, slowPath[1:]+"watched-traced", "session-1.scope")
	m.get("", slowPath[1:]+"watched-plain", "session-2.scope")
	hops := [][2]string{{"plain.test", "edge"}, {"edge", "shop"}, {"shop", stock}}
	lines := all.await(hops, slowPath+"watched-traced", slowPath+"watched-plain")
	for _, hop := range hops {
		traced := one(t, lines, hop, slowPath+"watched-traced")
		if traced.TraceID != trace || slices.Contains(traced.Marks, "no_context") {
			t.Errorf("%+v", traced)
		}
		checkSlow(t, traced, stock)
		plain := one(t, lines, hop, slowPath+"watched-plain")
		if plain.TraceID != "" || !slices.Contains(plain.Marks, "no_context") {
			t.Errorf("%+v", plain)
		}
		checkSlow(t, plain, hop[1]) // what it calls is its own time, as marked
	}
	if text, want := all.said(), fmt.Sprintf("%d shown", len(lines)); !strings.Contains(text, want) {
		t.Errorf("stderr is %q, want %q", text, want)
	}

	slow := m.watch("filtered", "--path="+slowPath+"filtered", "--service="+stock, "--status=2xx", "--min-duration="+slowTakes.String(), "--layer=application")
	m.get("", slowPath[1:]+"filtered", "session-3.scope")
	lines = slow.await(hops[2:], slowPath+"filtered")
	checkSlow(t, one(t, lines, hops[2], slowPath+"filtered"), stock)
	for _, l := range lines {
		if l.Client != stock && l.Server != stock {
			t.Errorf("a line of others: %+v", l)
		}
	}

	counted := m.watch("counted", "--path="+slowPath+"counted", "--count=1")
	m.get("", slowPath[1:]+"counted", "session-4.scope")
	counted.wait()
	if lines := counted.lines(); len(lines) != 1 {
		t.Errorf("%d lines, want 1: %+v", len(lines), lines)
	}
}

// one returns the only line of a hop and path.
func one(t *testing.T, lines []watched, hop [2]string, path string) watched {
	t.Helper()
	found := of(lines, hop, path)
	if len(found) != 1 {
		t.Fatalf("%d lines of %v %s, want 1: %+v", len(found), hop, path, lines)
	}
	return found[0]
}

// of returns the lines of a hop and path.
func of(lines []watched, hop [2]string, path string) (found []watched) {
	for _, l := range lines {
		if l.Client == hop[0] && l.Server == hop[1] && l.Path == path {
			found = append(found, l)
		}
	}
	return found
}

// checkSlow checks that a line's longest layer is the application of a service.
func checkSlow(t *testing.T, l watched, service string) {
	t.Helper()
	if len(l.Layers) == 0 || l.Layers[0].Layer != "application" || l.Layers[0].Location != service ||
		l.Layers[0].Time < slowTakes.Nanoseconds() || l.Layers[0].Time > l.Duration || l.Status != 200 || l.Method != "GET" {
		t.Errorf("%+v, want %v or more in the application of %s", l, slowTakes, service)
	}
}

// watching is a run of layertrace try --local.
type watching struct {
	m        *machine
	process  *sandbox.Process
	out, err string // files
}

// watch starts one, and waits until it captures.
func (m *machine) watch(name string, args ...string) *watching {
	m.t.Helper()
	cgroup, err := m.group.Child("watch-" + name + ".service")
	must(m.t, err)
	w := &watching{m: m, out: filepath.Join(m.dir, name+".json"), err: filepath.Join(m.dir, name+".log")}
	w.process, err = sandbox.Start(sandbox.Spec{
		Name: name, Path: m.tools.Agent, Args: append([]string{"try", "--local", "--output=json", "--for=5m", "--ports=" + strings.Join([]string{edgePort, shopPort, stockPort}, ",")}, args...),
		Namespace: m.namespace, Cgroup: cgroup, Stdout: w.out, Stderr: w.err,
	})
	must(m.t, err)
	m.t.Cleanup(func() {
		if err := w.process.Kill(); err != nil {
			m.t.Error(err)
		}
	})
	must(m.t, sandbox.AwaitReady(interrupted, w.process, 30*time.Second, 20*time.Millisecond, func(context.Context) error {
		if !strings.Contains(w.said(), "watching HTTP/1 requests") {
			return errors.New("it does not watch yet")
		}
		return nil
	}))
	return w
}

// said is what it wrote to stderr.
func (w *watching) said() string {
	w.m.t.Helper()
	text, err := os.ReadFile(w.err)
	must(w.m.t, err)
	return string(text)
}

// await waits until it has written a line of each hop and path, ends it as Ctrl-C does, and
// returns its lines.
func (w *watching) await(hops [][2]string, paths ...string) []watched {
	w.m.t.Helper()
	must(w.m.t, sandbox.AwaitReady(interrupted, w.process, 60*time.Second, 50*time.Millisecond, func(context.Context) error {
		lines := w.lines()
		for _, path := range paths {
			for _, hop := range hops {
				if len(of(lines, hop, path)) == 0 {
					return fmt.Errorf("no line of %v %s among %+v", hop, path, lines)
				}
			}
		}
		return nil
	}))
	must(w.m.t, w.process.Signal(os.Interrupt))
	w.wait()
	return w.lines()
}

// wait waits for its end.
func (w *watching) wait() {
	w.m.t.Helper()
	ctx, cancel := context.WithTimeout(interrupted, 60*time.Second)
	defer cancel()
	if err := w.process.Wait(ctx); err != nil {
		w.m.t.Fatalf("%v\n%s", err, w.process.Tail())
	}
}

// lines returns its whole lines so far.
func (w *watching) lines() (all []watched) {
	w.m.t.Helper()
	text, err := os.ReadFile(w.out)
	must(w.m.t, err)
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var l watched
		must(w.m.t, json.Unmarshal([]byte(line), &l))
		all = append(all, l)
	}
	return all
}
