// SPDX-License-Identifier: Apache-2.0

package export

import (
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/layertrace/layertrace/agent/internal/span"
)

// Kept keeps spans in the agent until a client reads them, so that a trial needs no trace
// store. A read empties it. When it is full it drops new spans and not old ones: agents that
// are read at about the same time then have the same requests, and so whole traces.
//
// It is also the collector of its metrics.
type Kept struct {
	size                int
	kept, dropped, read atomic.Uint64

	reading sync.Mutex // held while a response is encoded and written
	mu      sync.Mutex // guards the rest
	batch   *batch
	encoded []byte // one span
}

// NewKept returns a Kept of up to size spans, some 600 bytes each.
func NewKept(size int) *Kept { return &Kept{size: size, batch: newBatch(0)} }

// Take keeps a span, or drops and counts it.
func (k *Kept) Take(s *span.Finished) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.batch.spans) >= k.size {
		k.dropped.Add(1)
		return
	}
	k.kept.Add(1)
	k.encoded = appendSpan(k.encoded[:0], s)
	k.batch.add(s.Origin, k.encoded)
}

// take returns the kept spans as an encoded TracesData message, and their number, and forgets
// them.
func (k *Kept) take() (data []byte, spans uint64, err error) {
	k.mu.Lock()
	taken := k.batch
	k.batch = newBatch(0)
	k.mu.Unlock()
	data, err = proto.Marshal(&tracepb.TracesData{ResourceSpans: newRequest().of(taken)})
	return data, uint64(len(taken.spans)), err
}

// ServeHTTP responds with the kept spans: OTLP's message TracesData in protobuf. One reader
// comes after the other.
func (k *Kept) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // HEAD would throw them away
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "use GET", http.StatusMethodNotAllowed)
		return
	}
	k.reading.Lock()
	defer k.reading.Unlock()
	data, spans, err := k.take()
	if err != nil {
		k.dropped.Add(spans)
		http.Error(w, "encode the kept spans: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Cache-Control", "no-store")
	if _, err := w.Write(data); err != nil { // the client has gone, and its spans with it
		k.dropped.Add(spans)
		return
	}
	k.read.Add(spans)
}

var (
	keptDesc = prometheus.NewDesc("layertrace_kept_spans_total",
		"Spans kept in the agent for a client to read (keep-spans).", nil, nil)
	keptDroppedDesc = prometheus.NewDesc("layertrace_kept_spans_dropped_total",
		"Spans not kept because keep-spans others had not been read, or lost with the client that read them.", nil, nil)
	keptReadDesc = prometheus.NewDesc("layertrace_kept_spans_read_total",
		"Kept spans that a client has read.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*Kept) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{keptDesc, keptDroppedDesc, keptReadDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (k *Kept) Collect(out chan<- prometheus.Metric) {
	for d, n := range map[*prometheus.Desc]*atomic.Uint64{keptDesc: &k.kept, keptDroppedDesc: &k.dropped, keptReadDesc: &k.read} {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()))
	}
}
