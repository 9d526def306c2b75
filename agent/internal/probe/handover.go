// SPDX-License-Identifier: Apache-2.0

package probe

import "github.com/layertrace/layertrace/internal/observe"

// release is what was seen of a message when its interface's queue let it go.
type release struct {
	// bypassed: the queue is passed by while it is empty, or there is none.
	bypassed bool
	// whole: the last byte was seen.
	whole bool
}

// transmitted returns when the driver got a message that left through an interface,
// of which the kernel says when the queue let the first byte it saw go, and when
// the last: out.Tx. What no queue let go has passed it by, or there is none:
// the driver got it when it was captured. Zero where the first or the last byte
// went through the queue unseen: kernels may leave out tracepoints' programs, and
// a driver may get it after the exchange was given out.
func transmitted(out *observe.Message, r release) observe.Extent {
	seen := out.Tx
	switch {
	case seen.Last == 0:
		return observe.Extent{First: out.First, Last: out.Last}
	case r.bypassed:
		if seen.First == 0 {
			seen.First = out.First
		}
		if !r.whole {
			seen.Last = max(seen.Last, out.Last)
		}
		return seen
	case seen.First == 0 || !r.whole:
		return observe.Extent{}
	default:
		return seen
	}
}

// txKnown reports whether it is known when the driver got the message that
// left through x's interface, if one did.
func txKnown(x *observe.Observation) bool {
	out := leaving(x)
	return out == nil || out.Packets == 0 || out.Tx != (observe.Extent{})
}

// leaving returns the message that leaves through x's interface. Nil: x is of a
// socket.
func leaving(x *observe.Observation) *observe.Message {
	switch {
	case x.Socket != nil:
		return nil
	case x.Direction == observe.DirectionIngress:
		return &x.Response
	default:
		return &x.Request
	}
}
