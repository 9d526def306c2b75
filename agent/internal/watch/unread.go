// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"fmt"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/layertrace/layertrace/agent/internal/unseen"
)

// Names of the agent's metrics that the view asks for by name.
const (
	readyMetric    = "layertrace_ready"
	pointsMetric   = "layertrace_interfaces"
	requestsMetric = "layertrace_requests_total"
	startedMetric  = "layertrace_exchanges_started_total"
	emittedMetric  = "layertrace_exchanges_emitted_total"
)

// losses are the metrics that count what is not shown, or not whole, with the words for it.
var losses = []struct{ metric, what string }{
	{"layertrace_attach_failures_total", "failed attempts to capture at an interface"},
	{"layertrace_exchanges_ring_full_total", "exchanges lost, as the ring buffer was full"},
	{"layertrace_exchanges_unreadable_total", "exchanges that could not be decoded"},
	{"layertrace_exchanges_unknown_interface_total", "exchanges at interfaces that were gone"},
	{"layertrace_exchanges_evicted_total", "exchanges cut to make room for others"},
	{"layertrace_connections_map_full_total", "requests left out, as too many connections were open"},
	{"layertrace_requests_queue_full_total", "pipelined requests left out, as too many waited"},
	{"layertrace_requests_unproven_total", "requests left out, as nothing showed that their connection exists"},
	{"layertrace_requests_not_captured_total", "requests left out to take less CPU time"},
	{"layertrace_observations_over_cpu_limit_total", "exchanges left out to take less CPU time"},
	{"layertrace_searches_discarded_total", "requests left out, as their head did not end"},
	{"layertrace_heads_truncated_total", "request heads not searched to their end: the trace context, or the line, is missing"},
	{"layertrace_segments_skipped_total", "segments skipped, as all working memory was in use"},
	{"layertrace_socket_storage_full_total", "packets ignored for lack of memory"},
	{"layertrace_packets_fragmented_total", "IP fragments, which are not read"},
	{"layertrace_responses_untracked_total", "responses to requests that were not seen, such as those from before the start"},
	{"layertrace_framing_lost_total", "messages whose end was guessed"},
	{"layertrace_trace_observations_left_out_total", "exchanges left out, as their trace had too many"},
	{"layertrace_traces_not_split_total", "traces left out, as too many others waited"},
	{"layertrace_traces_split_early_total", "traces shown before all of them was there"},
	{"layertrace_trace_holds_full_total", "open exchanges that were not waited for"},
	{"layertrace_observations_late_total", "exchanges that came after their request was shown"},
}

// sights is what metrics say, at a time.
type sights struct {
	values map[string]float64 // by metric, summed over labels
	unread []unseen.Sight
}

func sightsOf(families []*dto.MetricFamily) sights {
	s := sights{values: map[string]float64{}, unread: unseen.Of(families)}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			s.values[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return s
}

func (s *sights) isReady() bool { return s.values[readyMetric] == 1 }

// remark is a text with what it is about, whatever its numbers are.
type remark struct{ about, text string }

// unreadRemarks are what passed that is not read, with advice that fits one machine.
func (s *sights) unreadRemarks() (all []remark) {
	for _, one := range s.unread {
		advice := one.Advice
		switch one.Kind {
		case "tls":
			advice = "encrypted, so their requests cannot be read: look where the traffic is plain, such as between a proxy and its application"
		case "http2":
			advice = "HTTP/2 and gRPC are not read"
		}
		all = append(all, remark{one.Kind + one.Where + one.Program, one.String() + ": " + advice})
	}
	return all
}

// lossRemarks are what was lost or left out.
func (s *sights) lossRemarks() (all []remark) {
	for _, l := range losses {
		if n := s.values[l.metric]; n > 0 {
			all = append(all, remark{l.metric, fmt.Sprintf("%.0f %s", n, l.what)})
		}
	}
	return all
}

func texts(some []remark) (all []string) {
	for _, r := range some {
		all = append(all, r.text)
	}
	return all
}

// whyNothing is why no line was shown so far, and what to do. notMatched is the number of
// requests that the filters left out.
func (s *sights) whyNothing(notMatched uint64) string {
	if !s.isReady() {
		return "Not capturing yet: the kernel checks the BPF programs."
	}
	var reasons []string
	switch open := s.values[startedMetric] - s.values[emittedMetric]; {
	case notMatched > 0:
		reasons = append(reasons, counted(notMatched, "request was seen, but does", "requests were seen, but do")+" not match the filters")
	case open > 0:
		reasons = append(reasons, "a request was seen, but has no complete response so far: it is shown when it ends")
	case s.values[requestsMetric] > 0:
		reasons = append(reasons, "requests were seen, but none is complete")
	default:
		reasons = append(reasons, "no HTTP/1 request has passed: send one from another terminal, such as curl http://localhost:8080/")
	}
	reasons = append(reasons, texts(s.unreadRemarks())...)
	reasons = append(reasons, texts(s.lossRemarks())...)
	return "Nothing to show: " + strings.Join(reasons, "; ") + "."
}

func counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// counts are what became of the requests that came to the view.
type counts struct {
	shown, notMatched, unknown, late, queueFull, pauseFull, afterCount, unwritten uint64
	marks                                                                         Marks // of those shown
	reasons                                                                       map[string]uint64
}

// note counts a request that is shown.
func (c *counts) note(r *Request) {
	c.shown++
	c.marks |= r.Marks
	if r.NotKnown != "" {
		c.unknown++
		if c.reasons == nil {
			c.reasons = map[string]uint64{}
		}
		c.reasons[r.NotKnown]++
	}
}

// summary is the lines at the end.
func (c *counts) summary(s *sights, seconds float64) (lines []string) {
	seen := c.shown + c.notMatched + c.queueFull + c.pauseFull + c.afterCount + c.unwritten
	line := fmt.Sprintf("%s in %.0f s: %d shown", counted(seen, "request", "requests"), seconds, c.shown)
	for _, part := range []struct {
		n    uint64
		what string
	}{
		{c.notMatched, "did not match the filters"},
		{c.afterCount, "came after --count was reached"},
		{c.queueFull, "were not shown, as lines were written too slowly"},
		{c.pauseFull, "were not shown, as too many came during a pause"},
		{c.unwritten, "could not be written"},
	} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	lines = append(lines, line+".")
	if c.unknown > 0 {
		var why []string
		for _, reason := range sortedKeys(c.reasons) {
			why = append(why, fmt.Sprintf("%s (%d)", reason, c.reasons[reason]))
		}
		lines = append(lines, fmt.Sprintf("Layer not known of %d, because %s.", c.unknown, strings.Join(why, ", ")))
	}
	if c.late > 0 {
		lines = append(lines, counted(c.late, "part of a request came after its line, which", "parts of requests came after their lines, which")+" may lack a layer.")
	}
	if seen == 0 {
		lines = append(lines, s.whyNothing(0))
		return lines
	}
	for _, l := range s.unreadRemarks() {
		lines = append(lines, "Not read: "+l.text+".")
	}
	if lost := s.lossRemarks(); len(lost) > 0 {
		lines = append(lines, "Lost or left out, counted at each interface and socket: "+strings.Join(texts(lost), "; ")+".")
	}
	return lines
}

// legend explains marks.
func (m Marks) legend() (lines []string) {
	for _, one := range marks {
		if m&one.mark != 0 {
			lines = append(lines, cmp.Or(one.text, " ")+" "+one.meaning)
		}
	}
	return lines
}
