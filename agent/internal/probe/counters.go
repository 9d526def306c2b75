// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/bpf"
)

// Counter is one monotonic count of the kernel side or of the reader.
type Counter struct {
	// Name without prefix and suffix, such as "requests" or "ring_full".
	Name string
	// Help is one sentence.
	Help string
	// Value since the probe was opened.
	Value uint64
}

type counterName struct{ name, help string }

// captureCounters are indexed by enum counter of bpf/include/counters.h.
var captureCounters = [...]counterName{
	bpf.CaptureCounterCOUNTER_REQUESTS:            {"requests", "Segments that begin an HTTP/1 request."},
	bpf.CaptureCounterCOUNTER_CONTEXT_FOUND:       {"contexts_found", "Requests whose sampled trace context was found."},
	bpf.CaptureCounterCOUNTER_CONTEXT_UNSAMPLED:   {"contexts_unsampled", "Requests that are not sampled: no record is made."},
	bpf.CaptureCounterCOUNTER_CONTEXT_NONE:        {"contexts_none", "Requests without a trace context in their whole head."},
	bpf.CaptureCounterCOUNTER_HEAD_TRUNCATED:      {"heads_truncated", "Requests whose head went beyond the searched window without a trace context."},
	bpf.CaptureCounterCOUNTER_HEAD_UNPARSABLE:     {"heads_unparsable", "Segments that begin like a request but have no HTTP/1 request line."},
	bpf.CaptureCounterCOUNTER_CONTEXT_MALFORMED:   {"contexts_malformed", "Requests with a malformed trace header."},
	bpf.CaptureCounterCOUNTER_RESPONSE_UNTRACKED:  {"responses_untracked", "Responses on connections without a tracked request."},
	bpf.CaptureCounterCOUNTER_REQUEST_IN_RESPONSE: {"requests_in_response", "Segments of a server that begin like a request, taken as data."},
	bpf.CaptureCounterCOUNTER_PIPELINED:           {"requests_pipelined", "Requests that were followed by another before their response."},
	bpf.CaptureCounterCOUNTER_RETRANSMITTED:       {"segments_retransmitted", "Segments of tracked connections seen again."},
	bpf.CaptureCounterCOUNTER_OUT_OF_ORDER:        {"segments_out_of_order", "Segments of tracked connections that passed out of order."},
	bpf.CaptureCounterCOUNTER_LATE:                {"segments_late", "Segments of exchanges that were already given out, up to an idle timeout before."},
	bpf.CaptureCounterCOUNTER_FRAGMENT:            {"packets_fragmented", "IP fragments, which are skipped."},
	bpf.CaptureCounterCOUNTER_PACKET_TRUNCATED:    {"packets_truncated", "TCP packets shorter than their headers say."},
	bpf.CaptureCounterCOUNTER_OPTION_READ:         {"options_read", "Layertrace TCP options read."},
	bpf.CaptureCounterCOUNTER_OPTION_UNTRUSTED:    {"options_untrusted", "Layertrace TCP options from outside the trusted prefixes, ignored."},
	bpf.CaptureCounterCOUNTER_STARTED:             {"exchanges_started", "Exchanges begun."},
	bpf.CaptureCounterCOUNTER_EMITTED:             {"exchanges_emitted", "Exchanges given to user space."},
	bpf.CaptureCounterCOUNTER_RING_FULL:           {"exchanges_ring_full", "Exchanges lost because the ring buffer was full (raise ring-bytes)."},
	bpf.CaptureCounterCOUNTER_MAP_FULL:            {"connections_map_full", "Requests lost because a connection could not be stored (raise max-connections)."},
	bpf.CaptureCounterCOUNTER_DISCARDED:           {"searches_discarded", "Deep searches ended by another request or the connection's end."},
	bpf.CaptureCounterCOUNTER_SOCKET_FULL:         {"socket_storage_full", "Packets of sockets whose state could not be stored (out of memory): the socket is not seen."},
	bpf.CaptureCounterCOUNTER_DROPPED:             {"packets_dropped", "Packets of open exchanges that the kernel dropped at a watched interface, or in the network namespace of a watched socket."},
	bpf.CaptureCounterCOUNTER_SCRATCH_BUSY:        {"segments_skipped", "Segments that were not looked at, because all working memory of their CPU was in use."},
}

// optionCounters are indexed by enum option_counter of bpf/sockops.bpf.c.
var optionCounters = [...]counterName{
	bpf.SockopsOptionCounterOPTION_COUNTER_WRITTEN: {"options_written", "Segments sent with layertrace's TCP options."},
	bpf.SockopsOptionCounterOPTION_COUNTER_NO_ROOM: {"options_no_room", "Segments sent without, because the TCP header had no room."},
	bpf.SockopsOptionCounterOPTION_COUNTER_LEARNED: {"options_learned", "Connections whose ID came from the peer's option."},
	bpf.SockopsOptionCounterOPTION_COUNTER_FAILED:  {"options_failed", "Options that the kernel refused."},
}

// readCounters sums a per-CPU counter map.
func readCounters(m *ebpf.Map, names []counterName) ([]Counter, error) {
	counters := make([]Counter, 0, len(names))
	var perCPU []uint64
	for i, n := range names {
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", n.name, err)
		}
		c := Counter{Name: n.name, Help: n.help}
		for _, v := range perCPU {
			c.Value += v
		}
		counters = append(counters, c)
	}
	return counters, nil
}

// CounterNames returns all counters that a probe can have, with value 0.
func CounterNames() []Counter {
	var all []Counter
	for _, names := range [][]counterName{captureCounters[:], optionCounters[:]} {
		for _, n := range names {
			all = append(all, Counter{Name: n.name, Help: n.help})
		}
	}
	return append(all, readerCounters(0, 0, 0, 0)...)
}

// readerCounters are those of what reads the ring buffer.
func readerCounters(received, unreadable, evicted, unhanded uint64) []Counter {
	return []Counter{
		{"exchanges_received", "Exchanges read from the ring buffer.", received},
		{"exchanges_unreadable", "Records that could not be decoded.", unreadable},
		{"exchanges_evicted", "Open exchanges lost because the connection map was full (raise max-connections).", evicted},
		{"tx_timestamps_missing", "Messages that went through their interface's queue and whose first or last byte was not seen there: the node driver is told together with what comes behind it.", unhanded},
	}
}

// Describe sends the descriptions of all counters.
func (p *Probe) Describe(out chan<- *prometheus.Desc) { ZeroCounters{}.Describe(out) }

// Collect sends the counters.
func (p *Probe) Collect(out chan<- prometheus.Metric) {
	counters, err := p.Counters()
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	for _, c := range counters {
		out <- prometheus.MustNewConstMetric(c.desc(), prometheus.CounterValue, float64(c.Value))
	}
}

func (c Counter) desc() *prometheus.Desc {
	return prometheus.NewDesc("layertrace_"+c.Name+"_total", c.Help, nil, nil)
}

// ZeroCounters collects every counter that a probe can have, each with value 0.
type ZeroCounters struct{}

// Describe sends the descriptions of all counters.
func (ZeroCounters) Describe(out chan<- *prometheus.Desc) {
	for _, c := range CounterNames() {
		out <- c.desc()
	}
}

// Collect sends the counters.
func (ZeroCounters) Collect(out chan<- prometheus.Metric) {
	for _, c := range CounterNames() {
		out <- prometheus.MustNewConstMetric(c.desc(), prometheus.CounterValue, 0)
	}
}
