// SPDX-License-Identifier: Apache-2.0

// Package export delivers spans over OTLP and exchanges as JSON lines. Its
// queue is bounded, and what became of each span is counted.
package export

import "sync/atomic"

// Counters tell what became of the spans that were handed in:
//
//	Accepted = Exported + Failed + DroppedQueueFull + DroppedShutdown + Queued
type Counters struct {
	// Accepted spans were handed in.
	Accepted uint64
	// Exported spans were taken by the receiver.
	Exported uint64
	// Failed spans were refused by the receiver, or it could not be reached
	// for longer than a batch is retried.
	Failed uint64
	// DroppedQueueFull spans came while the queue was full.
	DroppedQueueFull uint64
	// DroppedShutdown spans were still queued when the time to stop was over,
	// or came behind the stop.
	DroppedShutdown uint64
	// Queued spans wait or are being sent.
	Queued uint64
}

type counters struct {
	accepted, exported, failed, dropped, late atomic.Uint64
	queued                                    atomic.Int64
}

func (c *counters) read() Counters {
	return Counters{
		Accepted:         c.accepted.Load(),
		Exported:         c.exported.Load(),
		Failed:           c.failed.Load(),
		DroppedQueueFull: c.dropped.Load(),
		DroppedShutdown:  c.late.Load(),
		Queued:           uint64(max(0, c.queued.Load())),
	}
}
