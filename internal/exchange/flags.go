// SPDX-License-Identifier: Apache-2.0

package exchange

import "slices"

// Flags is a set of remarks about an exchange. The values are those of the
// BPF side (bpf/include/exchange.h, enum exchange_flag).
type Flags uint32

// What can be unusual about an exchange.
const (
	// FlagNoResponse: nothing of a final response was seen.
	FlagNoResponse Flags = 1 << iota
	// FlagPipelined: a request followed before this one's response, or this
	// one followed so; response times are left out where they are not sure.
	FlagPipelined
	// FlagOutOfOrder: segments passed in another order than they were sent.
	FlagOutOfOrder
	// FlagInterim: an interim (1xx) response came before the final one.
	FlagInterim
	// FlagReset: the connection ended by RST before the exchange was over.
	FlagReset
	// FlagIdle: given up after the request timeout without an end.
	FlagIdle
	// FlagMalformed: a malformed trace context stood before the one used.
	FlagMalformed
	// FlagMultiSegment: the context was found behind the first segment.
	FlagMultiSegment
	// FlagOptionLost: the connection's SYN had the TCP option, the request not.
	FlagOptionLost
	// FlagUpgraded: status 101; what follows is not HTTP/1.
	FlagUpgraded
)

var flagNames = []string{
	"no_response", "pipelined", "out_of_order", "interim", "reset", "idle",
	"malformed_context", "multi_segment", "option_lost", "upgraded",
}

// Names returns the names of the set flags, never nil.
func (f Flags) Names() []string {
	names := []string{}
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// FlagsOf returns the flags with the names. Names that are not known are left
// out: a later version has more.
func FlagsOf(names []string) Flags {
	var f Flags
	for i, name := range flagNames {
		if slices.Contains(names, name) {
			f |= 1 << i
		}
	}
	return f
}
