// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

const (
	device = "relay0"
	// routes is the number of the routing table that leads into the device.
	routes = 100
)

// openDevice makes a TUN device that is gone when the file is closed.
func openDevice() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("ioctl TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// routeInto sends what comes in by the bridge for the pods, which a node did
// not send to another node by itself, into the device. What comes back out of
// it goes by the ordinary routes.
func routeInto(space *sandbox.Namespace, bridge, pods string) error {
	nl, err := space.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName(device)
	if err == nil {
		err = nl.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", device, err)
	}
	_, dst, err := net.ParseCIDR(pods)
	if err != nil {
		return err
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Table: routes, Scope: netlink.SCOPE_LINK}
	if err := nl.RouteAdd(route); err != nil {
		return fmt.Errorf("route %s into %s: %w", pods, device, err)
	}
	rule := netlink.NewRule()
	rule.IifName, rule.Dst, rule.Table = bridge, dst, routes
	if err := nl.RuleAdd(rule); err != nil {
		return fmt.Errorf("route what comes in by %s into %s: %w", bridge, device, err)
	}
	return sysctl(space, map[string]string{
		"ip_forward": "1", "conf/all/rp_filter": "0", "conf/" + device + "/rp_filter": "0",
	})
}

// unroute removes the rule; the routes go with the device.
func unroute(space *sandbox.Namespace, bridge, pods string) error {
	nl, err := space.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	_, dst, err := net.ParseCIDR(pods)
	if err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.IifName, rule.Dst, rule.Table = bridge, dst, routes
	if err := nl.RuleDel(rule); err != nil {
		return fmt.Errorf("remove the rule for %s: %w", device, err)
	}
	return nil
}

func sysctl(space *sandbox.Namespace, values map[string]string) error {
	return space.Do(func() error {
		for name, value := range values {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				return fmt.Errorf("configure %s: %w", space.Name, err)
			}
		}
		return nil
	})
}
