// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

func TestRateAndDelay(t *testing.T) {
	if got := wireBytes(mss); got != 1514 {
		t.Errorf("a full segment has %d bytes on the wire", got)
	}
	if got := wireBytes(mss + 1); got != 1514+67 {
		t.Errorf("a byte more: %d", got)
	}
	for _, want := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond} {
		if got := queueDelay(12_000, queueRate(12_000, want)); got < want || got > want+want/1000 {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

const testPort = 9080

// serveBytes sends size bytes for each byte of request.
func serveBytes(t *testing.T, namespace *sandbox.Namespace, size int) {
	t.Helper()
	var listener net.Listener
	err := namespace.Do(func() (err error) {
		listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", testPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					if _, err := conn.Read(make([]byte, 16)); err != nil {
						return
					}
					if _, err := conn.Write(make([]byte, size)); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// A capture after the queue sees the last byte of a message at the calculated time. The
// queue does not delay a short message of the same connection.
func TestCalculationAndCaptureAgree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	a, b := pair(t)
	const size = 8 * mss // whole segments: a short last one may go by the fast class
	serveBytes(t, b, size)
	conn, err := a.DialContext(context.Background(), "tcp", fmt.Sprintf("10.0.0.2:%d", testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, want := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		slow := slowQueue{Namespace: b, NIC: "eth0", Match: queueMatch{Port: testPort, Response: true, Longer: 1100}, Rate: queueRate(size, want)}
		agree := false
		for range 20 { // a busy machine is sometimes late, even with the first segment
			passed, waited, calculated := passing(t, a, conn, slow, size)
			if waited < calculated-100*time.Microsecond {
				t.Errorf("%v: %v after the request, calculated %v: too early", want, waited, calculated)
			}
			off := passed - calculated
			if agree = off.Abs() <= 100*time.Microsecond+calculated/50; agree {
				break
			}
			t.Logf("again: %v: captured %v, calculated %v", want, passed, calculated)
		}
		if !agree {
			t.Errorf("%v: capture and calculation never agree", want)
		}
	}
}

// passing sends a request over conn, and returns how long the response took to pass the
// slow queue by the capture, how long after the request that was, which delays can only
// increase, and the calculated time.
func passing(t *testing.T, a *sandbox.Namespace, conn net.Conn, slow slowQueue, size int) (passed, waited, calculated time.Duration) {
	t.Helper()
	remove, err := slow.install()
	if err != nil {
		t.Fatal(err)
	}
	var r recorder
	watch, err := openCapture(a, "veth", r.record)
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	if _, err := conn.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(watch.Close(), remove()); err != nil {
		t.Fatal(err)
	}
	found := r.exchangesOf("?", testPort)
	if len(found) != 1 {
		t.Fatalf("%d exchanges", len(found))
	}
	began, _ := r.began(found[0].Response)
	end, ok := r.passed(found[0].Response)
	if !ok {
		t.Fatal("the response did not pass")
	}
	return end.Sub(began), end.Sub(asked), queueDelay(found[0].Response.length(), slow.Rate)
}

// pair creates two namespaces: the first has a bridge 10.0.0.1 with the port veth, the
// second eth0 with 10.0.0.2.
func pair(t *testing.T) (a, b *sandbox.Namespace) {
	t.Helper()
	namespaces := map[string]*sandbox.Namespace{}
	for _, name := range []string{"a", "b"} {
		s, err := sandbox.NewNamespace(fmt.Sprintf("lt-queue%d-%s", os.Getpid(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Delete(); err != nil {
				t.Error(err)
			}
		})
		namespaces[name] = s
	}
	a, b = namespaces["a"], namespaces["b"]
	if err := a.AddBridge("br", netip.MustParsePrefix("10.0.0.1/24").String()); err != nil {
		t.Fatal(err)
	}
	if err := a.AddPair("veth", "br", b, "10.0.0.2/24"); err != nil {
		t.Fatal(err)
	}
	return a, b
}
