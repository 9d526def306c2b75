// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"context"
	"encoding/json"
	"errors"
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
// trace context and without one. The container's application takes 40 ms: with a context that
// is the layer of all three, without one of its own hop, and the marks say what the others'
// times are. A filtered run shows the container's hop only.
func TestWatch(t *testing.T) {
	m := newMachine(t)
	m.start("stock", "docker-"+container+".scope")
	m.start("shop", "shop.service")
	m.start("edge", "edge.service")
	stock := container[:12] // the short ID: no runtime knows it

	all := m.watch("all", "--path=/watched-*", "--count=6")
	const trace = "00000000000000000000000000000001"
	m.get(trace, "watched-traced", "session-1.scope")
	m.get("", "watched-plain", "session-2.scope")
	lines := all.lines()
	for _, hop := range [][2]string{{"plain.test", "edge"}, {"edge", "shop"}, {"shop", stock}} {
		traced := one(t, lines, hop, "/watched-traced")
		if traced.TraceID != trace || slices.Contains(traced.Marks, "no_context") {
			t.Errorf("%+v", traced)
		}
		checkSlow(t, traced, stock)
		plain := one(t, lines, hop, "/watched-plain")
		if plain.TraceID != "" || !slices.Contains(plain.Marks, "no_context") {
			t.Errorf("%+v", plain)
		}
		checkSlow(t, plain, hop[1]) // what it calls is its own time, as marked
	}
	if text := all.said(); !strings.Contains(text, "6 shown") {
		t.Errorf("stderr is %q", text)
	}

	slow := m.watch("filtered", "--path=/filtered", "--service="+stock, "--status=2xx", "--min-duration=40ms", "--layer=application", "--count=1")
	m.get("", "filtered", "session-3.scope")
	lines = slow.lines()
	checkSlow(t, one(t, lines, [2]string{"shop", stock}, "/filtered"), stock)
	if len(lines) != 1 {
		t.Errorf("%d lines, want 1: %+v", len(lines), lines)
	}
}

// one returns the only line of a hop and path.
func one(t *testing.T, lines []watched, hop [2]string, path string) (found watched) {
	t.Helper()
	n := 0
	for _, l := range lines {
		if l.Client == hop[0] && l.Server == hop[1] && l.Path == path {
			found = l
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d lines of %v %s, want 1: %+v", n, hop, path, lines)
	}
	return found
}

// checkSlow checks that a line's longest layer is the application of a service.
func checkSlow(t *testing.T, l watched, service string) {
	t.Helper()
	if len(l.Layers) == 0 || l.Layers[0].Layer != "application" || l.Layers[0].Location != service ||
		l.Layers[0].Time < stockTakes.Nanoseconds() || l.Layers[0].Time > l.Duration || l.Status != 200 || l.Method != "GET" {
		t.Errorf("%+v, want %v or more in the application of %s", l, stockTakes, service)
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
		Name: name, Path: m.tools.Agent, Args: append([]string{"try", "--local", "--output=json", "--for=60s", "--ports=" + strings.Join([]string{edgePort, shopPort, stockPort}, ",")}, args...),
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

// lines waits for its end and returns its lines.
func (w *watching) lines() (all []watched) {
	w.m.t.Helper()
	ctx, cancel := context.WithTimeout(interrupted, 90*time.Second)
	defer cancel()
	if err := w.process.Wait(ctx); err != nil {
		w.m.t.Fatalf("%v\n%s", err, w.process.Tail())
	}
	text, err := os.ReadFile(w.out)
	must(w.m.t, err)
	for line := range strings.Lines(string(text)) {
		var l watched
		must(w.m.t, json.Unmarshal([]byte(line), &l))
		all = append(all, l)
	}
	return all
}
