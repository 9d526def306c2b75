// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"path/filepath"
)

// AccessLog is the file in which a pod's Envoy logs the requests it sent to
// other pods, complete after Stop. It does not exist for a pod without calls.
func (r *Run) AccessLog(pod string) string { return r.file("access", pod) }

// RequestLog is the file in which a pod's application logs the requests it
// received, complete after Stop.
func (r *Run) RequestLog(pod string) string { return r.file("requests", pod) }

// ControlSocket is the Unix socket on which a pod's application takes faults.
func (r *Run) ControlSocket(pod string) string { return r.file("control", pod) }

// AgentFile holds the exchanges that one agent wrote, a JSON line each.
type AgentFile struct {
	Path string
	// Killed is set when the agent was, so that the last line may be torn.
	Killed bool
}

// Exchanges are the files with the exchanges of a node, one per start of its
// agent, complete after StopAgents.
func (r *Run) Exchanges(node int) []AgentFile { return r.agentFiles[node] }

// file is the path of one of the run's files.
func (r *Run) file(kind, of string) string { return filepath.Join(r.dir, kind+"-"+of) }

// InterfaceNames returns the names of a node's interfaces by index.
func (l *Lab) InterfaceNames(node int) (map[int]string, error) {
	nl, err := l.network.nodes[node].Netlink()
	if err != nil {
		return nil, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces of %s: %w", NodeName(node), err)
	}
	names := map[int]string{}
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names, nil
}
