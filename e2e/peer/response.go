// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
)

// response reads a response from a connection, and no more than it needs next.
type response struct {
	conn  net.Conn
	seen  []byte // what was read of the head, and of the body with it
	rest  int    // bytes of the body to come, -1 in a chunked one
	bytes int64  // in sum
}

// head reads the head, with whatever of the body the kernel has with it: at most 4 KiB.
func (r *response) head() error {
	buffer := make([]byte, 4096)
	for {
		n, err := r.conn.Read(buffer)
		r.seen = append(r.seen, buffer[:n]...)
		r.bytes += int64(n)
		head, body, found := bytes.Cut(r.seen, []byte("\r\n\r\n"))
		if found {
			return r.frame(head, body)
		}
		if err != nil {
			return fmt.Errorf("in the head: %w", err)
		}
	}
}

func (r *response) frame(head, body []byte) error {
	r.rest = -1
	for line := range bytes.Lines(head) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if string(name) != "content-length" {
			continue
		}
		length, err := strconv.Atoi(string(value))
		if err != nil {
			return fmt.Errorf("content-length %q: %w", value, err)
		}
		r.rest = length - len(body)
	}
	r.seen = body
	return nil
}

// body reads the rest: up to the content length, or up to the last chunk.
func (r *response) body() error {
	buffer := make([]byte, 1<<20)
	for !r.whole() {
		n, err := r.conn.Read(buffer)
		r.bytes += int64(n)
		if r.rest >= 0 {
			r.rest -= n
		} else {
			r.seen = append(r.seen, buffer[:n]...)
		}
		if err != nil && !r.whole() {
			return fmt.Errorf("after %d bytes: %w", r.bytes, err)
		}
	}
	return nil
}

func (r *response) whole() bool {
	if r.rest >= 0 {
		return r.rest == 0
	}
	return bytes.HasSuffix(r.seen, []byte("0\r\n\r\n"))
}
