// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/layertrace/layertrace/agent/internal/breakdown"
)

const (
	// maxQueued is the number of requests that wait for their line to be written.
	maxQueued = 8192
	// maxPaused is the number of requests that a pause keeps, the latest ones.
	maxPaused = 1000
	// tickInterval is the time between two looks at what is not shown.
	tickInterval = 250 * time.Millisecond
	// hintInterval is the time between two remarks about what is not shown, and before the
	// first one.
	hintInterval = 3 * time.Second
	// readyTime is the time after which --for counts although the agent is not ready.
	readyTime = 10 * time.Second
)

// Options of a View.
type Options struct {
	// Out gets the lines, Err all remarks.
	Out, Err io.Writer
	// Width returns the width of Out in characters, 0 without a limit; nil: no limit.
	Width func() int
	// Header writes a line with the names of the columns first.
	Header bool
	// JSON writes JSON lines instead of text.
	JSON   bool
	Filter Filter
	// Count is the number of lines after which the view ends, For the time; 0: no end.
	Count uint64
	For   time.Duration
	// Keys are what the user presses: space and p pause, q ends. nil: there are none.
	Keys <-chan byte
	// Stop ends the capture. The view calls it once.
	Stop func()
}

// View shows requests as they come.
type View struct {
	opts      Options
	queue     chan Request
	queueFull atomic.Uint64
	late      atomic.Uint64
	passed    [2]map[requestKey]period // of Trace: the latest requests, and those before

	mu   sync.Mutex // guards seen
	seen sights

	// The rest is Run's.
	counts  counts
	began   time.Time
	ready   bool
	limit   <-chan time.Time
	hint    string          // the latest, without digits
	hinted  time.Time       // when
	about   map[string]bool // what was remarked
	paused  bool
	kept    []Request // during a pause
	stopped bool
	failed  error
}

// maxPassed is the number of requests that are known to have a line, twice.
const maxPassed = 8192

// period is when a request was seen.
type period struct{ first, last uint64 }

// New returns a view.
func New(opts Options) *View {
	return &View{
		opts: opts, queue: make(chan Request, maxQueued), about: map[string]bool{},
		passed: [2]map[requestKey]period{{}, {}},
	}
}

// Trace takes what was seen of a trace. It never waits: requests that find no room are
// counted. again: others of the trace came before.
func (v *View) Trace(tree *breakdown.Tree, cut, again bool, wall func(uint64) time.Time) {
	for _, r := range requestsOf(tree, cut, wall) {
		if again && v.hasLine(&r) {
			v.late.Add(1)
			continue
		}
		if again && r.TraceID != "" {
			r.Marks |= MarkGuessed // the other requests of its trace may be part of it
		}
		if len(v.passed[0]) >= maxPassed {
			v.passed[0], v.passed[1] = map[requestKey]period{}, v.passed[0]
		}
		v.passed[0][r.key] = period{r.first, r.last}
		select {
		case v.queue <- r:
		default:
			v.queueFull.Add(1)
		}
	}
}

// hasLine reports whether what came is a late part of a request that came before.
func (v *View) hasLine(r *Request) bool {
	for _, some := range v.passed {
		if p, ok := some[r.key]; ok && r.first <= p.last && p.first <= r.last {
			return true
		}
	}
	return false
}

// Metrics takes the agent's metrics of now.
func (v *View) Metrics(families []*dto.MetricFamily) {
	s := sightsOf(families)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen.values == nil {
		v.seen.values = map[string]float64{}
	}
	maps.Copy(v.seen.values, s.values)
	v.seen.unread = s.unread
}

func (v *View) sights() sights {
	v.mu.Lock()
	defer v.mu.Unlock()
	return sights{values: maps.Clone(v.seen.values), unread: v.seen.unread}
}

// Run shows requests until ctx is done, the user ends it, or Count or For is reached; then it
// calls Stop, shows what still comes until captured is closed, and sums up. It returns an error
// if lines cannot be written.
func (v *View) Run(ctx context.Context, captured <-chan struct{}) error {
	v.began = time.Now()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	keys, done := v.opts.Keys, ctx.Done()
	for captured != nil {
		select {
		case <-captured:
			captured = nil
		case r := <-v.queue:
			v.take(&r)
		case k, ok := <-keys:
			if !ok {
				keys = nil
			}
			v.press(k)
		case now := <-tick.C:
			v.look(now)
		case <-v.limit:
			v.stop()
		case <-done:
			done = nil
			v.stop()
		}
	}
	v.stop()
	for len(v.queue) > 0 {
		r := <-v.queue
		v.take(&r)
	}
	v.sumUp()
	return v.failed
}

// stop ends the capture, and a pause.
func (v *View) stop() {
	if !v.stopped {
		v.stopped = true
		v.resume()
		v.opts.Stop()
	}
}

// take shows a request, if it is to be shown now.
func (v *View) take(r *Request) {
	switch {
	case !v.opts.Filter.Matches(r):
		v.counts.notMatched++
	case v.opts.Count > 0 && v.counts.shown >= v.opts.Count:
		v.counts.afterCount++
	case v.paused:
		if len(v.kept) == maxPaused {
			v.kept = slices.Delete(v.kept, 0, 1)
			v.counts.pauseFull++
		}
		v.kept = append(v.kept, *r)
	default:
		v.show(r)
	}
}

func (v *View) show(r *Request) {
	if fresh := r.Marks &^ v.counts.marks; fresh != 0 && !v.opts.JSON {
		for _, line := range fresh.legend() {
			v.remark("%s", line)
		}
	}
	if v.failed == nil {
		v.failed = v.write(r)
	}
	if v.failed != nil {
		v.counts.unwritten++
		v.stop()
		return
	}
	v.counts.note(r)
	if v.opts.Count > 0 && v.counts.shown >= v.opts.Count {
		v.stop()
	}
}

func (v *View) write(r *Request) error {
	line := ""
	if v.opts.JSON {
		text, err := jsonLine(r)
		if err != nil {
			return err
		}
		line = string(text)
	} else {
		line = v.columns().line(r)
	}
	_, err := fmt.Fprintln(v.opts.Out, line)
	return err
}

func (v *View) columns() columns {
	if v.opts.Width == nil {
		return columnsOf(0)
	}
	return columnsOf(v.opts.Width())
}

// remark writes what is no request, in a terminal in lines of its width.
func (v *View) remark(format string, args ...any) {
	width := 0
	if v.opts.Width != nil {
		width = max(v.opts.Width(), minWidth)
	}
	fmt.Fprintln(v.opts.Err, folded("-- "+fmt.Sprintf(format, args...), width))
}

// press handles a key.
func (v *View) press(k byte) {
	const controlC, controlD = 3, 4
	switch k {
	case ' ', 'p':
		if v.paused {
			v.resume()
		} else if !v.stopped {
			v.paused = true
			v.remark("paused: space goes on, q ends")
		}
	case 'q', controlC, controlD:
		v.stop()
	}
}

// resume shows what came during a pause.
func (v *View) resume() {
	if !v.paused {
		return
	}
	v.paused = false
	if v.counts.pauseFull > 0 {
		v.remark("the pause kept the latest %d requests", maxPaused)
	}
	v.remark("going on")
	for kept := v.kept; len(kept) > 0; kept = kept[1:] {
		v.take(&kept[0])
	}
	v.kept = nil
}

// look says when the capture begins, and why nothing is shown.
func (v *View) look(now time.Time) {
	s := v.sights()
	if !v.ready && s.isReady() {
		v.ready = true
		v.hinted = now
		keys := ""
		if v.opts.Keys != nil {
			keys = "; space pauses, q ends"
		}
		v.remark("watching HTTP/1 requests at sockets and at %s%s", counted(uint64(s.values[pointsMetric]), "interface", "interfaces"), keys)
		if v.opts.Header && !v.opts.JSON && v.failed == nil {
			_, v.failed = fmt.Fprintln(v.opts.Out, v.columns().header())
		}
	}
	if v.limit == nil && v.opts.For > 0 && (v.ready || now.Sub(v.began) >= readyTime) {
		v.limit = time.After(v.opts.For)
	}
	if v.paused || v.stopped || now.Sub(cmp.Or(v.hinted, v.began)) < hintInterval {
		return
	}
	fresh := slices.DeleteFunc(append(s.unreadRemarks(), s.lossRemarks()...), func(r remark) bool { return v.about[r.about] })
	hint := ""
	switch {
	case v.counts.shown == 0:
		hint = s.whyNothing(v.counts.notMatched)
	case len(fresh) > 0:
		hint = "Not shown: " + strings.Join(texts(fresh), "; ") + "."
	}
	for _, r := range fresh {
		v.about[r.about] = true
	}
	if same := withoutDigits(hint); hint != "" && same != v.hint {
		v.hint, v.hinted = same, now
		v.remark("%s", hint)
	}
}

// withoutDigits is what a remark says, whatever its numbers are.
func withoutDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

// sumUp writes what was seen, what did not match, and what was lost.
func (v *View) sumUp() {
	v.counts.queueFull, v.counts.late = v.queueFull.Load(), v.late.Load()
	s := v.sights()
	if v.ready {
		s.values[readyMetric] = 1 // an agent that ends is not ready any more
	}
	for _, line := range v.counts.summary(&s, time.Since(v.began).Seconds()) {
		v.remark("%s", line)
	}
}

func sortedKeys(m map[string]uint64) []string { return slices.Sorted(maps.Keys(m)) }
