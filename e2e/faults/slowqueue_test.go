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

// answers serves answers of size bytes, each after one byte of request.
func answers(t *testing.T, space *sandbox.Namespace, size int) {
	t.Helper()
	var listener net.Listener
	err := space.Do(func() (err error) {
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

// The last byte of a message leaves when the calculation says, by a tap behind
// the queue; a short message of the same connection is not touched.
func TestCalculationAndTapAgree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	a, b := pair(t)
	const size = 8 * mss // whole segments: a short last one may go by the fast class
	answers(t, b, size)
	conn, err := a.DialContext(context.Background(), "tcp", fmt.Sprintf("10.0.0.2:%d", testPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, want := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		slow := slowQueue{Namespace: b, NIC: "eth0", Match: queueMatch{Port: testPort, Response: true, Longer: 1100}, Rate: queueRate(size, want)}
		agree := false
		for range 20 { // a busy machine is late now and then, with the first segment as well
			passed, waited, calculated := passing(t, a, conn, slow, size)
			if waited < calculated-100*time.Microsecond {
				t.Errorf("%v: %v behind the question, calculated %v: too early", want, waited, calculated)
			}
			off := passed - calculated
			if agree = off.Abs() <= 100*time.Microsecond+calculated/50; agree {
				break
			}
			t.Logf("again: %v: %v by the tap, calculated %v", want, passed, calculated)
		}
		if !agree {
			t.Errorf("%v: tap and calculation never agree", want)
		}
	}
}

// passing asks once over conn, and returns how long the answer took to pass the
// slow queue by the tap, how long behind the question that was, which no lateness
// makes shorter, and how long it takes by calculation.
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
		t.Fatal("the answer did not pass")
	}
	return end.Sub(began), end.Sub(asked), queueDelay(found[0].Response.length(), slow.Rate)
}

// pair makes two namespaces: the first has a bridge 10.0.0.1 with the port
// veth, the second eth0 with 10.0.0.2.
func pair(t *testing.T) (a, b *sandbox.Namespace) {
	t.Helper()
	spaces := map[string]*sandbox.Namespace{}
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
		spaces[name] = s
	}
	a, b = spaces["a"], spaces["b"]
	if err := a.AddBridge("br", netip.MustParsePrefix("10.0.0.1/24").String()); err != nil {
		t.Fatal(err)
	}
	if err := a.AddPair("veth", "br", b, "10.0.0.2/24"); err != nil {
		t.Fatal(err)
	}
	return a, b
}
