// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/e2e/peer/ask"
)

// hold opens connections from several addresses in turn, at a rate per second, sends a
// request for an endless response on each, and reads the first bytes of the response.
// It then keeps them all open until SIGTERM.
func hold(server string, from []string, connections, rate int) error {
	end := terminated()
	var (
		kept  = make([]net.Conn, connections)
		next  atomic.Int64
		group sync.WaitGroup
	)
	const workers = 64
	failed := make(chan error, workers)
	start := time.Now()
	for range workers {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= connections {
					return
				}
				time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate)))) // the pace
				conn, err := open(server, from[i%len(from)])
				if err != nil {
					failed <- fmt.Errorf("connection %d of %d: %w", i+1, connections, err)
					return
				}
				kept[i] = conn
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	if err := say(ask.Event{Path: ask.Endless, Start: start, Took: time.Since(start), Open: connections}); err != nil {
		return err
	}
	<-end
	var errs []error
	for _, conn := range kept {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// open sends a request from an address and reads the beginning of the response.
func open(server, from string) (net.Conn, error) {
	address, err := netip.ParseAddr(from)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, 0))}
	conn, err := dialer.Dial("tcp4", server)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(ask.Head(ask.NewTraceID(), ask.Endless))
	if err == nil {
		_, err = conn.Read(make([]byte, 512))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
