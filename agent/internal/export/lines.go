// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/layertrace/layertrace/internal/observe"
)

// Lines writes observations as JSON, one a line, each with the keys point, node
// and interface_name after those of observe.Observation.
type Lines struct {
	out             io.Writer
	written, failed atomic.Uint64
}

// NewLines returns a writer to out. A slow out slows the agent's reading down:
// what the kernel's ring buffer cannot hold is counted there.
func NewLines(out io.Writer) *Lines { return &Lines{out: out} }

// Write writes one line with one call.
func (l *Lines) Write(o *observe.Observation) error {
	line, err := line(o)
	if err == nil {
		_, err = l.out.Write(line)
	}
	if err != nil {
		l.failed.Add(1)
		return fmt.Errorf("write an exchange to stdout: %w", err)
	}
	l.written.Add(1)
	return nil
}

// Counts returns the lines that were and that could not be written.
func (l *Lines) Counts() (written, failed uint64) { return l.written.Load(), l.failed.Load() }

func line(o *observe.Observation) ([]byte, error) {
	record, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	where, err := json.Marshal(struct {
		Point         string `json:"point"`
		Node          string `json:"node"`
		InterfaceName string `json:"interface_name"`
	}{o.Point.ID, o.Point.Node, o.Point.Interface})
	if err != nil {
		return nil, err
	}
	record[len(record)-1] = ',' // instead of the closing brace
	return append(append(record, where[1:]...), '\n'), nil
}
