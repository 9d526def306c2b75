// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// ring reads a ring buffer that the programs fill. It waits in Go's own poller, and reads
// without a system call: either one by itself starts Go's system monitor, which then polls
// every 20 µs until the agent is idle, with cold caches. An agent without an export wakes up 60
// times per second at 5,000 requests/s, before 190 times, and takes 2.1 µs of CPU per request,
// before 2.9.
type ring struct {
	*ringbuf.Reader
	file  *os.File // the map
	polls syscall.RawConn
	woken bool
	ready func(uintptr) bool // isReady
}

// openRing opens the ring buffer in a map, which stays the caller's.
func openRing(m *ebpf.Map) (*ring, error) {
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, fmt.Errorf("open ring buffer: %w", err)
	}
	reader.SetDeadline(time.Unix(1, 0)) // it does not wait
	r := &ring{Reader: reader}
	r.ready = r.isReady
	if r.file, r.polls, err = polled(m.FD()); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for a ring buffer: %w", err), reader.Close())
	}
	return r, nil
}

// polled returns a copy of a file descriptor for which Go's poller waits.
func polled(fd int) (*os.File, syscall.RawConn, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // what NewFile recognises it by
		return nil, nil, errors.Join(err, unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "ring buffer")
	polls, err := file.SyscallConn()
	if err == nil {
		err = file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, polls, nil
}

// Close closes the ring. read must have returned.
func (r *ring) Close() error { return errors.Join(r.file.Close(), r.Reader.Close()) }

// read reads until ctx is done and the ring is empty. take gets each record, which is valid
// during the call only, and pass is called before a wait: until the programs wake the reader,
// as wakeupFill bytes are in the ring, or for interval.
func (r *ring) read(ctx context.Context, interval time.Duration, take func(raw []byte), pass func()) error {
	stop := context.AfterFunc(ctx, r.interrupt)
	defer stop()
	var record ringbuf.Record
	var turn turn
	for {
		switch {
		case r.AvailableBytes() == 0:
			pass()
			turn.end()
			switch {
			case ctx.Err() == nil:
				if err := r.wait(ctx, interval); err != nil {
					return err
				}
			case r.AvailableBytes() == 0: // again: the last sweep may have come since the look before
				return nil
			}
			continue
		case turn.over():
			if r.AvailableBytes() < r.BufferSize()/8 {
				time.Sleep(rest)
			} else {
				runtime.Gosched()
			}
			turn.end()
		}
		switch err := r.ReadInto(&record); {
		case err == nil:
			take(record.RawSample)
		case errors.Is(err, os.ErrDeadlineExceeded): // the rest was discarded by the programs
		case errors.Is(err, ringbuf.ErrClosed):
			return nil
		default:
			return fmt.Errorf("read ring buffer: %w", err)
		}
	}
}

// wait waits until the programs wake the reader, for interval, or until ctx is done.
func (r *ring) wait(ctx context.Context, interval time.Duration) error {
	err := r.file.SetReadDeadline(time.Now().Add(interval))
	if err == nil && ctx.Err() == nil { // else the deadline may have replaced the one of the end
		r.woken = false
		err = r.polls.Read(r.ready)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("wait for a ring buffer: %w", err)
	}
	return nil
}

// interrupt ends a wait. It fails when the ring is closed, which has ended it.
func (r *ring) interrupt() { _ = r.file.SetReadDeadline(time.Unix(1, 0)) }

// isReady reports whether the wait is over: in its first call before the wait, as a wake-up
// of before has been forgotten by then, and in its second one after a wake-up.
func (r *ring) isReady(uintptr) bool {
	ready := r.woken || r.AvailableBytes() >= wakeupFill(r.BufferSize())
	r.woken = true
	return ready
}

const (
	// maxTurn is the time for which the reader works without a rest, and rest the time for
	// which others have its CPU then. If an eighth of the ring is full, it only lets go first
	// what else of the agent is due: while the garbage of layers was collected on a busy
	// machine, the reader did not run for 100 ms. Without rests its longest turn at 10,000
	// exchanges/s with OTLP was 4.2 ms, with them 1.5 ms.
	maxTurn = time.Millisecond
	rest    = 500 * time.Microsecond
)

// turn is the time since the reader waited.
type turn struct {
	records int
	began   time.Time
}

// over reports, before each record, whether the turn lasts too long.
func (t *turn) over() bool {
	t.records++
	switch {
	case t.records == 1:
		t.began = time.Now()
	case t.records%sliceSize == 0: // the clock is not free
		return time.Since(t.began) > maxTurn
	}
	return false
}

func (t *turn) end() { t.records = 0 }
