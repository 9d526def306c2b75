// SPDX-License-Identifier: Apache-2.0

package decode

import "github.com/layertrace/layertrace/internal/tracecontext"

// Counter is a number of things seen, named by its reason.
type Counter struct {
	Name, Help string
	Value      uint64
}

type counts struct {
	packets, exchanges uint64

	otherLink, undecodable, notTCP, fragment, cut, otherPort uint64

	requests, malformed, multiSegment, optionLost         uint64
	outcomes                                              [tracecontext.Unparsable + 1]uint64
	requestInResponse, lateRequests                       uint64
	responseWithoutRequest, responseOfOther               uint64
	retransmits, outOfOrder, missed, pipelined, untracked uint64
}

// Counters returns what was seen and what was left out, and why.
func (d *Decoder) Counters() []Counter {
	c := &d.counts
	return []Counter{
		{"packets", "packets read", c.packets},
		{"exchanges", "exchanges emitted", c.exchanges},
		{"requests", "segments that began a request", c.requests},
		{"found", "requests with a sampled trace context", c.outcomes[tracecontext.Found]},
		{"unsampled", "requests whose sampling was denied", c.outcomes[tracecontext.Unsampled]},
		{"no_context", "requests without a trace context", c.outcomes[tracecontext.None]},
		{"truncated", "requests whose head went on behind the window", c.outcomes[tracecontext.Truncated]},
		{"unparsable", "segments that began as a request and had no HTTP/1 request line, taken as data", c.outcomes[tracecontext.Unparsable]},
		{"malformed_context", "trace context values that did not fit their form", c.malformed},
		{"multi_segment", "trace contexts found behind the first segment", c.multiSegment},
		{"option_lost", "exchanges whose TCP option was on the SYN only", c.optionLost},
		{"pipelined", "requests that followed before the response to the one before", c.pipelined},
		{"retransmits", "segments seen again", c.retransmits},
		{"out_of_order", "segments that left or filled a hole", c.outOfOrder},
		{"missed", "holes that were acknowledged: the capture lost packets", c.missed},
		{"late_request", "requests that passed behind one that was sent later, left out", c.lateRequests},
		{"request_in_response", "segments from a server that began as a request, taken as data", c.requestInResponse},
		{"response_without_request", "responses on connections without a request", c.responseWithoutRequest},
		{"response_of_other", "responses to pipelined requests that had ended", c.responseOfOther},
		{"untracked_data", "segments with payload on unknown connections", c.untracked},
		{"other_port", "segments on ports not chosen", c.otherPort},
		{"not_tcp", "packets that are not TCP over IPv4 or IPv6", c.notTCP},
		{"fragment", "IP fragments, not looked into", c.fragment},
		{"cut", "segments shortened by the capture's snapshot length", c.cut},
		{"undecodable", "packets with a broken header", c.undecodable},
		{"other_link", "packets of a link type that is not known", c.otherLink},
	}
}
