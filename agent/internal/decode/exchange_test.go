// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

const noResponse = observe.FlagNoResponse

func TestKeepAlive(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(ok)
	c.emitted()
	c.client(get)
	c.emitted(expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, 0))
	c.client("body")
	c.server(strings.Replace(ok, "200", "503", 1))
	c.server("more")
	c.clientFIN()
	c.emitted()
	c.serverFIN("end")
	c.emitted(expected(message(6, 7, 2, len(get)+4), message(8, 11, 3, len(ok)+7), 503, 0))
	c.d.Flush()
	c.emitted()
	c.count("packets", 11)
	c.count("exchanges", 2)
	c.count("found", 2)
}

func TestConnectionUnderWay(t *testing.T) {
	c := newTalk(t, Options{})
	c.client("rest of a body")
	c.server(ok)
	c.emitted()
	c.count("untracked_data", 1)
	c.count("response_without_request", 1)
	c.client(get)
	c.server(ok)
	c.d.Flush()
	c.emitted(expected(message(3, 3, 1, len(get)), message(4, 4, 1, len(ok)), 200, 0))
}

func TestBinaryDataOnUnknownConnection(t *testing.T) {
	c := newTalk(t, Options{})
	c.server("GET \x00\x01\n\x02")
	c.client(get) // would be taken for the server's, had the data told who is the client
	c.d.Flush()
	c.emitted(expected(message(2, 2, 1, len(get)), observe.Message{}, 0, noResponse))
	c.count("unparsable", 1)
}

// TestOtherOutcomes: what starts no exchange ends the one before.
func TestOtherOutcomes(t *testing.T) {
	for counter, request := range map[string]string{
		"unsampled":  strings.Replace(get, "-01\r\n", "-00\r\n", 1),
		"no_context": strings.Replace(get, traceLine, "", 1),
		"truncated":  strings.Replace(get, traceLine, "cookie: "+strings.Repeat("c", DefaultPrefixWindow), 1),
	} {
		t.Run(counter, func(t *testing.T) {
			c := newTalk(t, Options{})
			c.handshake()
			c.client(request)
			c.server(ok)
			c.client(get)
			c.server(ok)
			c.client(request)
			c.server(ok)
			c.emitted(expected(message(6, 6, 1, len(get)), message(7, 7, 1, len(ok)), 200, 0))
			c.client(get)
			c.server(ok)
			c.d.Flush()
			c.emitted(expected(message(10, 10, 1, len(get)), message(11, 11, 1, len(ok)), 200, 0))
			c.count(counter, 2)
		})
	}
}

func TestMalformedContext(t *testing.T) {
	c := newTalk(t, Options{})
	c.handshake()
	bad := "b3: " + hex32 + "\r\n"
	c.client(strings.Replace(get, traceLine, bad+traceLine, 1))
	c.d.Flush()
	want := expected(message(4, 4, 1, len(get)+len(bad)), observe.Message{}, 0, noResponse|observe.FlagMalformed)
	want.Context.HeaderOffset += uint32(len(bad))
	c.emitted(want)
	c.count("malformed_context", 1)
}

func TestInterim(t *testing.T) {
	const proceed = "HTTP/1.1 100 Continue\r\n\r\n"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(proceed)
	c.client("body")
	c.server("HTTP/1.1 103 Early Hints\r\n\r\n")
	c.server(ok)
	c.server("HTTP/1.1 100 is in the body")
	c.d.Flush()
	c.emitted(expected(message(4, 6, 2, len(get)+4), message(8, 9, 2, len(ok)+27), 200, observe.FlagInterim))

	c = newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(proceed + ok)
	c.client(get)
	c.server(proceed)
	c.reset()
	c.emitted(
		expected(message(4, 4, 1, len(get)), message(5, 5, 1, len(ok)), 200, observe.FlagInterim),
		expected(message(6, 6, 1, len(get)), observe.Message{}, 0, observe.FlagInterim|observe.FlagReset|noResponse))
}

func TestUpgrade(t *testing.T) {
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	c := newTalk(t, Options{})
	c.handshake()
	c.client(get)
	c.server(upgrade)
	c.client("\x81ping")
	c.server("\x81pong")
	c.serverFIN("")
	c.emitted(expected(message(4, 6, 2, len(get)+5), message(5, 7, 2, len(upgrade)+5), 101, observe.FlagUpgraded))
}

func TestEnds(t *testing.T) {
	request, none := message(4, 4, 1, len(get)), observe.Message{}
	for name, c := range map[string]struct {
		end  func(*talk)
		want observe.Observation
	}{
		"reset":                         {(*talk).reset, expected(request, none, 0, observe.FlagReset|noResponse)},
		"server's FIN":                  {func(c *talk) { c.serverFIN("") }, expected(request, none, 0, noResponse)},
		"both FINs":                     {func(c *talk) { c.clientFIN(); c.serverFIN("") }, expected(request, none, 0, noResponse)},
		"new connection":                {func(c *talk) { c.cseq += 1 << 20; c.handshake() }, expected(request, none, 0, noResponse)},
		"end of capture":                {func(c *talk) { c.d.Flush() }, expected(request, none, 0, noResponse)},
		"FIN with all":                  {func(c *talk) { c.serverFIN(ok) }, expected(request, message(5, 5, 1, len(ok)), 200, 0)},
		"reset behind":                  {func(c *talk) { c.server(ok); c.reset() }, expected(request, message(5, 5, 1, len(ok)), 200, 0)},
		"reset behind the client's FIN": {func(c *talk) { c.clientFIN(); c.reset() }, expected(request, none, 0, observe.FlagReset|noResponse)},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake()
			talk.client(get)
			c.end(talk)
			talk.emitted(c.want)
			talk.clientAt(-len(get), get) // sent again behind the end: no second exchange
			talk.d.Flush()
			talk.emitted()
		})
	}
}
