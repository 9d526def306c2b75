// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// read gives out records until ctx is done and the ring is empty. The kernel side
// wakes nobody before a quarter of the ring is full. Go's runtime watches over
// whatever wakes up, for a millisecond every 20 µs, and finds nothing of it in the
// caches: better it works on much and seldom.
func (p *Probe) read(ctx context.Context) error {
	flushed := context.AfterFunc(ctx, func() { _ = p.reader.Flush() }) // ends a wait
	defer flushed()
	var record ringbuf.Record
	drivers := p.drivers.told()
	for {
		p.reader.SetDeadline(time.Now().Add(p.opts.ReadInterval))
		err := p.reader.ReadInto(&record)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, ringbuf.ErrFlushed):
			if ctx.Err() != nil {
				return nil
			}
			continue
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read ring buffer: %w", err)
		}
		p.received.Add(1)
		x, err := decodeRecord(record.RawSample, drivers)
		if err != nil {
			p.unreadable.Add(1)
			p.log.Error("record not understood", "error", err)
			continue
		}
		if drivers && !txKnown(&x) {
			p.unhanded.Add(1)
		}
		p.out <- x
	}
}
