// SPDX-License-Identifier: Apache-2.0

package probe

import "github.com/layertrace/layertrace/internal/exchange"

// handedOver reports whether the driver was seen to take the first and the last
// byte of the message that left through x's interface, if one did. A kernel may
// leave out tracepoints' programs, and a driver may take it after x was given
// out.
func handedOver(x *exchange.Exchange) bool {
	out := leaving(x)
	return out == nil || out.Packets == 0 || out.Handover != (exchange.Extent{})
}

// leaving returns the message that leaves through x's interface. Nil: x is of a
// socket.
func leaving(x *exchange.Exchange) *exchange.Message {
	switch {
	case x.Socket != nil:
		return nil
	case x.Direction == exchange.DirectionIngress:
		return &x.Response
	default:
		return &x.Request
	}
}
