// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// starve takes all CPU time from a pod's Envoy, by an exhausted limit, until the
// request has waited at the pod's interface for the magnitude. The result is the time
// from its arrival until Envoy read it, which includes the time for Envoy to resume
// and to serve earlier requests.
func (in *Injector) starve(ctx context.Context, c Case, r Request) (injected time.Duration, err error) {
	limit, err := in.limit(c.Pod)
	if err != nil {
		return 0, err
	}
	a, err := in.watchArrival(c.Pod, r.TraceID)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := exhaust(ctx, limit); err != nil {
		return 0, err
	}
	waited := make(chan error, 1)
	go func() {
		var err error
		select {
		case request := <-a.arrived:
			err = in.lab.PodNamespace(c.Pod).DoOnce(func() (err error) {
				injected, err = in.holdUnread(c, request, limit)
				return err
			})
		case <-time.After(5 * time.Second): // missed
		}
		waited <- errors.Join(err, limit.Lift())
	}()
	err = errors.Join(r.Send(ctx), <-waited)
	return orMissed(injected, err)
}

// limit returns the CPU limit of a pod's Envoy.
func (in *Injector) limit(pod string) (*sandbox.CPULimit, error) {
	if l := in.limits[pod]; l != nil {
		return l, nil
	}
	l, err := in.lab.SidecarGroup(pod).LimitCPU(starvedPeriod)
	if err == nil {
		in.limits[pod] = l
	}
	return l, err
}

// holdUnread lifts the limit when a request has waited for the magnitude, and returns
// how long it waited until it was read; 0 if it was read before. It changes the
// scheduling of its thread.
func (in *Injector) holdUnread(c Case, request arrival, limit *sandbox.CPULimit) (time.Duration, error) {
	queue, err := openReceiveQueue(in.lab.PodNamespace(c.Pod), request.local, request.remote)
	if err != nil {
		return 0, err
	}
	defer queue.Close()
	// To poll on time even while Envoy catches up.
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0); err != nil {
		return 0, fmt.Errorf("set real-time scheduling: %w", err)
	}
	time.Sleep(c.Magnitude - time.Since(request.at)) // the fault
	left, err := queue.unread()
	if err != nil || left == 0 {
		return 0, err
	}
	if err := limit.Lift(); err != nil {
		return 0, err
	}
	read, err := queue.awaitRead()
	return read.Sub(request.at), err
}

const (
	// The smallest quota and the longest period that the kernel accepts
	// (tg_set_cfs_bandwidth in kernel/sched/core.c): after the quota a group is
	// mostly throttled for longer than any fault. The kernel determines when the
	// next period begins.
	starvedQuota  = time.Millisecond
	starvedPeriod = time.Second
	// A group that has not run for this long is throttled, not just waiting for a
	// CPU.
	minIdle = 2 * time.Millisecond
)

// cpuHogs are processes, one per CPU, that use up the quota of a cgroup.
type cpuHogs []*exec.Cmd

// exhaust limits the CPU time of a group and uses it up: when it returns, nothing in
// the group runs until the limit is lifted or the next period begins.
func exhaust(ctx context.Context, limit *sandbox.CPULimit) (err error) {
	var h cpuHogs
	defer func() {
		// They end before the request arrives, so that the starved process does
		// not share its CPU time with them.
		err = errors.Join(err, h.end(limit))
		if err != nil {
			err = errors.Join(err, limit.Lift())
		}
	}()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("list the CPUs: %w", err)
	}
	for cpu := 0; len(h) < cpus.Count(); cpu++ {
		if !cpus.IsSet(cpu) {
			continue
		}
		hog := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			return fmt.Errorf("start a CPU hog: %w", err)
		}
		h = append(h, hog)
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(hog.Process.Pid, &set); err != nil {
			return fmt.Errorf("bind a CPU hog to CPU %d: %w", cpu, err)
		}
		if err := limit.Add(hog.Process.Pid); err != nil {
			return err
		}
	}
	before, err := limit.CPU()
	if err != nil {
		return err
	}
	if err := limit.Set(starvedQuota); err != nil {
		return err
	}
	last, ranAt := before, time.Now()
	return sandbox.Await(ctx, "a group to use up its CPU time", starvedPeriod/2, minIdle/10, func(context.Context) error {
		now, err := limit.CPU()
		if err != nil {
			return err
		}
		if now > last {
			last, ranAt = now, time.Now()
		}
		if last-before < starvedQuota || time.Since(ranAt) < minIdle {
			return fmt.Errorf("ran for %v, last %v ago", last-before, time.Since(ranAt))
		}
		return nil
	})
}

// end moves the hogs out of the group, where they could not even exit, and kills
// them.
func (h cpuHogs) end(limit *sandbox.CPULimit) error {
	var errs []error
	for _, hog := range h {
		errs = append(errs, limit.Release(hog.Process.Pid), hog.Process.Kill())
		var killed *exec.ExitError
		if err := hog.Wait(); !errors.As(err, &killed) {
			errs = append(errs, fmt.Errorf("end a CPU hog: %w", err))
		}
	}
	return errors.Join(errs...)
}

// arrivalWatch captures at a pod's interface until the request of a trace arrives.
type arrivalWatch struct {
	*capture
	pod     lab.Pod
	traceID []byte

	once    sync.Once
	arrived chan arrival
}

// arrival is a request that has arrived at a pod.
type arrival struct {
	at time.Time
	// local and remote are the ends of the connection of the pod's Envoy.
	local, remote netip.AddrPort
}

// watchArrival starts a watch; close it.
func (in *Injector) watchArrival(pod, traceID string) (*arrivalWatch, error) {
	p, err := lab.PodByName(pod)
	if err != nil {
		return nil, err
	}
	a := &arrivalWatch{pod: p, traceID: []byte(traceID), arrived: make(chan arrival, 1)}
	a.capture, err = openCapture(in.lab.PodNamespace(pod), "eth0", func(s segment) { a.see(in.secrets.reveal(s)) })
	return a, err
}

func (a *arrivalWatch) see(s segment) {
	local := s.Dst
	switch {
	case local.Addr().String() != a.pod.IP:
		return
	case !a.pod.Gateway && local.Port() == lab.AppPort:
		local = netip.AddrPortFrom(local.Addr(), lab.InboundPort) // redirected
	case local.Port() != lab.GatewayPort:
		return
	}
	if bytes.Contains(s.Data, a.traceID) {
		a.once.Do(func() { a.arrived <- arrival{at: s.Time, local: local, remote: s.Src} })
	}
}

// receiveQueue is the receive queue of a socket, as the kernel reports it; close it.
// The fault laboratory uses it to detect when an Envoy reads.
type receiveQueue struct {
	socket        *nl.SocketHandle
	local, remote netip.AddrPort
}

func openReceiveQueue(namespace *sandbox.Namespace, local, remote netip.AddrPort) (*receiveQueue, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.NsHandle(namespace.FD()), netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag(7) in %s: %w", namespace.Name, err)
	}
	return &receiveQueue{socket: &nl.SocketHandle{Socket: socket}, local: local, remote: remote}, nil
}

// Close closes the netlink socket.
func (u *receiveQueue) Close() { u.socket.Close() }

// rqueueAt is the offset of idiag_rqueue, the number of unread bytes, in struct
// inet_diag_msg (include/uapi/linux/inet_diag.h).
const rqueueAt = 56

// unread returns the number of unread bytes.
func (u *receiveQueue) unread() (uint32, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: u.socket}
	req.AddRawData(diagRequest(u.local, u.remote))
	sockets, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err == nil && (len(sockets) != 1 || len(sockets[0]) < rqueueAt+4) {
		err = errors.New("not one socket")
	}
	if err != nil {
		return 0, fmt.Errorf("query socket %v to %v by sock_diag(7): %w", u.local, u.remote, err)
	}
	return binary.NativeEndian.Uint32(sockets[0][rqueueAt:]), nil
}

// Interval and limit of polling a receive queue.
const (
	pollInterval = 50 * time.Microsecond
	pollLimit    = 2 * time.Second
)

// awaitRead waits until the queue is empty and returns when that happened: the middle
// between two polls.
func (u *receiveQueue) awaitRead() (time.Time, error) {
	began := time.Now()
	for before := began; ; {
		left, err := u.unread()
		now := time.Now()
		switch {
		case err != nil:
			return time.Time{}, err
		case left == 0:
			return before.Add(now.Sub(before) / 2), nil
		case now.Sub(began) > pollLimit:
			return time.Time{}, fmt.Errorf("wait for %v to read: %d bytes unread after %v", u.local, left, pollLimit)
		}
		before = now
		// Go's timers are not precise enough.
		pause := unix.NsecToTimespec(int64(pollInterval))
		if err := unix.Nanosleep(&pause, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return time.Time{}, fmt.Errorf("sleep: %w", err)
		}
	}
}

// diagRequest returns struct inet_diag_req_v2 for a TCP socket over IPv4.
func diagRequest(local, remote netip.AddrPort) []byte {
	msg := []byte{unix.AF_INET, unix.IPPROTO_TCP, 0, 0}
	msg = binary.NativeEndian.AppendUint32(msg, ^uint32(0)) // in any state
	msg = binary.BigEndian.AppendUint16(msg, local.Port())
	msg = binary.BigEndian.AppendUint16(msg, remote.Port())
	for _, addr := range []netip.Addr{local.Addr(), remote.Addr()} {
		var field [16]byte
		copy(field[:], addr.AsSlice())
		msg = append(msg, field[:]...)
	}
	msg = binary.NativeEndian.AppendUint32(msg, 0)           // at any interface
	return binary.NativeEndian.AppendUint64(msg, ^uint64(0)) // INET_DIAG_NOCOOKIE, twice
}
