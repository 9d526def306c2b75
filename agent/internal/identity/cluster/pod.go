// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"unique"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/layertrace/layertrace/agent/internal/identity"
)

// pod is what is kept of a pod. It does not change: a pod that does is another
// one of these.
type pod struct {
	workload identity.Workload
	// addresses are the pod's own, none while it has none yet and for a pod in
	// the node's network namespace.
	addresses []netip.Addr
	// local: it is on this node.
	local bool
	// ending is when it was first seen to have been deleted, 0 if it is not.
	// Its containers go on for the grace period.
	ending uint64
}

// trim takes everything out of a pod that is not needed, so that a list of
// thousands takes little memory until it is in the index. It is a
// cache.TransformFunc.
func trim(object any) (any, error) {
	p, ok := object.(*core.Pod)
	if !ok {
		return object, nil
	}
	var labels map[string]string
	for _, name := range [...]string{nameLabels[0], nameLabels[1], nameLabels[2], hashLabel} {
		if v, ok := p.Labels[name]; ok {
			if labels == nil {
				labels = map[string]string{}
			}
			labels[name] = v
		}
	}
	var owners []meta.OwnerReference
	if owner := meta.GetControllerOfNoCopy(p); owner != nil {
		owners = []meta.OwnerReference{*owner}
	}
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			DeletionTimestamp: p.DeletionTimestamp, Labels: labels, OwnerReferences: owners,
		},
		Spec: core.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork},
		Status: core.PodStatus{
			Phase: p.Status.Phase, HostIP: p.Status.HostIP, HostIPs: p.Status.HostIPs,
			PodIP: p.Status.PodIP, PodIPs: p.Status.PodIPs,
		},
	}, nil
}

// over reports whether a pod's containers have ended for good: its address is,
// or soon will be, another pod's.
func over(p *core.Pod) bool {
	return p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed
}

// newPod returns what is kept of p. Strings that many pods share are kept once.
func newPod(p *core.Pod, local bool, ending uint64) *pod {
	kept := &pod{workload: workloadOf(p), local: local, ending: ending}
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
