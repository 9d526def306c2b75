// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"encoding/binary"
)

// option is the TCP option that layertrace's sockops program writes: the
// connection ID and the sender's time.
type option struct {
	id   []byte // nil: none
	time uint64
}

// Kinds for experiments (RFC 4727), and the identifier that distinguishes our
// use of one (RFC 6994).
const (
	kindID   = 253 // paper: 4 random bytes
	kindTime = 254 // paper: 8 bytes of time
	kindBoth = 254 // compact: identifier, 8 bytes of ID, 4 bytes of time

	identifier = "LT"
)

// Kinds without a length (RFC 9293, section 3.2).
const (
	kindEnd = 0
	kindNOP = 1
)

// readOption finds either layout among the options of a TCP header.
func readOption(options []byte) option {
	var paper option
	for len(options) > 0 {
		kind := options[0]
		if kind == kindEnd {
			break
		}
		if kind == kindNOP {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			break
		}
		data := options[2:options[1]]
		options = options[options[1]:]
		switch {
		case kind == kindBoth && len(data) == 14 && bytes.HasPrefix(data, []byte(identifier)):
			return option{
				id:   bytes.Clone(data[2:10]),
				time: uint64(binary.BigEndian.Uint32(data[10:])),
			}
		case kind == kindID && len(data) == 4:
			paper.id = bytes.Clone(data)
		case kind == kindTime && len(data) == 8:
			paper.time = binary.BigEndian.Uint64(data)
		}
	}
	if paper.id == nil {
		return option{} // a time alone may be another protocol's
	}
	return paper
}
