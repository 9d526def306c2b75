// SPDX-License-Identifier: Apache-2.0

// Package span is the codec between observations and spans. An exchange has one span
// per capture point, a child of the span of the proxy that sent the request. One
// table (fields) defines all attributes, for writing, for reading and for
// docs/attributes.md.
package span

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/recent"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

//go:generate go test . -run TestDocumentationListsAllAttributes -update

// ScopeName is the instrumentation scope of all spans of layertrace.
const ScopeName = "github.com/layertrace/layertrace"

// field is one attribute of an observation's span. Each attribute costs CPU, network
// and storage in every span, so a value that was not seen, or that equals the default
// of an absent attribute, is not written.
type field struct {
	key attribute.Key
	// typ, unit, meaning and section are for docs/attributes.md.
	typ, unit, meaning string
	section            string
	// get sets the value and returns whether the attribute is written.
	get func(o *observe.Observation, start uint64, v *attribute.Value) bool
	// set reads the attribute, or applies its default if it is absent. The fields are
	// set in the order of the table.
	set func(o *observe.Observation, start uint64, in input) error
}

// Keys that are used more than once.
const (
	keyMonotonic = attribute.Key("layertrace.monotonic_ns")
	keyFlags     = attribute.Key("layertrace.flags")
	keySide      = attribute.Key("layertrace.socket.side")
)

// Sections of docs/attributes.md.
const (
	sectionStandard = "standard"
	sectionSeen     = "seen"
	sectionTimes    = "times"
	sectionFarTimes = "app and tx times"
	sectionAcks     = "acknowledgements"
	sectionSizes    = "sizes"
	sectionOption   = "option"
	sectionPeers    = "peers"
)

// fields are the attributes of an observation's span. A field comes before those that
// it is the default of.
var fields = []field{
	// Capture.
	{
		key: "layertrace.direction", typ: "string", section: sectionSeen,
		meaning: "direction of the request through the interface: `ingress` (into the host) or `egress`; absent at a socket",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(o.Direction.String())
			return o.Socket == nil
		},
		set: setDirection,
	},
	{
		key: keySide, typ: "string", section: sectionSeen,
		meaning: "`client`: the socket sent the request, `server`: it received it",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			if o.Socket == nil {
				return false
			}
			*v = attribute.StringValue(sideOf(o.Socket))
			return true
		},
		set: setSide,
	},
	count("layertrace.socket.cookie", "", sectionSeen, "identifies the socket on its node (`SO_COOKIE`, socket(7); `ss -e` shows it as `sk`)",
		func(o *observe.Observation) *uint64 {
			return socketField(o, func(s *observe.Socket) *uint64 { return &s.Cookie })
		}, nil),
	{
		key: "layertrace.context.format", typ: "string", section: sectionSeen,
		meaning: "format of the trace context: " + formatList() + "; absent at a socket",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(o.Context.Format.String())
			return o.Socket == nil
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			if format, err := tracecontext.ParseFormat(in.text()); err == nil {
				o.Context.Format = format // unknown formats are of later versions
			}
			return nil
		},
	},
	{
		key: "layertrace.context.offset_bytes", typ: "int", unit: "bytes", section: sectionSeen,
		meaning: "offset in the request of the line with the context; absent at a socket",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.Int64Value(int64(o.Context.HeaderOffset))
			return o.Socket == nil
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			return in.count32(&o.Context.HeaderOffset, 0)
		},
	},
	{
		key: "layertrace.join", typ: "string", section: sectionSeen,
		meaning: "how surely encrypted bytes belong to the request: `exact` (times and sizes are those of the proxy's record), `time` (the times fit no other, and the sizes cannot be compared), `inferred` (without a record, from the plain text inside of the pod); absent: the bytes are plain text",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(string(o.Join))
			return o.Join != observe.JoinNone
		},
		set: func(o *observe.Observation, _ uint64, in input) error { o.Join = observe.Join(in.text()); return nil },
	},
	// Endpoints.
	addressField(semconv.ClientAddressKey, "address of the client, as seen at this point (before or after address translation)",
		func(o *observe.Observation) *netip.AddrPort { return &o.Client }),
	portField(semconv.ClientPortKey, "its TCP port", func(o *observe.Observation) *netip.AddrPort { return &o.Client }),
	addressField(semconv.ServerAddressKey, "address of the server, as seen at this point",
		func(o *observe.Observation) *netip.AddrPort { return &o.Server }),
	portField(semconv.ServerPortKey, "its TCP port", func(o *observe.Observation) *netip.AddrPort { return &o.Server }),
	{
		key: semconv.NetworkTypeKey, typ: "string", section: sectionStandard, meaning: "`ipv6`; absent: IPv4",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = semconv.NetworkTypeIPv6.Value
			return !o.Server.Addr().Unmap().Is4()
		},
		set: ignore, // the address shows it
	},
	textField(semconv.HTTPRequestMethodKey, "method of the request", func(o *observe.Observation) *string { return &o.Method }),
	textField(semconv.URLPathKey, "path of the request without query, cut after the part of the request line that is kept (96 bytes with the method); absent with `request-paths: false`", func(o *observe.Observation) *string { return &o.Path }),
	{
		key: semconv.HTTPResponseStatusCodeKey, typ: "int", section: sectionStandard, meaning: "status of the final response",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.Int64Value(int64(o.Status))
			return o.Status != 0
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			status, err := in.count(0, 999)
			o.Status = int(status)
			return err
		},
	},
	// Times.
	{
		key: keyMonotonic, typ: "int", unit: "ns", section: sectionTimes,
		meaning: "start of the span on the node's `CLOCK_MONOTONIC`: comparable between the points of one node, never between nodes",
		get: func(_ *observe.Observation, start uint64, v *attribute.Value) bool {
			*v = attribute.Int64Value(int64(start))
			return true
		},
		set: ignore, // Decode reads it first: all other times are relative to it
	},
	offset("layertrace.request.first_ns", sectionTimes, "first byte of the request, from the span's start; absent: 0",
		func(o *observe.Observation) *uint64 { return &o.Request.First },
		func(_ *observe.Observation, start uint64) uint64 { return start }),
	offset("layertrace.request.last_ns", sectionTimes, "last byte of the request; absent: the time of the first, as in a request of one TCP segment",
		func(o *observe.Observation) *uint64 { return &o.Request.Last },
		func(o *observe.Observation, _ uint64) uint64 { return o.Request.First }),
	offset("layertrace.response.first_ns", sectionTimes, "first byte of the response; absent: no response was seen",
		func(o *observe.Observation) *uint64 { return &o.Response.First }, never),
	offset("layertrace.response.last_ns", sectionTimes, "last byte of the response; absent: the time of the first",
		func(o *observe.Observation) *uint64 { return &o.Response.Last },
		func(o *observe.Observation, _ uint64) uint64 { return o.Response.First }),
	offset("layertrace.request.app_first_ns", sectionFarTimes, "the application wrote (client) or read (server) the first byte of the request; absent: unknown",
		func(o *observe.Observation) *uint64 { return &o.Request.App.First }, never),
	offset("layertrace.request.app_last_ns", sectionFarTimes, "its last byte; absent: the time of the first",
		func(o *observe.Observation) *uint64 { return &o.Request.App.Last },
		func(o *observe.Observation, _ uint64) uint64 { return o.Request.App.First }),
	offset("layertrace.response.app_first_ns", sectionFarTimes, "the application wrote (server) or read (client) the first byte of the response; absent: unknown",
		func(o *observe.Observation) *uint64 { return &o.Response.App.First }, never),
	offset("layertrace.response.app_last_ns", sectionFarTimes, "its last byte; absent: the time of the first",
		func(o *observe.Observation) *uint64 { return &o.Response.App.Last },
		func(o *observe.Observation, _ uint64) uint64 { return o.Response.App.First }),
	offset("layertrace.request.tx_first_ns", sectionFarTimes, "the interface's queue gave the first byte of the request to the driver; absent: unknown",
		func(o *observe.Observation) *uint64 { return &o.Request.Tx.First }, never),
	offset("layertrace.request.tx_last_ns", sectionFarTimes, "its last byte; absent: the time of the first",
		func(o *observe.Observation) *uint64 { return &o.Request.Tx.Last },
		func(o *observe.Observation, _ uint64) uint64 { return o.Request.Tx.First }),
	offset("layertrace.response.tx_first_ns", sectionFarTimes, "the interface's queue gave the first byte of the response to the driver; absent: unknown",
		func(o *observe.Observation) *uint64 { return &o.Response.Tx.First }, never),
	offset("layertrace.response.tx_last_ns", sectionFarTimes, "its last byte; absent: the time of the first",
		func(o *observe.Observation) *uint64 { return &o.Response.Tx.Last },
		func(o *observe.Observation, _ uint64) uint64 { return o.Response.Tx.First }),
	offset("layertrace.request.acknowledged_ns", sectionAcks, "the request was acknowledged, at the client's socket; absent: unknown",
		func(o *observe.Observation) *uint64 { return &o.Request.Acknowledged }, never),
	offset("layertrace.response.acknowledged_ns", sectionAcks, "the response was acknowledged, at the server's socket; absent: unknown, or not before the next request",
		func(o *observe.Observation) *uint64 { return &o.Response.Acknowledged }, never),
	count("layertrace.request.waited_ns", "ns", sectionAcks, "time for which the client had more of the request to send, but TCP waited for acknowledgements or for the server's receive window, at the client's socket; absent: 0",
		func(o *observe.Observation) *uint64 { return &o.Request.Waited }, nil),
	count("layertrace.request.held_ns", "ns", sectionAcks, "the part of it in which the window had no room; absent: 0",
		func(o *observe.Observation) *uint64 { return &o.Request.Held }, nil),
	count("layertrace.request.stalled_ns", "ns", sectionAcks, "the part of that in which nothing was in flight: the server did not read; absent: 0",
		func(o *observe.Observation) *uint64 { return &o.Request.Stalled }, nil),
	count("layertrace.request.unread_ns", "ns", sectionAcks, "time for which data of the request in the receive queue, not read, kept the client from sending, until the last byte arrived, at the server's socket; absent: 0",
		func(o *observe.Observation) *uint64 { return &o.Request.Unread }, nil),
	count("layertrace.response.waited_ns", "ns", sectionAcks, "the same for the response, at the server's socket",
		func(o *observe.Observation) *uint64 { return &o.Response.Waited }, nil),
	count("layertrace.response.held_ns", "ns", sectionAcks, "the same for the response, at the server's socket",
		func(o *observe.Observation) *uint64 { return &o.Response.Held }, nil),
	count("layertrace.response.stalled_ns", "ns", sectionAcks, "the same for the response, at the server's socket",
		func(o *observe.Observation) *uint64 { return &o.Response.Stalled }, nil),
	count("layertrace.response.unread_ns", "ns", sectionAcks, "the same for the response, at the client's socket",
		func(o *observe.Observation) *uint64 { return &o.Response.Unread }, nil),
	// Sizes and remarks.
	count("layertrace.request.bytes", "bytes", sectionSizes, "TCP payload of the request, head included, without retransmissions; with `layertrace.join` as on the wire, encrypted",
		func(o *observe.Observation) *uint64 { return &o.Request.Bytes }, nil),
	count("layertrace.request.packets", "packets", sectionSizes, "its TCP segments as seen here: a segment that offloading merged counts once; absent: 1",
		func(o *observe.Observation) *uint32 { return &o.Request.Packets },
		func(*observe.Observation) uint64 { return 1 }),
	count("layertrace.response.bytes", "bytes", sectionSizes, "the same for the response; absent: no response was seen",
		func(o *observe.Observation) *uint64 { return &o.Response.Bytes }, nil),
	count("layertrace.response.packets", "packets", sectionSizes, "the same for the response; absent: 1, or no response was seen",
		func(o *observe.Observation) *uint32 { return &o.Response.Packets },
		func(o *observe.Observation) uint64 {
			if o.Response.First == 0 {
				return 0
			}
			return 1
		}),
	count("layertrace.retransmits", "packets", sectionSizes, "TCP segments of both messages that were seen more than once; absent: 0",
		func(o *observe.Observation) *uint32 { return &o.Retransmits }, nil),
	count("layertrace.drops", "packets", sectionSizes, "packets of the connection that the kernel dropped during the exchange, at this interface or, for a socket, in its network namespace or by TCP itself; absent: 0",
		func(o *observe.Observation) *uint32 { return &o.Drops }, nil),
	{
		key: "layertrace.drop_reason", typ: "string", section: sectionSizes,
		meaning: "reason of the last drop: the kernel's name (`enum skb_drop_reason`) in lower case",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(o.DropReason)
			return o.DropReason != ""
		},
		set: func(o *observe.Observation, _ uint64, in input) error { o.DropReason = in.text(); return nil },
	},
	count("layertrace.srtt_ns", "ns", sectionSizes, "TCP's smoothed round-trip time at the socket",
		func(o *observe.Observation) *uint64 {
			return socketField(o, func(s *observe.Socket) *uint64 { return &s.SRTT })
		}, nil),
	count("layertrace.zero_windows", "", sectionSizes, "number of reads while the announced receive window was used up, so that the peer had to wait; absent: 0",
		func(o *observe.Observation) *uint32 {
			return socketField(o, func(s *observe.Socket) *uint32 { return &s.ZeroWindows })
		}, nil),
	{
		key: keyFlags, typ: "string[]", section: sectionSizes, meaning: "unusual events; absent: none: " + flagList(),
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			if o.Flags == 0 {
				return false
			}
			*v = flagNames.Get(o.Flags)
			return true
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			o.Flags = observe.FlagsOf(in.list())
			return nil
		},
	},
	// TCP option.
	{
		key: "layertrace.connection_id", typ: "string", unit: "hex", section: sectionOption,
		meaning: "ID of the connection: 16 digits (`compact`) or 8 (`paper`)",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			if len(o.ConnectionID) == 0 {
				return false
			}
			*v = attribute.StringValue(idText.Get(idKeyOf(o.ConnectionID)))
			return true
		},
		set: setConnectionID,
	},
	{
		key: "layertrace.option_time_ns", typ: "int", unit: "ns", section: sectionOption,
		meaning: "the sender's `CLOCK_MONOTONIC` in the option; with `compact` only the low 32 bits of its microseconds are known",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.Int64Value(int64(o.OptionTime * optionUnit(o)))
			return o.OptionTime != 0
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			ns, err := in.count(0, math.MaxInt64)
			o.OptionTime = ns / optionUnit(o)
			return err
		},
	},
	count("layertrace.request.seq", "", sectionOption, "TCP sequence number of the request's first byte; with the ID of the connection it says which message a device saw",
		func(o *observe.Observation) *uint32 { return sequenceField(o, &o.Request) }, nil),
	count("layertrace.response.seq", "", sectionOption, "the same for the response; absent: no response was seen",
		func(o *observe.Observation) *uint32 { return sequenceField(o, &o.Response) }, nil),
	ttlField("layertrace.request.ttl", "time to live, or hop limit, of the request's first packet at a device: each router takes one", func(o *observe.Observation) *uint8 { return &o.Request.TTL }),
	ttlField("layertrace.response.ttl", "the same of the response", func(o *observe.Observation) *uint8 { return &o.Response.TTL }),
	{
		key: "layertrace.device.one_way", typ: "string", section: sectionOption,
		meaning: "`request` or `response`: the only message that passed the device; absent: both did, or the point is not a device's",
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			if o.Point.Kind != observe.KindDevice {
				return false
			}
			switch {
			case o.Request.First == 0:
				*v = attribute.StringValue("response")
			case o.Response.First == 0:
				*v = attribute.StringValue("request")
			default:
				return false
			}
			return true
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			if o.Point.Kind == observe.KindDevice && in.text() == "response" {
				o.Request.First, o.Request.Last, o.Request.Packets = 0, 0, 0
			}
			return nil
		},
	},
	// Names of the endpoints.
	peerService("layertrace.client.service", "the client's workload", clientPeer),
	peerNamespace("layertrace.client.namespace", "its namespace", clientPeer),
	peerNode("layertrace.client.node", "the client's node, if its address belongs to a node and not to a workload", clientPeer),
	peerService("layertrace.server.service", "the server's workload", serverPeer),
	peerNamespace("layertrace.server.namespace", "its namespace", serverPeer),
	peerNode("layertrace.server.node", "the server's node, likewise", serverPeer),
}

// appendAttributes appends the attributes of the observation's span, which starts at the
// monotonic time start (ns).
func appendAttributes(kv []attribute.KeyValue, o *observe.Observation, start uint64) []attribute.KeyValue {
	for i := range fields {
		n := len(kv)
		kv = append(kv, attribute.KeyValue{Key: fields[i].key})
		if !fields[i].get(o, start, &kv[n].Value) {
			kv = kv[:n]
		}
	}
	return kv
}

// Texts that many spans have, so that a span does not make them again.
var (
	addressText = recent.New(maxTexts, netip.Addr.String)
	idText      = recent.New(maxTexts, func(id idKey) string { return hex.EncodeToString(id.bytes[:id.length]) })
	flagNames   = recent.New(maxTexts, func(f observe.Flags) attribute.Value { return attribute.StringSliceValue(f.Names()) })
)

// idKey is the ID of a connection by value.
type idKey struct {
	bytes  [8]byte
	length int
}

func idKeyOf(id []byte) (k idKey) {
	k.length = copy(k.bytes[:], id)
	return k
}

// maxTexts is the number of addresses, and of connection IDs, whose text is kept, some
// 100 bytes each.
const maxTexts = 4096

// Decode is the inverse of Emit and Resource: it returns the observation of a
// stored span of layertrace. The error names what is missing or inconsistent.
func Decode(s *Stored) (observe.Observation, error) {
	var o observe.Observation
	o.Context.TraceID, o.Context.SpanID = tracecontext.TraceID(s.TraceID), tracecontext.SpanID(s.Parent)
	o.Wall = s.Start.UnixNano()
	switch {
	case !s.Parent.IsValid():
		return o, errors.New("the span has no parent, so it belongs to no request")
	case s.Duration < 0:
		return o, fmt.Errorf("the duration is %v", s.Duration)
	case o.Wall <= 0:
		return o, errors.New("the span has no start")
	}
	point, err := decodePoint(s)
	if err != nil {
		return o, err
	}
	o.Point = point
	if point.Kind == observe.KindSocket {
		o.Socket = &observe.Socket{Netns: observe.NetnsOfPoint(point.ID)}
	}
	start, err := input{s.Attributes, keyMonotonic}.start()
	if err != nil {
		return o, err
	}
	for i := range fields {
		if err := fields[i].set(&o, start, input{s.Attributes, fields[i].key}); err != nil {
			return o, err
		}
	}
	return o, checkTimes(&o)
}

// checkTimes returns an error for times that no exchange can have.
func checkTimes(o *observe.Observation) error {
	q, r := &o.Request, &o.Response
	switch {
	case q.Last < q.First:
		return errors.New("the request ends before it begins")
	case r.First == 0 && r.Last != 0:
		return errors.New("the response has an end but no beginning")
	case r.Last < r.First:
		return errors.New("the response ends before it begins")
	case r.First != 0 && r.First < q.First:
		return errors.New("the response begins before the request")
	case q.Acknowledged != 0 && q.Acknowledged < q.Last || r.Acknowledged != 0 && r.Acknowledged < r.Last:
		return errors.New("a message is acknowledged before it is sent")
	}
	for _, e := range [...]observe.Extent{q.App, q.Tx, r.App, r.Tx} {
		if e.Last < e.First || e.First == 0 && e.Last != 0 {
			return errors.New("an app or tx time ends before it begins")
		}
	}
	return nil
}

// offset is a field with a time, stored as the offset from the span's start. absent
// returns the default.
func offset(key attribute.Key, section, meaning string, at func(*observe.Observation) *uint64, absent func(*observe.Observation, uint64) uint64) field {
	return field{
		key: key, typ: "int", unit: "ns", meaning: meaning, section: section,
		get: func(o *observe.Observation, start uint64, v *attribute.Value) bool {
			t := *at(o)
			if t == 0 || t == absent(o, start) {
				return false
			}
			*v = attribute.Int64Value(int64(t - start))
			return true
		},
		set: func(o *observe.Observation, start uint64, in input) (err error) {
			*at(o), err = in.time(start, absent(o, start))
			return err
		},
	}
}

// never is the default of times that may not have been seen.
func never(*observe.Observation, uint64) uint64 { return 0 }

// count is a field with a number, which is not written when it is 0 or the default
// (nil: 0). at returns nil when the capture point has no such number.
func count[N uint32 | uint64](key attribute.Key, unit, section, meaning string, at func(*observe.Observation) *N, absent func(*observe.Observation) uint64) field {
	if absent == nil {
		absent = func(*observe.Observation) uint64 { return 0 }
	}
	most := min(uint64(^N(0)), math.MaxInt64)
	return field{
		key: key, typ: "int", unit: unit, meaning: meaning, section: section,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			n := at(o)
			if n == nil || *n == 0 || uint64(*n) == absent(o) {
				return false
			}
			*v = attribute.Int64Value(int64(*n))
			return true
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			n := at(o)
			if n == nil {
				return nil
			}
			v, err := in.count(absent(o), most)
			*n = N(v)
			return err
		},
	}
}

// socketField returns a field of the socket, nil at an interface.
func socketField[N any](o *observe.Observation, of func(*observe.Socket) *N) *N {
	if o.Socket == nil {
		return nil
	}
	return of(o.Socket)
}

func ttlField(key attribute.Key, meaning string, at func(*observe.Observation) *uint8) field {
	return field{
		key: key, typ: "int", meaning: meaning + "; absent: not at a device", section: sectionOption,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.Int64Value(int64(*at(o)))
			return *at(o) != 0
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			ttl, err := in.count(0, math.MaxUint8)
			*at(o) = uint8(ttl)
			return err
		},
	}
}

// sequenceField returns the sequence number of a message, nil on a connection without ID.
func sequenceField(o *observe.Observation, m *observe.Message) *uint32 {
	if len(o.ConnectionID) == 0 {
		return nil
	}
	return &m.Seq
}

func addressField(key attribute.Key, meaning string, at func(*observe.Observation) *netip.AddrPort) field {
	return field{
		key: key, typ: "string", meaning: meaning, section: sectionStandard,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(addressText.Get(at(o).Addr().Unmap()))
			return true
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			ip, err := netip.ParseAddr(in.text())
			if err != nil {
				return fmt.Errorf("%s is %q, not an address", in.key, in.text())
			}
			*at(o) = netip.AddrPortFrom(ip.Unmap(), at(o).Port())
			return nil
		},
	}
}

func portField(key attribute.Key, meaning string, at func(*observe.Observation) *netip.AddrPort) field {
	return field{
		key: key, typ: "int", meaning: meaning, section: sectionStandard,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.Int64Value(int64(at(o).Port()))
			return true
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			n, ok, err := in.integer()
			switch {
			case err != nil:
				return err
			case !ok || n < 0 || n > math.MaxUint16:
				return fmt.Errorf("%s is missing or not a port", in.key)
			}
			*at(o) = netip.AddrPortFrom(at(o).Addr(), uint16(n))
			return nil
		},
	}
}

// textField is a field with a text, not written when it is empty.
func textField(key attribute.Key, meaning string, at func(*observe.Observation) *string) field {
	return field{
		key: key, typ: "string", meaning: meaning, section: sectionStandard,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(*at(o))
			return *at(o) != ""
		},
		set: func(o *observe.Observation, _ uint64, in input) error { *at(o) = in.text(); return nil },
	}
}

func clientPeer(o *observe.Observation) *observe.Peer { return &o.Peers.Client }
func serverPeer(o *observe.Observation) *observe.Peer { return &o.Peers.Server }

// isOther reports whether a peer is a workload that the resource does not have already:
// the point's own is not repeated.
func isOther(o *observe.Observation, p *observe.Peer) bool {
	own := &o.Point.Workload
	return p.Service != "" && (p.Service != own.Service || p.Namespace != own.Namespace)
}

// peerService is a field with the service of an endpoint.
func peerService(key attribute.Key, meaning string, of func(*observe.Observation) *observe.Peer) field {
	return field{
		key: key, typ: "string", meaning: meaning, section: sectionPeers,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(of(o).Service)
			return isOther(o, of(o))
		},
		set: func(o *observe.Observation, _ uint64, in input) error { of(o).Service = in.text(); return nil },
	}
}

// peerNamespace is a field with the namespace of that service. It comes after it.
func peerNamespace(key attribute.Key, meaning string, of func(*observe.Observation) *observe.Peer) field {
	return field{
		key: key, typ: "string", meaning: meaning + "; absent: that of this span's resource", section: sectionPeers,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(of(o).Namespace)
			return isOther(o, of(o)) && of(o).Namespace != o.Point.Workload.Namespace
		},
		set: func(o *observe.Observation, _ uint64, in input) error {
			p := of(o)
			if p.Namespace = in.text(); p.Service != "" && !in.isSet() {
				p.Namespace = o.Point.Workload.Namespace
			}
			return nil
		},
	}
}

// peerNode is a field with the node of an endpoint that is no workload.
func peerNode(key attribute.Key, meaning string, of func(*observe.Observation) *observe.Peer) field {
	return field{
		key: key, typ: "string", meaning: meaning, section: sectionPeers,
		get: func(o *observe.Observation, _ uint64, v *attribute.Value) bool {
			*v = attribute.StringValue(of(o).Node)
			return of(o).Node != ""
		},
		set: func(o *observe.Observation, _ uint64, in input) error { of(o).Node = in.text(); return nil },
	}
}

func setDirection(o *observe.Observation, _ uint64, in input) error {
	switch text := in.text(); text {
	case observe.DirectionIngress.String():
		o.Direction = observe.DirectionIngress
	case observe.DirectionEgress.String():
		o.Direction = observe.DirectionEgress
	case "", observe.DirectionUnknown.String():
	default:
		if o.Socket == nil {
			return fmt.Errorf("%s is %q, neither ingress nor egress", in.key, text)
		}
	}
	if o.Socket != nil {
		o.Direction = observe.DirectionUnknown
	}
	return nil
}

func setSide(o *observe.Observation, _ uint64, in input) error {
	if o.Socket == nil {
		return nil
	}
	switch text := in.text(); text {
	case "client":
		o.Socket.Client = true
	case "server":
	default:
		return fmt.Errorf("%s is %q, neither client nor server", in.key, text)
	}
	return nil
}

func sideOf(s *observe.Socket) string {
	if s.Client {
		return "client"
	}
	return "server"
}

func setConnectionID(o *observe.Observation, _ uint64, in input) error {
	text := in.text()
	if text == "" {
		return nil
	}
	id, err := hex.DecodeString(text)
	if err != nil {
		return fmt.Errorf("%s is %q, not hex digits", in.key, text)
	}
	o.ConnectionID = id
	return nil
}

// optionUnit returns the unit in ns of the time in the TCP option: the compact
// layout, which has an ID of 8 bytes, counts µs.
func optionUnit(o *observe.Observation) uint64 {
	const compactIDBytes = 8
	if len(o.ConnectionID) == compactIDBytes {
		return 1000
	}
	return 1
}

func ignore(*observe.Observation, uint64, input) error { return nil }

// controllerKeys are the attributes of a pod's controller by its kind. OpenTelemetry
// defines none for other kinds.
var controllerKeys = map[string]attribute.Key{
	"Deployment": semconv.K8SDeploymentNameKey, "StatefulSet": semconv.K8SStatefulSetNameKey,
	"DaemonSet": semconv.K8SDaemonSetNameKey, "ReplicaSet": semconv.K8SReplicaSetNameKey,
	"Job": semconv.K8SJobNameKey, "CronJob": semconv.K8SCronJobNameKey,
}

// formatList returns the values of an attribute for docs/attributes.md.
func formatList() string { return list(tracecontext.FormatNames()) }

func flagList() string { return list(observe.FlagNames()) }

func list(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }
