// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"net/http"

	"github.com/layertrace/layertrace/internal/observe"
)

// fromServer takes payload on its way to the client.
func (c *connection) fromServer(s segment, o order, fresh uint32) {
	if o != repeated && s.beginsRequest() {
		c.d.counts.requestInResponse++
	}
	if o == repeated && fresh == 0 {
		c.addToResponse(s, o, 0)
		return
	}
	if c.current != nil && c.current.head != nil {
		c.settle(true) // answered before its head was whole
	}
	code, starts := status(s.payload)
	for starts && isInterim(code) && o != repeated && !c.hasStatus() {
		c.interim()
		rest, ok := behindHead(s.payload)
		if !ok {
			return
		}
		// The final response stands right behind, in the same segment.
		skipped := uint32(len(s.payload) - len(rest))
		s.payload, s.seq, s.size, fresh = rest, s.seq+skipped, s.size-skipped, fresh-min(fresh, skipped)
		code, starts = status(rest)
	}
	starts = starts && o != repeated
	other, startOfOther := c.owed.other(starts)
	if startOfOther {
		c.d.counts.responseOfOther++
	}
	if other {
		return
	}
	c.owed.waiting = false
	if c.current == nil {
		return
	}
	if starts {
		c.current.startResponse(code, o)
	}
	c.addToResponse(s, o, fresh)
}

// behindHead returns what follows an interim response in its segment.
func behindHead(payload []byte) ([]byte, bool) {
	_, rest, ok := bytes.Cut(payload, []byte("\r\n\r\n"))
	return rest, ok && len(rest) > 0
}

// hasStatus reports whether the current exchange's final response has begun;
// what follows is its body, whatever it looks like.
func (c *connection) hasStatus() bool { return c.current != nil && c.current.Status != 0 }

func (c *connection) interim() {
	if c.current != nil && c.owed.earlier == 0 && c.current.Response.Packets == 0 {
		c.current.Flags |= observe.FlagInterim
	}
}

// startResponse takes the status of the final response.
func (x *open) startResponse(code int, o order) {
	if x.Status != 0 {
		return // a body that looks like a response
	}
	if x.Response.Packets > 0 && o == inOrder {
		// What came before the status line was the rest of the response to
		// an earlier request.
		x.Response = observe.Message{}
		x.Flags |= observe.FlagPipelined
	}
	x.Status = code
	if code == http.StatusSwitchingProtocols {
		x.Flags |= observe.FlagUpgraded
	}
}

// addToResponse adds payload to the current exchange, if it belongs there.
func (c *connection) addToResponse(s segment, o order, fresh uint32) {
	x := c.current
	if x == nil || x.responseSeqKnown && after(s.seq, x.responseSeq) < 0 {
		return
	}
	x.add(&x.Response, s, o, fresh)
}
