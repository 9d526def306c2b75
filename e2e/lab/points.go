// SPDX-License-Identifier: Apache-2.0

package lab

// Point is a capture point.
type Point struct {
	// Name is the span name at the point: `<service>_<interface>` at a pod's
	// veth, `<node>_<interface>` at a node's physical interface.
	Name string `json:"point"`
	// Node and Interface say where it is.
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
// its order.
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
