// SPDX-License-Identifier: Apache-2.0

package observe

// Turn is what one capture point saw of an encrypted connection between two changes of
// direction: bytes from the client, then bytes from the server. It usually is an
// exchange. A response that begins before its request has ended makes several turns of
// one exchange; which bytes of a turn are neither request nor response (handshake,
// session tickets, alerts) only the sizes of the messages can tell.
type Turn struct {
	// Key has the connection's ends. The client is the end that sent the ClientHello, or,
	// on a connection whose handshake was not seen, the one that spoke first in a turn.
	Key
	// Interface and Direction, or Socket, are those of an Observation.
	Interface int
	Direction Direction
	Socket    *Socket
	// Number counts the turns of the connection at this point. Neighbours have
	// neighbouring numbers.
	Number uint64
	// Request is what the client sent, Response what the server sent.
	Request, Response TurnMessage
	// Retransmits, Drops and DropReason are those of an Observation.
	Retransmits uint32
	Drops       uint32
	DropReason  string
	// ZeroWindows is that of a Socket: in this turn.
	ZeroWindows uint32
	Flags       TurnFlags
}

// TurnMessage is one side's part of a Turn. The times and Packets of Message are those of
// segments with application data; Bytes is their TCP payload.
type TurnMessage struct {
	Message
	// LastLarge is Last without segments that have only records counted by Alerts and
	// KeyUpdates: the time of the last byte if those are no application data.
	LastLarge uint64
	// RecordBytes is the sum of the lengths in the headers of the application data records
	// (TLS content type 23), Records their number. The plain text is shorter by a constant
	// for each record: 17 bytes in TLS 1.3 (RFC 8446, section 5.2: content type and tag),
	// in TLS 1.2 24 with AES-GCM (RFC 5288) and 16 with ChaCha20-Poly1305 (RFC 7905).
	RecordBytes uint64
	Records     uint32
	// Leading are the first application data records of the message, at most MaxLeading.
	Leading []LeadingRecord
	// Alerts and KeyUpdates count the records that have the length of an encrypted alert
	// (19 bytes in TLS 1.3) and of a KeyUpdate (22), which application data can have too.
	// Records and RecordBytes contain them. Before the first other record of a message
	// they are not in Leading and do not count as its first byte. Those of the client after
	// the response has begun are part of the request: the end of an upload, or close_notify.
	Alerts, KeyUpdates uint32
}

// MaxLeading is the number of records whose lengths a Turn has for each message.
const MaxLeading = 4

// LeadingRecord is one of the first records of a message. Length is that of its header
// in bytes, First the time of its first byte in ns.
type LeadingRecord struct {
	Length uint16
	First  uint64
}

// TurnFlags are remarks about a Turn. The values are those of bpf/encrypted.bpf.c.
type TurnFlags uint32

// Flags of a turn.
const (
	// TurnOpen: more of the turn may come.
	TurnOpen TurnFlags = 1 << iota
	// TurnHandshake: the first turn after a handshake that was seen.
	TurnHandshake
	// TurnMiddle: the connection was already open when it was first seen, and this is its
	// first turn here. Bytes before it are missing.
	TurnMiddle
	// TurnDesynchronized: record headers were missed, so that RecordBytes and Records of
	// a message are not those of the whole.
	TurnDesynchronized
	// TurnOutOfOrder: segments passed in a different order than they were sent.
	TurnOutOfOrder
	// TurnPacketsMissing: bytes inside of a record did not pass.
	TurnPacketsMissing
	// TurnReset: RST ended the connection in this turn.
	TurnReset
	// TurnClosed: an end of the connection was closed (FIN) in this turn.
	TurnClosed
	// TurnTLS12: the handshake, of which the ServerHello was seen, is of TLS 1.2 or older.
	TurnTLS12
)

// Join says how surely an observation of encrypted bytes belongs to its trace.
type Join string

// Joins. Plain text needs none.
const (
	JoinNone Join = ""
	// JoinExact: times and the sizes of both messages fit.
	JoinExact Join = "exact"
	// JoinTime: the times fit only one exchange, and the sizes cannot be compared.
	JoinTime Join = "time"
	// JoinInferred: without a record of the proxy, by nesting in the plain text and sizes.
	JoinInferred Join = "inferred"
)
