// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// client is an HTTP/1.1 client on one thread: it sends what is due, and waits for
// responses or for the next request with the precision of the kernel's timers. A client
// with a thread or goroutine per connection takes several times more CPU, and its
// wake-ups are a part of each latency.
type client struct {
	plan  plan
	poll  int
	conns []conn
	// free is a ring with the connections without a request: idle of them, the one that
	// has waited longest at first.
	free        []int
	first, idle int
	// size is the size of each response: the server's are all alike.
	size int

	random          *rand.PCG
	head            []byte
	traceID, spanID []byte // in head
	flags           []byte // in head
	buffer          []byte

	sent, sampled, done int
	start, warmAt, end  time.Duration // of the process's clock
	warm                bool
	latencies, late     []int64 // ns
}

type conn struct {
	fd int
	// due is when the request was due or sent, in ns of the process's clock.
	due  time.Duration
	read int
}

const (
	requestLine = "GET / HTTP/1.1\r\nhost: server\r\ntraceparent: 00-"
	rest        = "\r\nuser-agent: load\r\naccept: */*\r\n\r\n"
)

// connect opens the connections, and sends a request on each to learn what a response
// looks like. These are not sampled.
func connect(p plan) (*client, error) {
	server, err := netip.ParseAddrPort(p.server)
	if err != nil {
		return nil, err
	}
	c := &client{plan: p, conns: make([]conn, p.connections), free: make([]int, p.connections), random: rand.NewPCG(rand.Uint64(), rand.Uint64()), buffer: make([]byte, 64<<10)}
	c.head = []byte(requestLine + strings.Repeat("0", 32) + "-" + strings.Repeat("0", 16) + "-00" + rest)
	at := len(requestLine)
	c.traceID, c.spanID, c.flags = c.head[at:at+32], c.head[at+33:at+49], c.head[at+50:at+52]
	if c.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	for i := range c.conns {
		if err := c.open(i, server); err != nil {
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, p.connections, err)
		}
		c.release(i)
	}
	return c, nil
}

func (c *client) open(i int, server netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c.conns[i].fd = fd
	if c.plan.from != "" {
		from, err := netip.ParseAddr(c.plan.from)
		if err != nil {
			return err
		}
		// The port is chosen with the server's address known, so that each address
		// has all ports for each server.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: server.Addr().As4(), Port: int(server.Port())}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	c.newIDs(false)
	if _, err := unix.Write(fd, c.head); err != nil {
		return err
	}
	size, err := responseSize(fd)
	if err != nil {
		return err
	}
	if c.size == 0 {
		c.size = size
	}
	if size != c.size {
		return fmt.Errorf("a response of %d bytes after one of %d: want all alike", size, c.size)
	}
	c.done++
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return unix.EpollCtl(c.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
}

// responseSize reads a response and returns its size in bytes.
func responseSize(fd int) (int, error) {
	counted := &counter{fd: fd}
	reader := bufio.NewReader(counted)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK || response.ContentLength < 0 || reader.Buffered() > 0 {
		return 0, fmt.Errorf("response %s with Content-Length %d: want 200 and a length", response.Status, response.ContentLength)
	}
	return counted.bytes, nil
}

// counter reads from a file descriptor and counts the bytes.
type counter struct{ fd, bytes int }

func (c *counter) Read(p []byte) (int, error) {
	n, err := unix.Read(c.fd, p)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	c.bytes += n
	return n, nil
}

// run sends the plan: the warm-up, and then the requests whose latencies count.
func (c *client) run() error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // a collection would show as latency
	// Timers of the thread are late by up to 50 µs otherwise.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set the timer slack: %w", err)
	}
	expected := int(c.plan.rate * c.plan.duration.Seconds())
	if expected == 0 {
		expected = 1 << 20
	}
	c.latencies, c.late = make([]int64, 0, expected+expected/8), make([]int64, 0, expected+expected/8)
	c.start = now()
	c.warmAt = c.start + c.plan.warm
	c.end = c.warmAt + c.plan.duration
	events := make([]unix.EpollEvent, 256)
	for {
		next, err := c.sendDue()
		if err != nil {
			return err
		}
		if c.idle == len(c.conns) && next < 0 {
			return nil // all is sent, and all responses are there
		}
		n, err := c.wait(events, next)
		if err != nil {
			return err
		}
		for _, event := range events[:n] {
			if err := c.receive(int(event.Fd)); err != nil {
				return err
			}
		}
	}
}

// sendDue sends all requests that are due while connections are free. It returns when
// the next one is due, or -1 if that depends on a response, or if there is no other.
func (c *client) sendDue() (time.Duration, error) {
	at := now()
	if !c.warm && at >= c.warmAt {
		c.warm = true
		if err := say("warm", nil); err != nil {
			return 0, err
		}
	}
	for c.idle > 0 {
		due := at
		if c.plan.rate > 0 {
			due = c.start + time.Duration(float64(c.sent)/c.plan.rate*1e9)
		}
		switch {
		case due >= c.end:
			return -1, nil
		case due > at:
			return due, nil
		}
		if err := c.request(&c.conns[c.take()], due); err != nil {
			return 0, err
		}
		// A request that waited for a connection is late by the server, not by the client.
		if c.idle > 0 && due >= c.warmAt {
			c.late = append(c.late, int64(at-due))
		}
		at = now()
	}
	return -1, nil
}

func (c *client) take() int {
	i := c.free[c.first]
	c.first = (c.first + 1) % len(c.free)
	c.idle--
	return i
}

func (c *client) release(i int) {
	c.free[(c.first+c.idle)%len(c.free)] = i
	c.idle++
}

func (c *client) request(conn *conn, due time.Duration) error {
	// Of 100 requests, the share that is sampled, evenly spaced.
	sampled := int(float64(c.sent+1)*c.plan.sampled/100) > int(float64(c.sent)*c.plan.sampled/100)
	c.newIDs(sampled)
	c.sent++
	if sampled {
		c.sampled++
	}
	conn.due, conn.read = due, 0
	if n, err := unix.Write(conn.fd, c.head); err != nil || n != len(c.head) {
		return fmt.Errorf("send a request: %d of %d bytes written: %w", n, len(c.head), err)
	}
	return nil
}

// newIDs sets the trace context of the next request.
func (c *client) newIDs(sampled bool) {
	var id [16]byte
	if c.sent%c.plan.perTrace == 0 {
		binary.LittleEndian.PutUint64(id[:], c.random.Uint64())
		binary.LittleEndian.PutUint64(id[8:], c.random.Uint64()|1) // not 0
		hex.Encode(c.traceID, id[:])
	}
	binary.LittleEndian.PutUint64(id[:], c.random.Uint64()|1)
	hex.Encode(c.spanID, id[:8])
	c.flags[1] = '0'
	if sampled {
		c.flags[1] = '1'
	}
}

var okay = []byte("HTTP/1.1 200")

// receive reads what a connection has of its response.
func (c *client) receive(i int) error {
	conn := &c.conns[i]
	n, err := unix.Read(conn.fd, c.buffer)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return fmt.Errorf("read a response: %w", err)
	case n == 0:
		return errors.New("read a response: the server closed the connection")
	case conn.read == 0 && !bytes.HasPrefix(c.buffer[:n], okay):
		return fmt.Errorf("a response begins with %q: want %q", c.buffer[:min(n, len(okay))], okay)
	}
	conn.read += n
	if conn.read > c.size {
		return fmt.Errorf("a response of %d bytes: want %d as before", conn.read, c.size)
	}
	if conn.read < c.size {
		return nil
	}
	c.done++
	if conn.due >= c.warmAt {
		c.latencies = append(c.latencies, int64(now()-conn.due))
	}
	c.release(i)
	return nil
}

// wait waits for responses, at most until a time; without limit if that is negative.
// epoll_wait(2) has milliseconds only.
func (c *client) wait(events []unix.EpollEvent, until time.Duration) (int, error) {
	var limit *unix.Timespec
	if until >= 0 {
		left := unix.NsecToTimespec(int64(max(until-now(), 0)))
		limit = &left
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(c.poll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(unsafe.Pointer(limit)), 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("wait for responses (epoll_pwait2, Linux 5.11): %w", errno)
}

func (c *client) close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, unix.Close(conn.fd))
	}
	return errors.Join(append(errs, unix.Close(c.poll))...)
}

var processStart = time.Now()

// now is the process's clock.
func now() time.Duration { return time.Since(processStart) }
