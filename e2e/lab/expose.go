// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/layertrace/layertrace/e2e/lab/jaeger"
)

// ExposeJaeger makes Jaeger reachable from the host's own network, on loopback
// and Jaeger's usual port, or any free one when that is taken. Nothing of the
// host's network is changed: connections are passed on.
func (l *Lab) ExposeJaeger() (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(jaeger.QueryPort)))
	if err != nil {
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", nil, fmt.Errorf("expose Jaeger: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go l.pass(ctx, conn)
		}
	}()
	stop = func() {
		cancel()
		_ = listener.Close() // nothing is lost by it
	}
	return listener.Addr().String(), stop, nil
}

// pass copies between a connection from the host and Jaeger until either side
// closes or ctx is done.
func (l *Lab) pass(ctx context.Context, from net.Conn) {
	defer from.Close()
	to, err := l.network.sw.DialContext(ctx, "tcp", net.JoinHostPort(InfraIP, strconv.Itoa(jaeger.QueryPort)))
	if err != nil {
		return
	}
	defer to.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { from.Close(); to.Close() })()
	go func() {
		defer cancel()
		_, _ = io.Copy(to, from)
	}()
	_, _ = io.Copy(from, to)
	cancel()
}
