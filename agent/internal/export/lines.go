// SPDX-License-Identifier: Apache-2.0

package export

import (
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/layertrace/layertrace/agent/internal/span"
	"github.com/layertrace/layertrace/internal/exchange"
)

// Lines writes exchanges as JSON, one a line, each with the keys point, node
// and interface_name behind those of exchange.Exchange.
type Lines struct {
	out             io.Writer
	written, failed atomic.Uint64
}

// NewLines returns a writer to out. A slow out slows the agent's reading down:
// what the kernel's ring buffer cannot hold is counted there.
func NewLines(out io.Writer) *Lines { return &Lines{out: out} }

// Write writes one line with one call.
func (l *Lines) Write(p *span.Point, x *exchange.Exchange) error {
	line, err := line(p, x)
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

func line(p *span.Point, x *exchange.Exchange) ([]byte, error) {
	record, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	where, err := json.Marshal(struct {
		Point         string `json:"point"`
		Node          string `json:"node"`
		InterfaceName string `json:"interface_name"`
	}{p.ID, p.Node, p.Interface.Name})
	if err != nil {
		return nil, err
	}
	record[len(record)-1] = ',' // instead of the closing brace
	return append(append(record, where[1:]...), '\n'), nil
}
