// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"net"
	"net/http"

	"golang.org/x/sys/unix"
)

type connKey struct{}

// ConnContext is an http.Server's: it lets Whole find the connection.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// Whole writes an answer so that TCP sends it in one piece, as long as it may
// be: the server writes a long one in several.
func Whole(w http.ResponseWriter, r *http.Request, body []byte) error {
	conn, ok := r.Context().Value(connKey{}).(*held)
	if !ok {
		_, err := w.Write(body)
		return err
	}
	if err := conn.cork(1); err != nil {
		return err
	}
	_, err := w.Write(body)
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		return err
	}
	return conn.cork(0)
}

func (c *held) cork(on int) (err error) {
	if ctl := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on)
	}); ctl != nil {
		return ctl
	}
	return err
}
