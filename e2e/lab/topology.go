// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
)

// Pod is one pod of the testbed.
type Pod struct {
	// Name is short and unique; network namespace, cgroup and files have it.
	Name string
	// Service is the workload's name in spans and identities.
	Service string
	// Node is the number of the node it runs on.
	Node int
	// IP is its address in the node's pod subnet.
	IP string
	// VNIC is the name of the host end of its veth pair.
	VNIC string
	// Calls are the services that its application calls.
	Calls []string
	// Gateway is set for the ingress gateway, which has no application.
	Gateway bool
	// Plain is set for a pod without sidecar.
	Plain bool
}

// Nodes are the numbers of the nodes. Load comes from ClientNode; the others run
// an agent each.
var (
	Nodes      = []int{1, 2, 3, 4}
	ClientNode = 1
)

// Pods are the paper's Bookinfo pods on the paper's nodes.
var Pods = []Pod{
	{Name: "gateway", Service: "istio-ingressgateway", Node: 2, IP: "10.244.2.11", VNIC: "vethgateway",
		Calls: []string{"productpage"}, Gateway: true},
	{Name: "reviews-v2", Service: "reviews-v2", Node: 2, IP: "10.244.2.12", VNIC: "vethreviewsv2",
		Calls: []string{"ratings"}},
	{Name: "details", Service: "details", Node: 3, IP: "10.244.3.11", VNIC: "vethdetails"},
	{Name: "reviews-v1", Service: "reviews-v1", Node: 3, IP: "10.244.3.12", VNIC: "vethreviewsv1"},
	{Name: "reviews-v3", Service: "reviews-v3", Node: 3, IP: "10.244.3.13", VNIC: "vethreviewsv3",
		Calls: []string{"ratings"}},
	{Name: "ratings", Service: "ratings", Node: 3, IP: "10.244.3.14", VNIC: "vethratings"},
	{Name: "productpage", Service: "productpage", Node: 4, IP: "10.244.4.11", VNIC: "vethproductpage",
		Calls: []string{"details", "reviews"}},
}

// PlainPods are two pods without sidecars, on two nodes; reader calls store. They exist
// in labs with Options.Plain.
var PlainPods = []Pod{
	{Name: "reader", Service: "reader", Node: 4, IP: "10.244.4.21", VNIC: "vethreader", Calls: []string{"store"}, Plain: true},
	{Name: "store", Service: "store", Node: 3, IP: "10.244.3.21", VNIC: "vethstore", Plain: true},
}

// Service is a name that applications call: an address that no interface has, like
// a ClusterIP, and its pods.
type Service struct {
	Name, ClusterIP string
	Pods            []string
}

// Services are the services that pods call, by name. That of a plain pod has the pod's
// address.
var Services = map[string]Service{
	"productpage": {"productpage", "10.96.0.11", []string{"productpage"}},
	"details":     {"details", "10.96.0.12", []string{"details"}},
	"reviews":     {"reviews", "10.96.0.13", []string{"reviews-v1", "reviews-v2", "reviews-v3"}},
	"ratings":     {"ratings", "10.96.0.14", []string{"ratings"}},
	"store":       {"store", "10.244.3.21", []string{"store"}},
}

// Ports and addresses of the testbed.
const (
	AppPort     = 9080
	GatewayPort = 8080
	// PNIC is the physical interface of every node.
	PNIC = "eth0"
	// InfraIP is Jaeger's address, on the switch between the nodes.
	InfraIP = "10.10.0.254"
)

// NodeName returns the name of a node.
func NodeName(node int) string { return fmt.Sprintf("node%d", node) }

// NodeIP returns the address of a node's physical interface.
func NodeIP(node int) string { return fmt.Sprintf("10.10.0.%d", node) }

// PodGateway returns the address of the bridge of a node's pods.
func PodGateway(node int) string { return fmt.Sprintf("10.244.%d.1", node) }

// AllPods is the subnet of all pods.
const AllPods = "10.244.0.0/16"

// PodSubnet returns the subnet of a node's pods.
func PodSubnet(node int) string { return fmt.Sprintf("10.244.%d.0/24", node) }

// PodByName returns the pod with that name.
func PodByName(name string) (Pod, error) {
	for _, p := range slices.Concat(Pods, PlainPods) {
		if p.Name == name {
			return p, nil
		}
	}
	return Pod{}, fmt.Errorf("no pod %q in the lab", name)
}

// Endpoints returns the pods of a service.
func (s Service) Endpoints() ([]Endpoint, error) {
	var endpoints []Endpoint
	for _, name := range s.Pods {
		pod, err := PodByName(name)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, Endpoint{Pod: pod.Name, Service: pod.Service, IP: pod.IP})
	}
	return endpoints, nil
}

// UseOneNode moves all pods to one node, next to the client's, so that one agent
// watches them, as in a cluster, where a kernel has one agent. On the testbed's one
// kernel the programs of three agents run for every packet and write. A command
// that measures calls it before Up; it cannot be undone.
func UseOneNode() {
	const node = 2
	Nodes = []int{ClientNode, node}
	for i := range Pods {
		Pods[i].Node = node
		Pods[i].IP = fmt.Sprintf("10.244.%d.%d", node, 11+i)
	}
}

// Point is a capture point.
type Point struct {
	// Name is the span name at the point: `<service>_<interface>` at a pod's
	// veth, `<node>_<interface>` at a node's physical interface.
	Name      string `json:"point"`
	Node      string `json:"node"`
	Interface string `json:"interface"`
}

// Points are the testbed's ten capture points: the veths of the seven pods and
// the physical interfaces of the three nodes that have pods.
func Points() []Point {
	var points []Point
	for _, node := range Nodes {
		var ofNode []Point
		for _, pod := range Pods {
			if pod.Node == node {
				ofNode = append(ofNode, pod.point())
			}
		}
		if len(ofNode) > 0 {
			points = append(append(points, ofNode...), nicPoint(node))
		}
	}
	return points
}

// Path returns the points that a request from one pod to another passes, in
// order.
func Path(from, to Pod) []Point {
	if from.Node == to.Node {
		return []Point{from.point(), to.point()}
	}
	return []Point{from.point(), nicPoint(from.Node), nicPoint(to.Node), to.point()}
}

func (p Pod) point() Point {
	return Point{Name: p.Service + "_" + p.VNIC, Node: NodeName(p.Node), Interface: p.VNIC}
}

func nicPoint(node int) Point {
	return Point{Name: NodeName(node) + "_" + PNIC, Node: NodeName(node), Interface: PNIC}
}
