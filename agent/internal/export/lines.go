// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/internal/observe"
)

// Lines writes observations as JSON, one per line, each with the keys point, node
// and interface_name after those of observe.Observation. It is also the collector
// of its metrics.
type Lines struct {
	out             io.Writer
	written, failed prometheus.Counter
}

// NewLines returns a writer to out. A slow out slows the agent's reader: what then
// does not fit the kernel's ring buffer is counted there.
func NewLines(out io.Writer) *Lines {
	return &Lines{
		out: out,
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_lines_written_total",
			Help: "Exchanges written to stdout.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "layertrace_lines_failed_total",
			Help: "Exchanges that could not be written to stdout.",
		}),
	}
}

// Write writes one line in one call.
func (l *Lines) Write(o *observe.Observation) error {
	line, err := encodeLine(o)
	if err == nil {
		_, err = l.out.Write(line)
	}
	if err != nil {
		l.failed.Inc()
		return fmt.Errorf("write an exchange to stdout: %w", err)
	}
	l.written.Inc()
	return nil
}

// Describe implements prometheus.Collector.
func (l *Lines) Describe(out chan<- *prometheus.Desc) {
	l.written.Describe(out)
	l.failed.Describe(out)
}

// Collect implements prometheus.Collector.
func (l *Lines) Collect(out chan<- prometheus.Metric) {
	l.written.Collect(out)
	l.failed.Collect(out)
}

func encodeLine(o *observe.Observation) ([]byte, error) {
	exchange, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	point, err := json.Marshal(struct {
		Point         string `json:"point"`
		Node          string `json:"node"`
		InterfaceName string `json:"interface_name"`
	}{o.Point.ID, o.Point.Node, o.Point.Interface})
	if err != nil {
		return nil, err
	}
	exchange[len(exchange)-1] = ',' // replaces the closing brace
	return append(append(exchange, point[1:]...), '\n'), nil
}
