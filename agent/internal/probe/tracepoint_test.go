// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// without makes the kernel lack tracepoints for one test.
func without(t *testing.T, names ...string) {
	t.Helper()
	t.Cleanup(func() { haveTracepoint = HaveTracepoint })
	haveTracepoint = func(name string, arguments int) error {
		if slices.Contains(names, name) {
			return fmt.Errorf("no %s: %w", name, ebpf.ErrNotSupported)
		}
		return HaveTracepoint(name, arguments)
	}
}

func TestHaveTracepoint(t *testing.T) {
	needs(t, HaveTracepoint("tcp_sendmsg_locked", 2)) // the newest of them
	for _, p := range slices.Concat(driverPoints, socketPoints, writePoints) {
		if err := HaveTracepoint(p.name, p.arguments); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		if err := HaveTracepoint(p.name, 10); !errors.Is(err, ebpf.ErrNotSupported) {
			t.Errorf("%s with 10 arguments: %v", p.name, err)
		}
	}
	if err := HaveTracepoint("no_such_point", 0); !errors.Is(err, ebpf.ErrNotSupported) {
		t.Errorf("got %v", err)
	}
}

// A kernel without a tracepoint: the rest works, and what is off is said once.
func TestKernelWithoutTracepoints(t *testing.T) {
	needsWrites(t)
	if !inNamespace(t) {
		return
	}
	n := newNetwork(t)
	for _, test := range []struct {
		missing []string
		said    int
	}{
		{[]string{"tcp_sendmsg_locked", "sock_send_length", "kfree_skb"}, 3},
		{[]string{"cgroup_mkdir", "kfree_skb"}, 3},
		{[]string{"tcp_rcv_space_adjust", "qdisc_dequeue", "kfree_skb"}, 4},
	} {
		t.Run(strings.Join(test.missing, " "), func(t *testing.T) {
			without(t, test.missing...)
			writes := !slices.Contains(test.missing, "tcp_sendmsg_locked") && !slices.Contains(test.missing, "cgroup_mkdir")
			reads := !slices.Contains(test.missing, "tcp_rcv_space_adjust")
			drivers := !slices.Contains(test.missing, "qdisc_dequeue")
			var log bytes.Buffer
			k := newKernel(t, Options{
				Sockets: true, SocketCgroups: []string{n.group}, Drivers: true, Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			must(t, k.probe.Attach(n.ifindex))
			n.talk(t)
			sockets, interfaces := 0, 0
			for _, x := range k.exchanges() {
				if x.Socket != nil {
					sockets++
					told := reads
					if x.Socket.Client {
						told = writes
					}
					if (x.Request.App.Last != 0) != told {
						t.Errorf("client %v: request handed over at %d, told: %v", x.Socket.Client, x.Request.App.Last, told)
					}
				} else {
					interfaces++
					if (x.Request.Tx.Last != 0) != drivers {
						t.Errorf("at the interface: transmitted at %d, known: %v", x.Request.Tx.Last, drivers)
					}
				}
			}
			if sockets != 2*requests || interfaces != requests {
				t.Errorf("%d exchanges at sockets and %d at the interface, of %d requests", sockets, interfaces, requests)
			}
			if got := strings.Count(log.String(), "level=WARN"); got != test.said {
				t.Errorf("%d things are off, it said:\n%s", test.said, &log)
			}
		})
	}
}

// What is no lack of a feature stays an error.
func TestRefusedTracepoint(t *testing.T) {
	t.Cleanup(func() { haveTracepoint = HaveTracepoint })
	haveTracepoint = func(string, int) error { return fs.ErrPermission }
	p, err := Open(Options{Drivers: true, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
	if err == nil {
		must(t, p.Close())
	}
}

func TestDoWithout(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if err := doWithout(fmt.Errorf("load: %w", ebpf.ErrNotSupported), "sockets are off", log); err != nil || !strings.Contains(out.String(), "sockets are off") {
		t.Errorf("%v, said %q", err, &out)
	}
	if err := doWithout(fs.ErrPermission, "off", log); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("permission: %v", err)
	}
	if err := doWithout(nil, "off", log); err != nil || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%v, said %q", err, &out)
	}
}
