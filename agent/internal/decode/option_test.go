// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/internal/observe"
)

func tcpOption(kind layers.TCPOptionKind, data string) layers.TCPOption {
	return layers.TCPOption{OptionType: kind, OptionLength: uint8(2 + len(data)), OptionData: []byte(data)}
}

var (
	compact   = tcpOption(254, "LT\x01\x02\x03\x04\x05\x06\x07\x08\xff\x00\x00\x01")
	paperID   = tcpOption(253, "\xde\xad\xbe\xef")
	paperTime = tcpOption(254, "\x00\x00\x00\x01\x00\x00\x00\x02")
	other     = tcpOption(254, "XX\x01\x02\x03\x04\x05\x06\x07\x08\xff\x00\x00\x01")
	nop       = layers.TCPOption{OptionType: layers.TCPOptionKindNop, OptionLength: 1}
)

func TestOptions(t *testing.T) {
	const lost = observe.FlagOptionLost
	for name, c := range map[string]struct {
		syn, request []layers.TCPOption
		id           string
		time         uint64
		flags        observe.Flags
	}{
		"off":              {},
		"compact":          {[]layers.TCPOption{compact}, []layers.TCPOption{nop, nop, compact}, "0102030405060708", 0xff000001, 0},
		"compact, no SYN":  {nil, []layers.TCPOption{compact}, "0102030405060708", 0xff000001, 0},
		"compact, lost":    {[]layers.TCPOption{compact}, nil, "0102030405060708", 0xff000001, lost},
		"paper":            {nil, []layers.TCPOption{paperID, paperTime}, "deadbeef", 1<<32 + 2, 0},
		"paper, backwards": {nil, []layers.TCPOption{paperTime, nop, paperID}, "deadbeef", 1<<32 + 2, 0},
		"paper, lost":      {[]layers.TCPOption{paperID, paperTime}, []layers.TCPOption{nop}, "deadbeef", 1<<32 + 2, lost},
		"time alone":       {nil, []layers.TCPOption{paperTime}, "", 0, 0},
		"another's":        {nil, []layers.TCPOption{other}, "", 0, 0},
		"short ID":         {nil, []layers.TCPOption{tcpOption(253, "abc")}, "", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			talk := newTalk(t, Options{})
			talk.handshake(c.syn...)
			talk.client(get, c.request...)
			talk.client("body")
			talk.client(get, c.request...)
			for i, x := range talk.got {
				if x.ConnectionIDHex() != c.id || x.OptionTime != c.time || x.Flags&lost != c.flags {
					t.Errorf("exchange %d: ID %s, time %#x, flags %v", i, x.ConnectionIDHex(), x.OptionTime, x.Flags.Names())
				}
			}
			if len(talk.got) != 1 {
				t.Errorf("%d exchanges, want 1", len(talk.got))
			}
			if c.flags != 0 {
				talk.count("option_lost", 2)
			}
		})
	}
}
