// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"

	"github.com/layertrace/layertrace/internal/tracecontext"
)

// Names of a record's side: the body of the record.
const (
	NameClient  = "layertrace-client"
	NameAttempt = "layertrace-attempt"
	NameServer  = "layertrace-server"
)

// Lengths in bytes to which texts of a record are cut. maxRequestLine is that of method and
// path together, as in a record of the kernel.
const (
	maxRequestID   = 128
	maxProtocol    = 16
	maxMethod      = 32
	maxRequestLine = 96
	maxFlags       = 64
)

// maxDuration is the longest time in ns that a request may last, for times that do not
// overflow: about a year.
const maxDuration = 1 << 55

// maxAttributes is the number of attributes of a record that are read.
const maxAttributes = 64

// needed are the fields that a log must have, though a record may have no value there.
var needed = [...]string{"local", "remote", "tx_beg"}

// labels are the attributes of a record by name. It is reused, so that a record costs no
// map.
type labels struct {
	names, values [maxAttributes]string
	n             int
}

// read takes the attributes of a record. Envoy writes all as texts; "-" is an absent value.
func (l *labels) read(attributes []*commonpb.KeyValue) {
	l.n = 0
	for _, kv := range attributes {
		if l.n == maxAttributes {
			return
		}
		value := ""
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			value = v.StringValue
		case *commonpb.AnyValue_IntValue:
			value = strconv.FormatInt(v.IntValue, 10)
		}
		if value == "-" {
			value = ""
		}
		if value == "" && !slices.Contains(needed[:], kv.GetKey()) {
			continue
		}
		l.names[l.n], l.values[l.n] = kv.GetKey(), value
		l.n++
	}
}

func (l *labels) get(name string) string {
	value, _ := l.find(name)
	return value
}

// find returns a value, "" if it is absent, and for a needed one whether the log has it at
// all: a proxy that has no value writes "-".
func (l *labels) find(name string) (value string, has bool) {
	for i, n := range l.names[:l.n] {
		if n == name {
			return l.values[i], true
		}
	}
	return "", false
}

// decoder reads records. It must not be used concurrently.
type decoder struct {
	preferred []tracecontext.Format
	labels    labels
	reason    Reason // why the record is refused, so far
}

// decode reads a record that came from an address. Without a reason the record is believable
// by itself; believe checks whether the peer may send it.
func (d *decoder) decode(in *logspb.LogRecord, from netip.Addr) (r Record, refused Reason) {
	d.labels.read(in.GetAttributes())
	d.reason = ""
	r.Peer = from
	switch in.GetBody().GetStringValue() {
	case NameClient:
		r.Side = SideClient
	case NameAttempt:
		r.Side = SideAttempt
	case NameServer:
		r.Side = SideServer
	default:
		return r, RefusedField
	}
	r.Start = in.GetTimeUnixNano()
	if r.Start == 0 || r.Start > 1<<62 {
		return r, RefusedField
	}
	d.needs("local")
	d.needs("remote")
	local, remote := d.address("local"), d.address("remote")
	if r.Side == SideServer {
		d.server(&r, in)
		r.Client, r.Server = remote, local
	} else {
		d.client(&r)
		r.Client, r.Server = local, remote
	}
	r.RequestID = cut(d.labels.get("request_id"), maxRequestID)
	r.Protocol = cut(d.labels.get("protocol"), maxProtocol)
	r.ResponseFlags = cut(d.labels.get("flags"), maxFlags)
	r.Method = cut(d.labels.get("method"), maxMethod)
	path, _, _ := strings.Cut(d.labels.get("path"), "?")
	r.Path = cut(path, maxRequestLine-len(r.Method)-1)
	status, _ := d.number("code", 999)
	attempts, _ := d.number("attempts", 1<<20)
	r.Status, r.Attempts = int(status), int(attempts)
	switch {
	case d.reason != "":
		return r, d.reason
	case !r.Client.IsValid() || !r.Server.IsValid():
		return r, RefusedNoConnection
	}
	return r, ""
}

// client reads what the records of a request's sender have.
func (d *decoder) client(r *Record) {
	r.Context = d.context("")
	if r.Context.TraceID.IsZero() {
		d.refuse(RefusedField)
	} else if r.Context.Sampling == tracecontext.Denied {
		d.refuse(RefusedNotSampled)
	}
	d.needs("tx_beg")
	r.RequestFirst = d.time("tx_beg", r.Start)
	r.ResponseFirst = d.time("rx_beg", r.Start)
	r.ResponseLast = d.time("rx_end", r.Start)
	d.sizes(r, "sent", "received")
	if r.RequestFirst == 0 {
		d.refuse(RefusedNoConnection) // nothing was sent
	}
	if r.ResponseFirst != 0 && r.ResponseFirst < r.RequestFirst || r.ResponseLast != 0 && r.ResponseLast < max(r.RequestFirst, r.ResponseFirst) {
		d.refuse(RefusedField)
	}
}

// server reads what the records of a request's receiver have. Without the incoming context
// it takes the trace of the record and the server's own span.
func (d *decoder) server(r *Record, in *logspb.LogRecord) {
	r.Context = d.context("incoming-")
	own := d.context("")
	switch {
	case !r.Context.TraceID.IsZero() && r.Context.Sampling != tracecontext.Denied:
	case own.Sampling == tracecontext.Denied:
		d.refuse(RefusedNotSampled)
	default:
		r.Context, r.OwnContext = tracecontext.Context{}, own
		if len(in.GetTraceId()) == len(own.TraceID) && len(in.GetSpanId()) == len(own.SpanID) {
			copy(r.OwnContext.TraceID[:], in.GetTraceId())
			copy(r.OwnContext.SpanID[:], in.GetSpanId())
		}
		if r.OwnContext.TraceID.IsZero() || r.OwnContext.SpanID.IsZero() {
			d.refuse(RefusedField)
		}
		if r.OwnContext.Format == tracecontext.FormatNone {
			r.OwnContext.Format = tracecontext.FormatW3C
		}
		r.OwnContext.Sampling = tracecontext.Accepted
	}
	r.ResponseLast = d.time("tx_end", r.Start)
	d.sizes(r, "received", "sent")
}

// context returns the trace context of the headers whose labels have a prefix.
func (d *decoder) context(prefix string) tracecontext.Context {
	c, _ := tracecontext.FromValues(func(header string) string {
		if prefix != "" {
			if value := d.labels.get(prefix + header); value != "" || header != "traceparent" {
				return value
			}
			return d.labels.get("incoming")
		}
		return d.labels.get(header)
	}, d.preferred)
	return c
}

// time returns the time that is a duration after start, 0 if it is absent.
func (d *decoder) time(name string, start uint64) uint64 {
	ns, ok := d.number(name, maxDuration)
	if !ok {
		return 0
	}
	return start + ns
}

// sizes reads the sizes of both messages. Without one of them neither is known.
func (d *decoder) sizes(r *Record, request, response string) {
	q, okRequest := d.number(request, 1<<62)
	s, okResponse := d.number(response, 1<<62)
	if okRequest && okResponse {
		r.RequestBytes, r.ResponseBytes, r.SizesKnown = q, s, true
	}
}

// number returns a decimal number of at most most, and whether there is one. A bad one
// refuses the record, an absent one does not.
func (d *decoder) number(name string, most uint64) (n uint64, ok bool) {
	text := d.labels.get(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > most {
		d.refuse(RefusedField)
		return 0, false
	}
	return n, true
}

// address returns an end of a connection. It is invalid if none was used.
func (d *decoder) address(name string) netip.AddrPort {
	text := d.labels.get(name)
	if text == "" {
		return netip.AddrPort{}
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		d.refuse(RefusedField)
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// needs refuses a record whose log lacks one of the needed fields, as that of another version
// of layertrace may. With the field but no value, the proxy used no connection.
func (d *decoder) needs(name string) {
	if _, has := d.labels.find(name); !has {
		d.refuse(RefusedField)
	}
}

// refuse keeps the first reason.
func (d *decoder) refuse(why Reason) {
	if d.reason == "" {
		d.reason = why
	}
}

// cut returns a copy of at most most bytes of a text, so that the message that it came in
// can be freed.
func cut(text string, most int) string {
	return strings.Clone(text[:min(len(text), max(most, 0))])
}
