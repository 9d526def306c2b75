// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

func TestSpend(t *testing.T) {
	group, err := sandbox.NewGroup(fmt.Sprintf("layertrace-test-spend-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	limit, err := group.LimitCPU(starvedPeriod)
	if err != nil {
		t.Fatal(err)
	}
	answers := responding(t, limit)
	answered := func() time.Duration {
		began := time.Now()
		answers()
		return time.Since(began)
	}
	answered()
	const held = 30 * time.Millisecond
	// A period that begins meanwhile lets it respond, but not repeatedly.
	for range 5 {
		if err := exhaust(t.Context(), limit); err != nil {
			t.Fatal(err)
		}
		lifted := make(chan error, 1)
		time.AfterFunc(held, func() { lifted <- limit.Lift() })
		took := answered()
		if err := <-lifted; err != nil {
			t.Fatal(err)
		}
		t.Logf("response after %v", took)
		if took >= held {
			return
		}
	}
	t.Errorf("responses within %v, five times, with the CPU time used up", held)
}

func TestSpendInAGroupThatIsGone(t *testing.T) {
	group, err := sandbox.NewGroup(fmt.Sprintf("layertrace-test-gone-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	limit, err := group.LimitCPU(starvedPeriod)
	if err := errors.Join(err, group.Remove(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := exhaust(t.Context(), limit); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// responding starts a process in the limited group, and returns a function that waits
// for one response of it.
func responding(t *testing.T, limit *sandbox.CPULimit) (ask func()) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "while read -r line; do echo $line; done")
	to, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(to.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	if err := limit.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(from)
	return func() {
		t.Helper()
		if _, err := to.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnread(t *testing.T) {
	namespace, err := sandbox.NewNamespace(fmt.Sprintf("lt-unread%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespace.Delete(); err != nil {
			t.Error(err)
		}
	})
	var listener net.Listener
	if err := namespace.Do(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := namespace.DialContext(t.Context(), "tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	local, remote := addrPort(server.LocalAddr()), addrPort(server.RemoteAddr())
	queue, err := openReceiveQueue(namespace, local, remote)
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	expect := func(want uint32) {
		t.Helper()
		if err := sandbox.Await(t.Context(), "bytes to be unread", 5*time.Second, time.Millisecond, func(context.Context) error {
			got, err := queue.unread()
			if err == nil && got != want {
				err = fmt.Errorf("%d, want %d", got, want)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	expect(0)
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	expect(100)
	for _, left := range []uint32{40, 0} {
		if _, err := server.Read(make([]byte, 60)); err != nil {
			t.Fatal(err)
		}
		expect(left)
	}
	if _, err := client.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	expect(10)
	read := make(chan time.Time, 1)
	before := time.Now()
	time.AfterFunc(20*time.Millisecond, func() {
		if _, err := server.Read(make([]byte, 10)); err != nil {
			t.Error(err)
		}
		read <- time.Now()
	})
	at, err := queue.awaitRead()
	if after := <-read; err != nil || at.Before(before.Add(20*time.Millisecond)) {
		t.Errorf("read after %v, by the reader after %v (%v)", at.Sub(before), after.Sub(before), err)
	}
	queue.local = netip.AddrPortFrom(local.Addr(), local.Port()^1)
	if got, err := queue.unread(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without a connection: %d, %v", got, err)
	}
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
