// SPDX-License-Identifier: Apache-2.0

package cases

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// The agent's timeouts in a replay. The longest pause in a case is below them.
const (
	idleTimeout    = 2 * time.Second
	requestTimeout = 6 * time.Second
	metricsAddress = "127.0.0.1:9464"
)

// stage is a network namespace with an agent and pairs of interfaces. The agent
// captures at one end of each, named case0, case1, ...; the other end is peer0, ... The
// kernel neither answers nor sends anything there: no addresses, no ARP, no IPv6.
type stage struct {
	namespace *sandbox.Namespace
	group     *sandbox.Group
	agent     *sandbox.Process
	lines     string // file of the agent's output
	pairs     []pair
}

// pair has the indexes of both interfaces.
type pair struct{ near, peer int }

func caseInterface(n int) string { return "case" + strconv.Itoa(n) }

// newStage makes a stage of n pairs with an agent that watches them.
func newStage(ctx context.Context, dir, agent, name string, n int, flags ...string) (s *stage, err error) {
	s = &stage{lines: filepath.Join(dir, name+".jsonl")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.group, err = sandbox.NewGroup("layertrace-" + name); err != nil {
		return s, err
	}
	if s.namespace, err = sandbox.NewNamespace("layertrace-" + name); err != nil {
		return s, err
	}
	if err := s.addPairs(n); err != nil {
		return s, fmt.Errorf("make the interfaces of the cases: %w", err)
	}
	s.agent, err = sandbox.Start(sandbox.Spec{
		Name: "agent", Path: agent,
		Args: append([]string{
			"agent", "--node", "cases", "--vnic", "case*", "--pnic", "", "--export", "stdout",
			"--idle-timeout", idleTimeout.String(), "--request-timeout", requestTimeout.String(),
			"--metrics-address", metricsAddress,
		}, flags...),
		Namespace: s.namespace, Cgroup: s.group, Stdout: s.lines, Stderr: filepath.Join(dir, name+".log"),
	})
	if err != nil {
		return s, err
	}
	return s, sandbox.AwaitReady(ctx, s.agent, time.Minute, 20*time.Millisecond, func(ctx context.Context) error {
		if _, err := s.namespace.Get(ctx, "http://"+metricsAddress+"/readyz"); err != nil {
			return err
		}
		attached, err := s.metric(ctx, "layertrace_interfaces")
		if err == nil && int(attached) != n {
			err = fmt.Errorf("attached to %.0f of %d interfaces", attached, n)
		}
		return err
	})
}

func (s *stage) addPairs(n int) error {
	err := s.namespace.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	})
	if err != nil {
		return fmt.Errorf("turn IPv6 off: %w", err)
	}
	nl, err := s.namespace.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	for i := range n {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = caseInterface(i), 65000
		attrs.Flags = net.FlagUp
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerMTU = "peer"+strconv.Itoa(i), 65000
		if err := nl.LinkAdd(veth); err != nil {
			return err
		}
		var p pair
		for name, index := range map[string]*int{attrs.Name: &p.near, veth.PeerName: &p.peer} {
			link, err := nl.LinkByName(name)
			if err == nil {
				err = errors.Join(nl.LinkSetARPOff(link), nl.LinkSetUp(link))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			*index = link.Attrs().Index
		}
		s.pairs = append(s.pairs, p)
	}
	return nil
}

// play sends packets at the pace of their timestamps, and returns when each was sent.
// Those of the client arrive at the agent's interface, those of the server leave through
// it.
func (s *stage) play(pair int, packets []packet) (sent []time.Duration, err error) {
	err = s.namespace.Do(func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w", err)
		}
		defer unix.Close(fd)
		start := time.Now()
		for i, p := range packets {
			time.Sleep(p.at - time.Since(start)) // the pace of the capture
			index := s.pairs[pair].near
			if p.toServer || p.tagged() {
				index = s.pairs[pair].peer
			}
			sent = append(sent, time.Since(start))
			if err := unix.Sendto(fd, p.data, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
				return fmt.Errorf("send packet %d of %d bytes: %w", i+1, len(p.data), err)
			}
		}
		return nil
	})
	return sent, err
}

// tagged reports a frame with a VLAN tag. The kernel's own tags are beside the frame, and
// it takes the tag off where a frame arrives; one that a packet socket sends keeps it.
func (p *packet) tagged() bool {
	kind := binary.BigEndian.Uint16(p.data[12:])
	return kind == uint16(layers.EthernetTypeDot1Q) || kind == uint16(layers.EthernetTypeQinQ)
}

// schedule returns how a time in ms after the first request became one in the replay: a
// process that sends packets on a busy machine is late at times, and all that follows
// with it.
func schedule(packets []packet, sent []time.Duration) func(ms float64) float64 {
	request := slices.IndexFunc(packets, func(p packet) bool { return p.toServer && bytes.Contains(p.data, []byte(" HTTP/1.")) })
	if request < 0 || len(sent) != len(packets) {
		return func(ms float64) float64 { return ms }
	}
	return func(ms float64) float64 {
		planned := packets[request].at + time.Duration(ms*1e6)
		nearest := 0
		for i, p := range packets {
			if (p.at - planned).Abs() < (packets[nearest].at - planned).Abs() {
				nearest = i
			}
		}
		late := (sent[nearest] - packets[nearest].at) - (sent[request] - packets[request].at)
		return ms + float64(late)/1e6
	}
}

// settle waits until the agent has written all exchanges that began.
func (s *stage) settle(ctx context.Context) error {
	return sandbox.Await(ctx, "the agent to report all exchanges", requestTimeout+10*time.Second, 100*time.Millisecond,
		func(ctx context.Context) error {
			started, err := s.metric(ctx, "layertrace_exchanges_started_total")
			if err != nil {
				return err
			}
			for _, name := range []string{"layertrace_exchanges_emitted_total", "layertrace_lines_written_total"} {
				reported, err := s.metric(ctx, name)
				if err == nil && reported < started {
					err = fmt.Errorf("%s is %.0f of %.0f", name, reported, started)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
}

// read returns what the agent has written, by interface.
func (s *stage) read() (map[string][]Line, error) {
	text, err := os.ReadFile(s.lines)
	if err != nil {
		return nil, fmt.Errorf("read the agent's lines: %w", err)
	}
	lines, err := readLines(string(text))
	if err != nil {
		return nil, err
	}
	all := map[string][]Line{}
	for _, l := range lines {
		all[l.InterfaceName] = append(all[l.InterfaceName], l)
	}
	return all, nil
}

// metric returns the sum of a metric's values; labels is part of a line's labels, such
// as `kind="vxlan"`, or "".
func (s *stage) metric(ctx context.Context, name string, labels ...string) (sum float64, err error) {
	text, err := s.namespace.Get(ctx, "http://"+metricsAddress+"/metrics")
	if err != nil {
		return 0, err
	}
	pattern := "(?m)^" + regexp.QuoteMeta(name) + `(?:\{([^}]*)\})? (\S+)$`
	found := false
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		if len(labels) > 0 && !regexp.MustCompile(regexp.QuoteMeta(labels[0])).MatchString(m[1]) {
			continue
		}
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return 0, fmt.Errorf("read metric %s: %w", name, err)
		}
		found = true
		sum += value
	}
	if !found {
		return 0, fmt.Errorf("the agent has no metric %s %v", name, labels)
	}
	return sum, nil
}

// close ends the agent and removes all that newStage made.
func (s *stage) close() error {
	var errs []error
	if s.agent != nil {
		errs = append(errs, s.agent.Stop(20*time.Second))
	}
	if s.namespace != nil {
		errs = append(errs, s.namespace.Delete())
	}
	if s.group != nil {
		errs = append(errs, s.group.Remove(context.Background()))
	}
	return errors.Join(errs...)
}
