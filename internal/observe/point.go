// SPDX-License-Identifier: Apache-2.0

package observe

import "strconv"

// Point is a capture point: an interface, or the sockets of a process in a pod.
type Point struct {
	// ID stays the same while the interface exists, across renames and restarts of the
	// agent; see InterfacePointID and SocketPointID.
	ID   string
	Kind Kind
	// Node is the name of the node that the agent runs on.
	Node string
	// Interface is the present name of the interface, "" at a socket.
	Interface string
	// Process owns the sockets; UnknownProcess at an interface.
	Process Process
	// Workload is at the other end of the interface, or owns the socket. It is empty at
	// a physical interface and if it is unknown: Service then returns the node.
	Workload Workload
}

// Kind is the kind of a capture point.
type Kind string

// Kinds of capture points.
const (
	// KindSocket: the sockets of a process in a pod.
	KindSocket Kind = "socket"
	// KindVNIC: the host end of a pod's interface.
	KindVNIC Kind = "vnic"
	// KindPNIC: a physical interface of a node.
	KindPNIC Kind = "pnic"
)

// Process is the owner of a socket in a pod.
type Process string

// Processes. Every interface has UnknownProcess, and so has a socket in a pod whose
// sidecar is unknown.
const (
	UnknownProcess Process = ""
	Sidecar        Process = "sidecar"
	AppProcess     Process = "application"
)

// Workload is what users call the service.
type Workload struct {
	// Service is the workload's name, such as reviews.
	Service string `json:"service"`
	// Namespace and Pod are the names in Kubernetes, "" elsewhere.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	// Node is the node that the workload runs on.
	Node string `json:"node,omitempty"`
	// PodUID, and the Kind and Name of the pod's controller (Deployment reviews-v2),
	// come from a cluster only.
	PodUID string `json:"-"`
	Kind   string `json:"-"`
	Name   string `json:"-"`
}

// Peer is the owner of one endpoint's address. Node is set only if the address belongs
// to a node and not to a workload.
type Peer struct{ Service, Node string }

// Peers are the owners of both endpoints' addresses, as seen at the capture point.
type Peers struct{ Client, Server Peer }

// InterfacePointID identifies the interface with an index on a node. The index survives
// renames and is not reused while the node is up.
func InterfacePointID(node string, index int) string { return node + "/" + strconv.Itoa(index) }

// SocketPointID identifies the sockets of a process in a network namespace on a node,
// by the namespace's inode number.
func SocketPointID(node string, netns uint32, process Process) string {
	return node + "/netns/" + strconv.FormatUint(uint64(netns), 10) + "/" + string(process)
}

// Service returns the service name of the point's spans: the workload's or the node's.
func (p *Point) Service() string {
	if p.Workload.Service != "" {
		return p.Workload.Service
	}
	return p.Node
}

// SpanName returns the name of the point's spans (the paper, section 6): a vNIC's is
// <service>_<interface>, a pNIC's <node>_<interface>, a socket's
// <service>_<process>.
func (p *Point) SpanName() string {
	if p.Kind == KindSocket {
		return p.Service() + "_" + string(p.Process)
	}
	return p.Service() + "_" + p.Interface
}

// Layer is what a segment of a request's time is attributed to. The terms are those of
// the paper.
type Layer string

// The layers, from the process outward.
const (
	// Application: between reading a request and writing its response, in the
	// application or its sidecar.
	Application Layer = "application"
	// ProtocolStack: between a process and the host end of its pod's interface:
	// queues of sockets, TCP, the pod's own interface; and loopback in a pod.
	ProtocolStack Layer = "protocol-stack"
	// VirtualNetwork: between the pods' interfaces and the node's physical one.
	VirtualNetwork Layer = "virtual-network"
	// NodeDriver: the queue of the node's physical interface, up to its driver.
	NodeDriver Layer = "node-driver"
	// RelayNetwork: between the physical interfaces of two nodes.
	RelayNetwork Layer = "relay-network"
	// NoLayer is the verdict when no layer is slower than the baseline.
	NoLayer Layer = "none"
)

// layerTitles are the names of the layers in text.
var layerTitles = map[Layer]string{
	Application: "application", ProtocolStack: "protocol stack", VirtualNetwork: "virtual network",
	NodeDriver: "node driver", RelayNetwork: "relay network", NoLayer: "none",
}

// Title returns the name of the layer in text, such as "protocol stack".
func (l Layer) Title() string {
	if title, ok := layerTitles[l]; ok {
		return title
	}
	return string(l)
}
