// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"unique"

	core "k8s.io/api/core/v1"

	"github.com/layertrace/layertrace/internal/observe"
)

// pod is what is kept of a pod. It does not change: a pod that does is another
// one of these.
type pod struct {
	workload observe.Workload
	// addresses are the pod's own, none while it has none yet and for a pod in
	// the node's network namespace.
	addresses []netip.Addr
	// local: it is on this node.
	local bool
	// ending is when it was first seen to have been deleted, 0 if it is not.
	// Its containers go on for the grace period.
	ending uint64
}

// newPod returns what is kept of p. Strings that many pods share are kept once.
func newPod(p *core.Pod) *pod {
	kept := &pod{workload: workloadOf(p)}
	for _, s := range []*string{
		&kept.workload.Service, &kept.workload.Namespace, &kept.workload.Node, &kept.workload.Kind, &kept.workload.Name,
	} {
		*s = unique.Make(*s).Value()
	}
	if p.Spec.HostNetwork {
		return kept
	}
	texts := []string{p.Status.PodIP} // what API servers before 1.20 had
	for i, ip := range p.Status.PodIPs {
		if i == 0 {
			texts = texts[:0]
		}
		texts = append(texts, ip.IP)
	}
	kept.addresses = parse(texts)
	return kept
}

// hostAddresses are the addresses of the pod's node.
func hostAddresses(p *core.Pod) []netip.Addr {
	texts := []string{p.Status.HostIP}
	for _, ip := range p.Status.HostIPs {
		if ip.IP != p.Status.HostIP {
			texts = append(texts, ip.IP)
		}
	}
	return parse(texts)
}

// parse leaves out what is no address: the API server has checked them, and a
// pod without one has an empty text.
func parse(texts []string) []netip.Addr {
	addresses := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses
}
