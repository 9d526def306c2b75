// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// PacketCapture is a running tcpdump.
type PacketCapture struct {
	process *sandbox.Process
	log     string
}

// CapturePackets starts a tcpdump that writes the packets of TCP port 9080 at a
// node's interface to a file. It returns when tcpdump listens.
func (l *Lab) CapturePackets(ctx context.Context, node int, nic, file string) (*PacketCapture, error) {
	return l.capture(ctx, node, file, "--immediate-mode", "-s", "0", "-i", nic, "tcp", "port", strconv.Itoa(AppPort))
}

// CaptureCalls captures like CapturePackets what a pod sends to other pods, and receives
// from them, at the host end of its interface. The times are in ns.
func (l *Lab) CaptureCalls(ctx context.Context, pod Pod, file string) (*PacketCapture, error) {
	filter := fmt.Sprintf("tcp and ((src host %[1]s and dst port %[2]d) or (dst host %[1]s and src port %[2]d))", pod.IP, AppPort)
	return l.capture(ctx, pod.Node, file, "--time-stamp-precision=nano", "-s", "0", "-i", pod.VNIC, filter)
}

// CaptureHeaders captures like CapturePackets the headers of the packets at all interfaces
// of a node. The link type is LINUX_SLL2, which has the interface's index. The times are in
// ns.
func (l *Lab) CaptureHeaders(ctx context.Context, node int, file string) (*PacketCapture, error) {
	return l.capture(ctx, node, file, "--time-stamp-precision=nano", "-s", "100", "-i", "any", "-y", "LINUX_SLL2",
		"tcp", "port", strconv.Itoa(AppPort))
}

func (l *Lab) capture(ctx context.Context, node int, file string, args ...string) (*PacketCapture, error) {
	path, err := exec.LookPath("tcpdump")
	if err != nil {
		return nil, fmt.Errorf("capture packets (install tcpdump): %w", err)
	}
	c := &PacketCapture{log: file + ".log"}
	c.process, err = sandbox.Start(sandbox.Spec{
		Name: "tcpdump", Path: path,
		// Through a buffer of 32 MiB, written as root.
		Args:      append([]string{"-B", "32768", "-Z", "root", "-w", file}, args...),
		Namespace: l.network.nodes[node], Cgroup: l.groups["infra"], Stderr: c.log,
	})
	if err != nil {
		return nil, err
	}
	err = l.ready(ctx, c.process, func(context.Context) error {
		text, err := os.ReadFile(c.log)
		if err == nil && !strings.Contains(string(text), "listening on") {
			err = errors.New("tcpdump does not listen yet")
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, c.process.Kill())
	}
	return c, nil
}

var tcpdumpCounts = regexp.MustCompile(`(\d+) packets? captured, (\d+) packets? received by filter, (\d+) packets? dropped by kernel`)

// Stop ends the capture after tcpdump has written all packets that passed until
// now. A dropped packet is an error.
func (c *PacketCapture) Stop(ctx context.Context) error {
	err := sandbox.Await(ctx, "tcpdump to write all packets", 20*time.Second, 50*time.Millisecond, func(context.Context) error {
		// On this signal it logs its counts, which the next call reads.
		if err := c.process.Signal(syscall.SIGUSR1); err != nil {
			return err
		}
		text, err := os.ReadFile(c.log)
		if err != nil {
			return err
		}
		counts := tcpdumpCounts.FindAllStringSubmatch(string(text), -1)
		if len(counts) == 0 {
			return errors.New("no counts yet")
		}
		last := counts[len(counts)-1]
		if last[3] != "0" || last[1] != last[2] {
			return errors.New(last[0])
		}
		return nil
	})
	return errors.Join(err, c.process.Stop(20*time.Second))
}
