// SPDX-License-Identifier: Apache-2.0

// Package span turns exchanges into OpenTelemetry spans: one span for each
// exchange and capture point, under the span of the proxy that sent it.
package span

import (
	"strconv"

	"github.com/layertrace/layertrace/agent/internal/identity"
	"github.com/layertrace/layertrace/agent/internal/iface"
	"github.com/layertrace/layertrace/agent/internal/layer"
)

// Point is a capture point as spans show it.
type Point struct {
	// ID is the same as long as the interface lives, over renames and restarts
	// of the agent; see PointID.
	ID string
	// Node is the name of the node that the agent runs on.
	Node string
	// Interface is what the exchange was seen at, unless at a socket.
	Interface iface.Interface
	// Socket is set when the point is the sockets of a Process in a pod.
	Socket  bool
	Process layer.Process
	// Workload is behind the interface, or has the socket. It is empty at a
	// physical interface and where nobody knows it: the node stands for it then.
	Workload identity.Workload
}

// Kind is what kind of capture point it is.
func (p *Point) Kind() layer.Kind {
	if p.Socket {
		return layer.Socket
	}
	return layer.Kind(p.Interface.Kind)
}

// PointID names the interface with an index on a node. The index stays when
// the interface is renamed, and is not used again while the node is up.
func PointID(node string, index int) string {
	return node + "/" + strconv.Itoa(index)
}

// SocketPointID names the sockets of a process in a network namespace, by its
// inode number, on a node.
func SocketPointID(node string, netns uint32, process layer.Process) string {
	return node + "/netns/" + strconv.FormatUint(uint64(netns), 10) + "/" + string(process)
}

// Service is the name that the point's spans are filed under: the workload's,
// or the node's.
func (p *Point) Service() string {
	if p.Workload.Service != "" {
		return p.Workload.Service
	}
	return p.Node
}

// Name is the name of the point's spans: <service>_<interface> at a virtual
// interface, <node>_<interface> at a physical one, <service>_<process> at a
// socket.
func (p *Point) Name() string {
	if p.Socket {
		return p.Service() + "_" + string(p.Process)
	}
	return p.Service() + "_" + p.Interface.Name
}
