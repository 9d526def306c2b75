// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// site is an interface to capture at.
type site struct {
	namespace *sandbox.Namespace
	nic       string
}

// recording is what was captured at a site.
type recording struct{ recorder }

// captureAt captures at sites while it calls do.
func (in *Injector) captureAt(sites []site, do func(seen []*recording) error) (seen []*recording, err error) {
	var captures []*capture
	for _, s := range sites {
		one := &recording{}
		c, err := openCapture(s.namespace, s.nic, func(s segment) { one.record(in.secrets.reveal(s)) })
		if err != nil {
			return nil, errors.Join(err, closeAll(captures))
		}
		captures, seen = append(captures, c), append(seen, one)
	}
	err = do(seen)
	return seen, errors.Join(err, closeAll(captures))
}

func closeAll(captures []*capture) error {
	var errs []error
	for _, c := range captures {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// exchanges returns the exchanges of a trace between pods.
func (s *recording) exchanges(traceID string) []exchange { return s.exchangesOf(traceID, lab.AppPort) }

// message returns the message of a transfer.
func (s *recording) message(traceID string, transfer Transfer) (message, error) {
	for _, e := range s.exchanges(traceID) {
		if e.Request.Src.Addr().String() != podIP(transfer.Caller) || e.Request.Dst.Addr().String() != podIP(transfer.Callee) {
			continue
		}
		if !transfer.Response {
			return e.Request, nil
		}
		if e.Response.Src.IsValid() {
			return e.Response, nil
		}
	}
	return message{}, fmt.Errorf("%w: the message was not captured", ErrMissed)
}

// captureInside captures between a pod's Envoy and its application while it calls do;
// at the interface of a pod without Envoy.
func (in *Injector) captureInside(pod string, do func() error) (seen *recording, err error) {
	p, err := lab.PodByName(pod)
	if err != nil {
		return nil, err
	}
	seen = &recording{}
	nic, handle := "lo", func(s segment) { seen.record(redirectedBack(s)) }
	if p.Plain {
		nic, handle = "eth0", seen.record
	}
	t, err := openCapture(in.lab.PodNamespace(pod), nic, handle)
	if err != nil {
		return nil, err
	}
	err = do()
	return seen, errors.Join(err, t.Close())
}

// redirectedBack undoes the address translation of the response to a call: it sets the
// source to where the call was redirected, instead of the address that the application
// called.
func redirectedBack(s segment) segment {
	for _, service := range lab.Services {
		if s.Src.Port() == lab.AppPort && s.Src.Addr().String() == service.ClusterIP {
			s.Src = redirected
		}
	}
	return s
}

// redirected is where an Envoy accepts connections of its application.
var redirected = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), lab.OutboundPort)

// residence returns how long the request of a trace was in the application, without
// the calls that the application made for it. The recording is of the pod's loopback
// interface. 0 if the request was not captured completely.
func (s *recording) residence(traceID string) (total time.Duration) {
	for _, e := range s.exchangesOf(traceID, lab.AppPort, lab.OutboundPort) {
		if !e.Response.Src.IsValid() {
			return 0
		}
		isCall := e.Request.Dst == redirected
		responded := s.began
		if isCall {
			responded = s.passed
		}
		from, ok1 := s.passed(e.Request)
		to, ok2 := responded(e.Response)
		if !ok1 || !ok2 {
			return 0
		}
		if isCall {
			total -= to.Sub(from)
		} else {
			total += to.Sub(from)
		}
	}
	return max(total, 0)
}

// capture captures TCP segments at an interface with a packet socket.
type capture struct {
	file *os.File
	done chan error
}

// openCapture captures at an interface: it calls handle for each TCP segment with data
// in either direction, with the kernel's timestamp. Egress segments are captured after
// the interface's queue. The segment's Data is valid during the call.
func openCapture(namespace *sandbox.Namespace, nic string, handle func(segment)) (*capture, error) {
	t := &capture{done: make(chan error, 1)}
	err := namespace.Do(func() (err error) {
		t.file, err = openPacketSocket(nic)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture at %s in %s: %w", nic, namespace.Name, err)
	}
	go func() { t.done <- t.read(handle) }()
	return t, nil
}

func openPacketSocket(nic string) (*os.File, error) {
	link, err := net.InterfaceByName(nic)
	if err != nil {
		return nil, err
	}
	// Protocol 0: receive nothing before the socket is bound to the interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		os.NewSyscallError("setsockopt SO_RCVBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)),
		os.NewSyscallError("setsockopt SO_TIMESTAMPNS", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)),
	)
	if err == nil {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

// read handles segments until Close, and then those left in the socket.
func (t *capture) read(handle func(segment)) error {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	frame, control := make([]byte, 1<<17), make([]byte, 128)
	drain := func(fd uintptr) bool {
		for {
			n, controls, _, _, err := unix.Recvmsg(int(fd), frame, control, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				failed = os.NewSyscallError("recvmsg", err)
				return true
			}
			if segment, ok := parseFrame(frame[:n]); ok {
				segment.Time = kernelTime(control[:controls])
				handle(segment)
			}
		}
	}
	if err := raw.Read(drain); failed == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	// Read fails after the deadline; Control does not.
	return errors.Join(failed, raw.Control(func(fd uintptr) { drain(fd) }))
}

// kernelTime returns the kernel's timestamp of a packet.
func kernelTime(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
			seconds := binary.NativeEndian.Uint64(m.Data)
			return time.Unix(int64(seconds), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// Close handles the segments that have passed until now, and ends the capture. A
// packet that the kernel dropped is an error.
func (t *capture) Close() error {
	err := t.file.SetReadDeadline(time.Unix(1, 0))
	if err == nil {
		err = <-t.done
	}
	err = errors.Join(err, t.dropped(), t.file.Close())
	if err != nil {
		return fmt.Errorf("end the capture: %w", err)
	}
	return nil
}

func (t *capture) dropped() error {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	var stats *unix.TpacketStats
	if ctl := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); ctl != nil {
		return ctl
	}
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("the kernel dropped %d packets", stats.Drops)
	}
	return err
}

// segment is a TCP segment with data that passed an interface.
type segment struct {
	Src, Dst netip.AddrPort
	Seq      uint32
	// Length is the length of the data, Data its first bytes.
	Length int
	Data   []byte
	Time   time.Time
}

// end returns the sequence number after the segment.
func (s segment) end() uint32 { return s.Seq + uint32(s.Length) }

const (
	etherLength = 14
	etherIPv4   = 0x0800
	protocolTCP = 6
)

// parseFrame parses an Ethernet frame. ok is false unless it is TCP with data over
// IPv4. The segment refers to the frame's data.
func parseFrame(frame []byte) (s segment, ok bool) {
	if len(frame) < etherLength || binary.BigEndian.Uint16(frame[12:]) != etherIPv4 {
		return s, false
	}
	return parseIPv4(frame[etherLength:])
}

// parseIPv4 parses an IPv4 packet like parseFrame.
func parseIPv4(packet []byte) (s segment, ok bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[9] != protocolTCP {
		return s, false
	}
	header, total := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
	if header < 20 || total > len(packet) || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
		return s, false
	}
	src, dst := netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
	if total < header+20 {
		return s, false
	}
	tcp := packet[header:total]
	offset := int(tcp[12]>>4) * 4
	if offset < 20 || offset >= len(tcp) {
		return s, false
	}
	return segment{
		Src:    netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
		Dst:    netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])),
		Seq:    binary.BigEndian.Uint32(tcp[4:]),
		Length: len(tcp) - offset,
		Data:   tcp[offset:],
	}, true
}
