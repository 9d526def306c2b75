// SPDX-License-Identifier: Apache-2.0

package lab

import "fmt"

// UseOneNode puts all pods on one node, beside the client's, so that one agent
// watches them, as one kernel has one agent in a cluster: on the testbed's one
// kernel three agents' programs run for each packet and write. It is for a
// command that measures, before it makes its lab, and stays so.
func UseOneNode() {
	const node = 2
	Nodes = []int{ClientNode, node}
	for i := range Pods {
		Pods[i].Node = node
		Pods[i].IP = fmt.Sprintf("10.244.%d.%d", node, 11+i)
	}
}
