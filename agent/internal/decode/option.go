// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"encoding/binary"

	"github.com/gopacket/gopacket/layers"
)

// option is what layertrace's sockops program wrote into the TCP header: the
// connection ID and the sender's time.
type option struct {
	id   []byte // nil: there was none
	time uint64
}

// Kinds for experiments (RFC 4727), and the identifier that tells our use of
// one from others (RFC 6994).
const (
	kindID   = 253 // paper: 4 random bytes
	kindTime = 254 // paper: 8 bytes of time
	kindBoth = 254 // compact: identifier, 8 bytes of ID, 4 bytes of time

	identifier = "LT"
)

// readOption finds either layout among the options of a TCP header.
func readOption(options []layers.TCPOption) option {
	var paper option
	for _, o := range options {
		data := o.OptionData
		switch {
		case o.OptionType == kindBoth && len(data) == 14 && bytes.HasPrefix(data, []byte(identifier)):
			return option{
				id:   bytes.Clone(data[2:10]),
				time: uint64(binary.BigEndian.Uint32(data[10:])),
			}
		case o.OptionType == kindID && len(data) == 4:
			paper.id = bytes.Clone(data)
		case o.OptionType == kindTime && len(data) == 8:
			paper.time = binary.BigEndian.Uint64(data)
		}
	}
	if paper.id == nil {
		return option{} // a lone time says nothing about whose it is
	}
	return paper
}
