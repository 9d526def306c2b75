// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// A lab with devices has two routers instead of the switch between the nodes, each with an
// agent that reads headers only. Every link is a network namespace of its own, which routes
// and does nothing else, so that a link can be slow without a node or a device.
//
//	node1 --- router1 --- router2 --- node3
//	node2 ---/   |            \--- node4
//	           Jaeger, join

// Device is a router between nodes.
type Device struct {
	Name string
	// Nodes are those that it connects.
	Nodes []int
}

// Devices are the routers of a lab with Options.Devices.
var Devices = []Device{{"router1", []int{1, 2}}, {"router2", []int{3, 4}}}

// Link is what connects a node or a device to a device.
type Link struct{ From, To string }

// Name is what the link's network namespace is named after.
func (l Link) Name() string { return l.From + "-" + l.To }

// Links are the links of a lab with Options.Devices.
func Links() (links []Link) {
	for _, d := range Devices {
		for _, node := range d.Nodes {
			links = append(links, Link{NodeName(node), d.Name})
		}
	}
	return append(links, Link{Devices[0].Name, Devices[1].Name})
}

// DeviceOf returns the device that a node is connected to.
func DeviceOf(node int) Device {
	for _, d := range Devices {
		if slices.Contains(d.Nodes, node) {
			return d
		}
	}
	return Device{}
}

// DevicePath returns the interfaces of devices that a request from one node to another
// passes, in order: where it comes into a device and where it leaves it. They have the name
// of what is at the other end of the link.
func DevicePath(from, to int) (points []Point) {
	if from == to {
		return nil
	}
	a, b := DeviceOf(from), DeviceOf(to)
	point := func(d Device, nic string) {
		points = append(points, Point{Name: d.Name + "_" + nic, Node: d.Name, Interface: nic})
	}
	point(a, NodeName(from))
	if a.Name != b.Name {
		point(a, b.Name)
		point(b, a.Name)
	}
	point(b, NodeName(to))
	return points
}

// Bypass routes what goes to the first device's second node past this device, from the link
// between the devices to the link of the node, until back is called: the device sees one way
// of each connection of this node.
func (l *Lab) Bypass() (node int, back func() error, err error) {
	links := Links()
	between := l.network.links[links[len(links)-1].Name()]
	node = Devices[0].Nodes[1]
	beside := l.network.links[Link{NodeName(node), Devices[0].Name}.Name()]
	const here, there = "10.11.250.1", "10.11.250.2"
	if err := addPair(between, "bypass", here+"/30", beside, "bypass", there+"/30"); err != nil {
		return 0, nil, err
	}
	_, first := linkAddresses(100 + len(links) - 1)
	route := func(via string) error {
		return errors.Join(between.ReplaceRoute(PodSubnet(node), via), between.ReplaceRoute(NodeIP(node)+"/32", via))
	}
	back = func() error {
		err := route(first)
		nl, err2 := between.Netlink()
		if err2 != nil {
			return errors.Join(err, err2)
		}
		defer nl.Close()
		link, err2 := nl.LinkByName("bypass")
		if err2 == nil {
			err2 = nl.LinkDel(link)
		}
		return errors.Join(err, err2)
	}
	if err := route(there); err != nil {
		return 0, nil, errors.Join(err, back())
	}
	return node, back, nil
}

// VirtualIP stands for productpage in a setup with Virtual. Only a device that translates it
// leads there.
const VirtualIP = "10.244.4.99"

// Translate makes the first device translate addresses until back is called: VirtualIP into that
// of productpage, and the clients' of connections to the other device into its own.
func (l *Lab) Translate() (back func() error, err error) {
	device := l.network.devices[Devices[0].Name]
	conn, err := nftables.New(nftables.WithNetNSFd(device.FD()))
	if err != nil {
		return nil, fmt.Errorf("open nftables in %s: %w", device.Name, err)
	}
	page, err := PodByName("productpage")
	if err != nil {
		return nil, err
	}
	table := conn.AddTable(&nftables.Table{Name: "layertrace-lab", Family: nftables.TableFamilyIPv4})
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
	}
	conn.AddRule(&nftables.Rule{
		Table: table, Chain: chain("destination", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(VirtualIP).To4()},
			&expr.Immediate{Register: 1, Data: net.ParseIP(page.IP).To4()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		},
	})
	nic := make([]byte, unix.IFNAMSIZ)
	copy(nic, Devices[1].Name)
	conn.AddRule(&nftables.Rule{
		Table: table, Chain: chain("source", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: nic},
			&expr.Masq{},
		},
	})
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("translate addresses in %s (needs nft_nat, nft_masq): %w", device.Name, err)
	}
	return func() error {
		conn.DelTable(table)
		return conn.Flush()
	}, nil
}

// Station is a device or a link that a message passes, by the interfaces where it comes in and
// goes out.
type Station struct{ Name, In, Out string }

// Stations returns the links and devices between two nodes, in the order of a message.
func Stations(from, to int) (stations []Station) {
	if from == to {
		return nil
	}
	way := []string{NodeName(from), DeviceOf(from).Name}
	if DeviceOf(to).Name != way[1] {
		way = append(way, DeviceOf(to).Name)
	}
	way = append(way, NodeName(to))
	for i := 1; i < len(way); i++ {
		link := Link{way[i-1], way[i]}
		if !slices.Contains(Links(), link) {
			link = Link{way[i], way[i-1]}
		}
		stations = append(stations, Station{link.Name(), way[i-1], way[i]})
		if i < len(way)-1 {
			stations = append(stations, Station{way[i], way[i-1], way[i+1]})
		}
	}
	return stations
}

// IsOnTheWay reports whether a message from one node to another passes a device or link.
func IsOnTheWay(name string, from, to int) bool {
	return slices.ContainsFunc(Stations(from, to), func(s Station) bool { return s.Name == name })
}

// buildDevices creates routers and links instead of a switch. The addresses of nodes, pods
// and Jaeger are the same: where nodes look for others in their own network, the links
// answer for them (proxy ARP, RFC 1027).
func (n *network) buildDevices(prefix string) (err error) {
	n.devices, n.links = map[string]*sandbox.Namespace{}, map[string]*sandbox.Namespace{}
	for _, d := range Devices {
		if n.devices[d.Name], err = sandbox.NewNamespace(prefix + d.Name); err != nil {
			return err
		}
	}
	first := n.devices[Devices[0].Name]
	if err := n.infra.AddPair(Devices[0].Name, SwitchBridge, first, "10.10.0.201/24"); err != nil {
		return err
	}
	if err := answerForOthers(first, "eth0"); err != nil {
		return err
	}
	if err := n.infra.AddRoute("10.11.0.0/16", "10.10.0.201"); err != nil {
		return err
	}
	for i, l := range Links() {
		if n.links[l.Name()], err = sandbox.NewNamespace(prefix + "l" + l.Name()); err != nil {
			return err
		}
		if err := n.connect(i, l); err != nil {
			return fmt.Errorf("connect %s to %s: %w", l.From, l.To, err)
		}
	}
	for _, s := range slices.Concat(slices.Collect(maps.Values(n.devices)), slices.Collect(maps.Values(n.links))) {
		if err := s.Sysctl(map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0"}); err != nil {
			return err
		}
	}
	return n.routeBetweenDevices()
}

// linkAddresses are those of the ends of link i towards the device it leads to: of the link
// itself, and of the device.
func linkAddresses(i int) (link, device string) {
	return fmt.Sprintf("10.11.%d.1", i), fmt.Sprintf("10.11.%d.2", i)
}

// connect makes the link. A device's interface has the name of what it leads to, as has each
// of the link's.
func (n *network) connect(i int, l Link) error {
	link, device := n.links[l.Name()], n.devices[l.To]
	atLink, atDevice := linkAddresses(i)
	if err := addPair(link, l.To, atLink+"/30", device, l.From, atDevice+"/30"); err != nil {
		return err
	}
	if err := link.AddRoute("0.0.0.0/0", atDevice); err != nil {
		return err
	}
	if from := n.devices[l.From]; from != nil { // between devices
		back, atFrom := linkAddresses(100 + i)
		return addPair(link, l.From, back+"/30", from, l.To, atFrom+"/30")
	}
	node := n.nodeOf(l.From)
	ip := NodeIP(node)
	if err := link.AddRoutedPair(l.From, fmt.Sprintf("10.10.0.%d/32", 100+i), n.nodes[node], ip+"/24"); err != nil {
		return err
	}
	// Devices have addresses of their own, which a device that translates addresses uses.
	if err := n.nodes[node].AddRoute("10.11.0.0/16", InfraIP); err != nil {
		return err
	}
	if err := errors.Join(addLinkRoute(link, ip+"/32", l.From), answerForOthers(link, l.From)); err != nil {
		return err
	}
	for _, s := range []struct {
		at  *sandbox.Namespace
		via string
	}{{link, ip}, {device, atLink}} {
		if err := s.at.AddRoute(PodSubnet(node), s.via); err != nil {
			return err
		}
	}
	return device.AddRoute(ip+"/32", atLink)
}

func (n *network) nodeOf(name string) int {
	for _, node := range Nodes {
		if NodeName(node) == name {
			return node
		}
	}
	return 0
}

// routeBetweenDevices gives each device routes to the nodes of the other.
func (n *network) routeBetweenDevices() error {
	i := len(Links()) - 1
	link := n.links[Links()[i].Name()]
	fromSecond, _ := linkAddresses(i) // the link's end at the second device
	fromFirst, first := linkAddresses(100 + i)
	for _, node := range Devices[1].Nodes {
		for _, dst := range []string{NodeIP(node) + "/32", PodSubnet(node)} {
			// The link's default route leads to the second device.
			if err := n.devices[Devices[0].Name].AddRoute(dst, fromFirst); err != nil {
				return err
			}
		}
	}
	for _, node := range Devices[0].Nodes {
		for _, dst := range []string{NodeIP(node) + "/32", PodSubnet(node)} {
			if err := link.AddRoute(dst, first); err != nil {
				return err
			}
		}
	}
	// Jaeger, and the devices' own addresses.
	return errors.Join(
		link.AddRoute(InfraIP+"/32", first),
		n.devices[Devices[1].Name].AddRoute("0.0.0.0/0", fromSecond),
		n.devices[Devices[0].Name].AddRoute(fmt.Sprintf("10.11.%d.0/30", i), fromFirst))
}

// answerForOthers makes an interface answer ARP requests for what is behind the namespace, at
// once.
func answerForOthers(s *sandbox.Namespace, nic string) error {
	return s.Sysctl(map[string]string{"conf/" + nic + "/proxy_arp": "1", "neigh/" + nic + "/proxy_delay": "0"})
}

func addLinkRoute(s *sandbox.Namespace, destination, nic string) error {
	nl, err := s.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	link, err := nl.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", nic, s.Name, err)
	}
	_, dst, err := net.ParseCIDR(destination)
	if err == nil {
		err = nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK})
	}
	if err != nil {
		return fmt.Errorf("route %s to %s in %s: %w", destination, nic, s.Name, err)
	}
	return nil
}

// addPair connects two namespaces by interfaces with names and addresses.
func addPair(a *sandbox.Namespace, nameA, addressA string, b *sandbox.Namespace, nameB, addressB string) error {
	nl, err := a.Netlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nameA
	if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.FD())}); err != nil {
		return fmt.Errorf("add veth %s in %s: %w", nameA, a.Name, err)
	}
	return errors.Join(a.Configure(nameA, addressA), b.Configure(nameB, addressB))
}

// DeviceNamespace returns a device's network namespace.
func (l *Lab) DeviceNamespace(name string) *sandbox.Namespace { return l.network.devices[name] }

// LinkNamespace returns a link's network namespace.
func (l *Lab) LinkNamespace(link Link) *sandbox.Namespace { return l.network.links[link.Name()] }

// StationNamespace returns the network namespace of a device or link.
func (l *Lab) StationNamespace(name string) *sandbox.Namespace {
	if s := l.network.devices[name]; s != nil {
		return s
	}
	return l.network.links[name]
}

// HasDevices reports whether the lab has routers instead of a switch.
func (l *Lab) HasDevices() bool { return l.options.Devices }

// startDevices starts the agents of the devices.
func (r *Run) startDevices() error {
	r.devices = map[string]*sandbox.Process{}
	for _, d := range Devices {
		if err := r.launchDevice(d); err != nil {
			return err
		}
	}
	return nil
}

// RestartDevice ends the agent of a device, by SIGTERM or as a crash does, starts it again and
// waits until it is ready.
func (r *Run) RestartDevice(ctx context.Context, d Device, crash bool) error {
	var err error
	if crash {
		err = r.devices[d.Name].Kill()
	} else {
		err = stopAll([]*sandbox.Process{r.devices[d.Name]})
	}
	if err == nil {
		err = r.launchDevice(d)
	}
	if err != nil {
		return err
	}
	return r.deviceReady(ctx, d)
}

func (r *Run) launchDevice(d Device) (err error) {
	nics := r.setup.DevicePNIC[d.Name]
	if nics == nil {
		nics = deviceInterfaces(d)
	}
	args := []string{
		"agent", "--headers-only", "--node", d.Name, "--pnic", strings.Join(nics, ","),
		"--otlp-endpoint", fmt.Sprintf("%s:%d", InfraIP, JoinOTLPPort), "--otlp-insecure",
		"--queue-size", "65536", "--metrics-address", AgentMetricsAddress, "--idle-timeout", "300ms",
	}
	r.launches++
	file := fmt.Sprintf("%s-%d", d.Name, r.launches)
	r.devices[d.Name], err = sandbox.Start(sandbox.Spec{
		Name: "agent of " + d.Name, Path: r.lab.options.Tools.Agent, Args: slices.Concat(args, r.setup.DeviceFlags),
		Namespace: r.lab.network.devices[d.Name], Cgroup: r.lab.groups["infra"],
		Stdout: r.file("sightings", file), Stderr: r.file("agent", file+".log"),
	})
	return err
}

// deviceInterfaces returns the interfaces of a device that lead to nodes and devices.
func deviceInterfaces(d Device) (nics []string) {
	for _, node := range d.Nodes {
		nics = append(nics, NodeName(node))
	}
	for _, other := range Devices {
		if other.Name != d.Name {
			nics = append(nics, other.Name)
		}
	}
	return nics
}

// deviceReady waits until a device's agent is attached to its interfaces.
func (r *Run) deviceReady(ctx context.Context, d Device) error {
	want := len(deviceInterfaces(d))
	if nics := r.setup.DevicePNIC[d.Name]; nics != nil {
		want = len(nics)
	}
	return r.lab.ready(ctx, r.devices[d.Name], func(ctx context.Context) error {
		namespace := r.lab.network.devices[d.Name]
		if _, err := namespace.Get(ctx, "http://"+AgentMetricsAddress+"/readyz"); err != nil {
			return err
		}
		metrics, err := r.lab.DeviceMetrics(ctx, d.Name)
		if attached := int(metrics[`layertrace_interfaces{kind="pnic"}`]); err == nil && attached != want {
			err = fmt.Errorf("attached to %d of %d interfaces", attached, want)
		}
		return err
	})
}

// DeviceMetrics reads the metrics of a device's agent, as AgentMetrics does.
func (l *Lab) DeviceMetrics(ctx context.Context, device string) (map[string]float64, error) {
	body, err := l.network.devices[device].Get(ctx, "http://"+AgentMetricsAddress+"/metrics")
	if err != nil {
		return nil, err
	}
	return ParseMetrics(body)
}

// StopSenders ends the agents of the nodes, calls look, which may ask those of the devices and
// join, and ends these.
func (r *Run) StopSenders(look func() error) error {
	agents := slices.Collect(maps.Values(r.agents))
	clear(r.agents)
	if err := stopAll(agents); err != nil {
		return err
	}
	return errors.Join(look(), r.stopDevices())
}

// stopDevices ends the agents of the devices, which send what they have, and then joins and
// their Collector.
func (r *Run) stopDevices() error {
	devices := slices.Collect(maps.Values(r.devices))
	r.devices = nil
	return errors.Join(stopAll(devices), r.stopJoins())
}
