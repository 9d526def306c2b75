// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

const outOfOrder = observe.FlagOutOfOrder

// TestCaptureLostTheResponse: the next request acknowledges a response that
// was not seen, so it is not pipelined, and what follows is its own.
func TestCaptureLostTheResponse(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.sseq += uint32(len(ok))
	c.client(get)
	c.server(ok)
	c.serverAt(-2*len(ok), ok) // had been delayed only: not the second one's
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), observe.Message{}, 0, noResponse|outOfOrder),
		expected(message(5, 5, 1, len(get)), message(6, 6, 1, len(ok)), 200, 0))
	c.count("missed", 1)
}

// TestCaptureLostTheRequestsEnd: the response acknowledges it, so the next
// request is in order again.
func TestCaptureLostTheRequestsEnd(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.cseq += 5
	c.server(ok)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, outOfOrder),
		expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
}

func TestCaptureLostARequest(t *testing.T) {
	c := newTalk(t, Options{Deep: true})
	c.handshake()
	c.client(get[:50])
	c.cseq += uint32(len(get) - 50)
	c.server(ok)
	c.cseq += uint32(len(get))
	c.server(ok)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(7, 7, 1, len(get)), message(8, 8, 1, len(ok)), 200, 0))
	c.count("missed", 2)
	c.count("truncated", 1)
}
