// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// PortForward lets clients on the host's loopback reach a port in a network
// namespace. It changes nothing in the host's network.
type PortForward struct {
	listener  net.Listener
	namespace *Namespace
	target    string
	ctx       context.Context
	cancel    context.CancelFunc
	done      sync.WaitGroup
}

// ForwardPort forwards connections to a port of 127.0.0.1, or to any free one if that
// is taken or 0, to target in the namespace. Close it.
func ForwardPort(namespace *Namespace, port int, target string) (*PortForward, error) {
	listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("open a port for %s: %w", namespace.Name, err)
	}
	f := &PortForward{listener: listener, namespace: namespace, target: target}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.done.Go(f.accept)
	return f, nil
}

// Address returns the address on the host, IP:port.
func (f *PortForward) Address() string { return f.listener.Addr().String() }

// Close closes the port and all connections through it.
func (f *PortForward) Close() error {
	f.cancel()
	err := f.listener.Close()
	f.done.Wait()
	return err
}

func (f *PortForward) accept() {
	for {
		client, err := f.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			f.done.Go(func() { f.forward(client) })
		}
	}
}

// forward copies in both directions until both sides have ended or f is closed.
// The client sees a failure as the end of its connection.
func (f *PortForward) forward(client net.Conn) {
	defer client.Close()
	server, err := f.namespace.DialContext(f.ctx, "tcp4", f.target)
	if err != nil {
		return
	}
	defer server.Close()
	stop := context.AfterFunc(f.ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	both.Wait()
}

// pipe copies until from ends, and then ends the sending side of to.
func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}
