// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/bpf"
)

// metric is a counter of a probe, without its value.
type metric struct {
	name string
	kind string // value of the label kind, "" without one
	desc *prometheus.Desc
}

func newMetric(name, help string) metric {
	return metric{name: name, desc: prometheus.NewDesc(name, help, nil, nil)}
}

// ofKind is one of several counters of a metric, one for each value of the label kind.
func ofKind(m metric, kind string) metric {
	m.kind = kind
	return m
}

func newMetricOfKinds(name, help string) metric {
	return metric{name: name, desc: prometheus.NewDesc(name, help, []string{"kind"}, nil)}
}

var (
	unreadableConnections = newMetricOfKinds("layertrace_connections_unreadable_total", "Connections at captured interfaces and sockets that begin with a protocol that is not read, by kind: tls or http2.")
	encapsulatedPackets   = newMetricOfKinds("layertrace_packets_encapsulated_total", "Packets at captured interfaces that have another packet inside, which is not read, by kind of encapsulation.")
)

// unseenCounters has a counter for each kind of traffic that the programs cannot read.
var unseenCounters = [...]metric{
	bpf.CaptureUnseenUNSEEN_TLS:       ofKind(unreadableConnections, "tls"),
	bpf.CaptureUnseenUNSEEN_HTTP2:     ofKind(unreadableConnections, "http2"),
	bpf.CaptureUnseenUNSEEN_VXLAN:     ofKind(encapsulatedPackets, "vxlan"),
	bpf.CaptureUnseenUNSEEN_GENEVE:    ofKind(encapsulatedPackets, "geneve"),
	bpf.CaptureUnseenUNSEEN_GRE:       ofKind(encapsulatedPackets, "gre"),
	bpf.CaptureUnseenUNSEEN_IPIP:      ofKind(encapsulatedPackets, "ipip"),
	bpf.CaptureUnseenUNSEEN_IP_IN_IP6: ofKind(encapsulatedPackets, "ip_in_ip6"),
	bpf.CaptureUnseenUNSEEN_MPLS:      ofKind(encapsulatedPackets, "mpls"),
	bpf.CaptureUnseenUNSEEN_PPPOE:     ofKind(encapsulatedPackets, "pppoe"),
	bpf.CaptureUnseenUNSEEN_ESP:       ofKind(encapsulatedPackets, "esp"),
	bpf.CaptureUnseenUNSEEN_WIREGUARD: ofKind(encapsulatedPackets, "wireguard"),
}

// captureCounters has a metric for each counter of the programs that capture.
var captureCounters = [...]metric{
	bpf.CaptureCounterCOUNTER_REQUESTS:            newMetric("layertrace_requests_total", "Segments that begin an HTTP/1 request."),
	bpf.CaptureCounterCOUNTER_CONTEXT_FOUND:       newMetric("layertrace_contexts_found_total", "Requests with a sampled trace context."),
	bpf.CaptureCounterCOUNTER_CONTEXT_UNSAMPLED:   newMetric("layertrace_contexts_unsampled_total", "Requests that are not sampled and therefore not recorded."),
	bpf.CaptureCounterCOUNTER_CONTEXT_NONE:        newMetric("layertrace_contexts_none_total", "Requests with a complete head but no trace context."),
	bpf.CaptureCounterCOUNTER_HEAD_TRUNCATED:      newMetric("layertrace_heads_truncated_total", "Requests without a trace context in the searched window, whose head exceeds it."),
	bpf.CaptureCounterCOUNTER_HEAD_UNPARSABLE:     newMetric("layertrace_heads_unparsable_total", "Segments that begin like a request but have no HTTP/1 request line."),
	bpf.CaptureCounterCOUNTER_NOT_CAPTURED:        newMetric("layertrace_requests_not_captured_total", "Requests not recorded at an interface or socket to keep within cpu-limit."),
	bpf.CaptureCounterCOUNTER_CONTEXT_MALFORMED:   newMetric("layertrace_contexts_malformed_total", "Requests with a malformed trace header."),
	bpf.CaptureCounterCOUNTER_CONTEXT_SEVERAL:     newMetric("layertrace_contexts_several_total", "Requests with trace contexts of different IDs (choose with context-format)."),
	bpf.CaptureCounterCOUNTER_RESPONSE_UNTRACKED:  newMetric("layertrace_responses_untracked_total", "Responses on connections without a tracked request."),
	bpf.CaptureCounterCOUNTER_REQUEST_IN_RESPONSE: newMetric("layertrace_requests_in_response_total", "Segments of a server that begin like a request, treated as data."),
	bpf.CaptureCounterCOUNTER_PIPELINED:           newMetric("layertrace_requests_pipelined_total", "Requests followed by another one before their response."),
	bpf.CaptureCounterCOUNTER_RETRANSMITTED:       newMetric("layertrace_segments_retransmitted_total", "Segments of tracked connections seen again."),
	bpf.CaptureCounterCOUNTER_OUT_OF_ORDER:        newMetric("layertrace_segments_out_of_order_total", "Segments of tracked connections seen out of order."),
	bpf.CaptureCounterCOUNTER_LATE:                newMetric("layertrace_segments_late_total", "Segments of exchanges already emitted, within about an idle timeout after that."),
	bpf.CaptureCounterCOUNTER_FRAGMENT:            newMetric("layertrace_packets_fragmented_total", "IP fragments, which are skipped."),
	bpf.CaptureCounterCOUNTER_PACKET_TRUNCATED:    newMetric("layertrace_packets_truncated_total", "TCP packets shorter than their headers say."),
	bpf.CaptureCounterCOUNTER_OPTION_READ:         newMetric("layertrace_options_read_total", "Layertrace TCP options read."),
	bpf.CaptureCounterCOUNTER_OPTION_UNTRUSTED:    newMetric("layertrace_options_untrusted_total", "Layertrace TCP options ignored because their source is not in a trusted prefix."),
	bpf.CaptureCounterCOUNTER_STARTED:             newMetric("layertrace_exchanges_started_total", "Exchanges begun."),
	bpf.CaptureCounterCOUNTER_EMITTED:             newMetric("layertrace_exchanges_emitted_total", "Exchanges written to the ring buffer."),
	bpf.CaptureCounterCOUNTER_RING_FULL:           newMetric("layertrace_exchanges_ring_full_total", "Exchanges lost because the ring buffer was full (raise ring-bytes)."),
	bpf.CaptureCounterCOUNTER_MAP_FULL:            newMetric("layertrace_connections_map_full_total", "Requests not recorded because the table of connections was full (raise max-connections)."),
	bpf.CaptureCounterCOUNTER_DISCARDED:           newMetric("layertrace_searches_discarded_total", "Searches beyond the prefix window (deep) ended by another request or the end of the connection."),
	bpf.CaptureCounterCOUNTER_SOCKET_FULL:         newMetric("layertrace_socket_storage_full_total", "Packets ignored because the state of their socket could not be stored (out of memory)."),
	bpf.CaptureCounterCOUNTER_DROPPED:             newMetric("layertrace_packets_dropped_total", "Packets of open exchanges that the kernel dropped at a watched interface or in the network namespace of a watched socket."),
	bpf.CaptureCounterCOUNTER_SCRATCH_BUSY:        newMetric("layertrace_segments_skipped_total", "Segments skipped because all working memory of their CPU was in use."),
	bpf.CaptureCounterCOUNTER_EVICTED:             newMetric("layertrace_exchanges_evicted_total", "Open exchanges reported before their end, with the flag evicted, to make room for others (raise max-connections)."),
	bpf.CaptureCounterCOUNTER_INCOMPLETE:          newMetric("layertrace_exchanges_incomplete_total", "Exchanges whose connection ended before their response did by its framing, with the flag incomplete."),
	bpf.CaptureCounterCOUNTER_OPEN_REPORT:         newMetric("layertrace_exchanges_open_reports_total", "Preliminary reports of exchanges that have been open for longer than open-span-after, with the flag still_open."),
	bpf.CaptureCounterCOUNTER_QUEUE_FULL:          newMetric("layertrace_requests_queue_full_total", "Pipelined requests that are not recorded because too many on their connection, or on the node, wait for a response."),
	bpf.CaptureCounterCOUNTER_SEARCH:              newMetric("layertrace_searches_total", "Request heads that were searched for a trace context beyond the prefix window (deep)."),
	bpf.CaptureCounterCOUNTER_SEARCH_BYTES:        newMetric("layertrace_search_bytes_total", "Bytes of request heads that were searched beyond the prefix window (deep), which trace headers at the start would save."),
	bpf.CaptureCounterCOUNTER_SEARCH_BUDGET:       newMetric("layertrace_searches_over_budget_total", "Request heads that were not searched, or not to their end, because the budget for searches beyond the prefix window was used up, or to keep within cpu-limit (raise deep-budget, or move the trace headers to the start)."),
	bpf.CaptureCounterCOUNTER_CONTEXT_BEHIND:      newMetric("layertrace_contexts_behind_window_total", "Requests whose trace context, sampled or not, was found beyond the prefix window (deep)."),
	bpf.CaptureCounterCOUNTER_FRAMING_LOST:        newMetric("layertrace_framing_lost_total", "Messages whose head or chunks could not be followed (their segments passed in another order, or more than 64 chunks were in one): their end is guessed, and pipelined requests after them may not be seen."),
	bpf.CaptureCounterCOUNTER_UNPROVEN:            newMetric("layertrace_requests_unproven_total", "Requests without a response that are not reported, as nothing shows that their connection exists: no handshake was seen, and the server has acknowledged nothing. Forged ones are, and real ones that reached nobody."),
	bpf.CaptureCounterCOUNTER_IMPLAUSIBLE:         newMetric("layertrace_segments_implausible_total", "Segments of tracked connections that are ignored, as their ends would ignore them by their sequence numbers (RFC 5961)."),
	bpf.CaptureCounterCOUNTER_OTHER_HOST:          newMetric("layertrace_packets_other_host_total", "Packets left out as they are for another host, at physical interfaces that do not pass such on (no ports of a bridge, no macvlan interfaces on them)."),
}

// optionCounters has a metric for each counter of the programs that write options.
var optionCounters = [...]metric{
	bpf.SockopsOptionCounterOPTION_COUNTER_WRITTEN: newMetric("layertrace_options_written_total", "Segments sent with layertrace's TCP options."),
	bpf.SockopsOptionCounterOPTION_COUNTER_NO_ROOM: newMetric("layertrace_options_no_room_total", "Segments sent without options because the TCP header had no room."),
	bpf.SockopsOptionCounterOPTION_COUNTER_LEARNED: newMetric("layertrace_options_learned_total", "Connections whose ID was learned from the peer's option."),
	bpf.SockopsOptionCounterOPTION_COUNTER_FAILED:  newMetric("layertrace_options_failed_total", "Options rejected by the kernel."),
}

// Counters of the reader.
var (
	receivedCounter   = newMetric("layertrace_exchanges_received_total", "Exchanges read from the ring buffer.")
	unreadableCounter = newMetric("layertrace_exchanges_unreadable_total", "Records that could not be decoded.")
	txMissingCounter  = newMetric("layertrace_tx_timestamps_missing_total", "Messages whose first or last byte was not seen in the qdisc that they passed: node driver time counts as relay network.")
)

// value is a counter with its value since Open.
type value struct {
	metric
	count uint64
}

// values returns all counters of the probe.
func (p *Probe) values() ([]value, error) {
	values, err := readCounters(p.kernel.Counters, captureCounters[:])
	if err != nil {
		return nil, err
	}
	unseen, err := readCounters(p.kernel.UnseenCounters, unseenCounters[:])
	if err != nil {
		return nil, err
	}
	values = append(values, unseen[1:]...) // the first kind is none
	if p.options != nil {
		more, err := readCounters(p.options.objs.OptionCounters, optionCounters[:])
		if err != nil {
			return nil, err
		}
		values = append(values, more...)
	}
	return append(values,
		value{receivedCounter, p.received.Load()},
		value{unreadableCounter, p.unreadable.Load()},
		value{txMissingCounter, p.txMissing.Load()}), nil
}

// readCounters reads the counters of a map.
func readCounters(m *ebpf.Map, metrics []metric) ([]value, error) {
	values := make([]value, len(metrics))
	for i, metric := range metrics {
		count, err := readCounter(m, uint32(i), metric.name)
		if err != nil {
			return nil, err
		}
		values[i] = value{metric, count}
	}
	return values, nil
}

// readCounter returns the sum over all CPUs.
func readCounter(m *ebpf.Map, key uint32, name string) (sum uint64, err error) {
	var perCPU []uint64
	if err := m.Lookup(key, &perCPU); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", name, err)
	}
	for _, v := range perCPU {
		sum += v
	}
	return sum, nil
}

func (p *Probe) counter(which bpf.CaptureCounter) (uint64, error) {
	return readCounter(p.kernel.Counters, uint32(which), captureCounters[which].name)
}

// Describe sends the descriptions of all counters.
func (p *Probe) Describe(out chan<- *prometheus.Desc) { describe(out) }

// Collect sends the counters. An error makes the scrape report this collector as
// failed.
func (p *Probe) Collect(out chan<- prometheus.Metric) {
	values, err := p.values()
	if err != nil {
		out <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	for _, v := range values {
		out <- v.sample()
	}
}

func (v value) sample() prometheus.Metric {
	var labels []string
	if v.kind != "" {
		labels = []string{v.kind}
	}
	return prometheus.MustNewConstMetric(v.desc, prometheus.CounterValue, float64(v.count), labels...)
}

// ZeroCounters collects every counter that a probe can have, each with value 0 unless Values
// has another one: to work on dashboards and alert rules without a kernel.
type ZeroCounters struct {
	// Values by the metric's name.
	Values map[string]func() uint64
}

// Describe sends the descriptions of all counters.
func (ZeroCounters) Describe(out chan<- *prometheus.Desc) { describe(out) }

// Collect sends the counters.
func (z ZeroCounters) Collect(out chan<- prometheus.Metric) {
	for _, m := range allMetrics() {
		v := value{m, 0}
		if now := z.Values[m.name]; now != nil {
			v.count = now()
		}
		out <- v.sample()
	}
}

func describe(out chan<- *prometheus.Desc) {
	described := map[string]bool{}
	for _, m := range allMetrics() {
		if !described[m.name] {
			out <- m.desc
		}
		described[m.name] = true
	}
}

func allMetrics() []metric {
	all := append([]metric{receivedCounter, unreadableCounter, txMissingCounter}, captureCounters[:]...)
	all = append(all, unseenCounters[1:]...)
	return append(all, optionCounters[:]...)
}
