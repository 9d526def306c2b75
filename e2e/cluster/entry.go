// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// entry lets clients on the host's loopback reach a port in a network
// namespace. The API server keeps a fixed port there, which on the host could
// be taken.
type entry struct {
	listener net.Listener
	space    *sandbox.Namespace
	target   string
	ctx      context.Context
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

func openEntry(space *sandbox.Namespace, target string) (*entry, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port for %s: %w", space.Name, err)
	}
	e := &entry{listener: listener, space: space, target: target}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.done.Go(e.accept)
	return e, nil
}

// Addr is the address on the host, IP:port.
func (e *entry) Addr() string { return e.listener.Addr().String() }

// Close closes the port and all connections through it.
func (e *entry) Close() error {
	e.cancel()
	err := e.listener.Close()
	e.done.Wait()
	return err
}

func (e *entry) accept() {
	for {
		client, err := e.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			e.done.Go(func() { e.forward(client) })
		}
	}
}

// forward copies both ways until both sides have ended, or the entry is
// closed. What fails here the client sees as a connection that ends.
func (e *entry) forward(client net.Conn) {
	defer client.Close()
	server, err := e.space.DialContext(e.ctx, "tcp4", e.target)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(e.ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

// pipe copies until from ends, and passes that on.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}
