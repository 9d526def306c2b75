// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// record is what is read of a Pod object, some hundred bytes where the object
// itself has thousands. The reflector collects records when it lists.
type record struct {
	pod     *pod // its local and ending are up to the index
	version string
	// hosts are the addresses of the pod's node.
	hosts []netip.Addr
	// over: its containers have ended for good. Its address is, or soon will
	// be, another pod's.
	over bool
	// deleted: it has been told to end.
	deleted bool
}

func newRecord(p *core.Pod) *record {
	return &record{
		pod: newPod(p), version: p.ResourceVersion, hosts: hostAddresses(p),
		over:    p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed,
		deleted: p.DeletionTimestamp != nil,
	}
}

// trim makes a record of a Pod; it is a cache.TransformFunc.
func trim(object any) (any, error) {
	if p, ok := object.(*core.Pod); ok {
		return newRecord(p), nil
	}
	return object, nil
}

// GetObjectMeta tells the reflector what it keys a list by.
func (r *record) GetObjectMeta() meta.Object {
	w := &r.pod.workload
	return &meta.ObjectMeta{Namespace: w.Namespace, Name: w.Pod, ResourceVersion: r.version}
}

// GetObjectKind and DeepCopyObject make a record a runtime.Object. Nobody needs
// its kind, and it does not change.
func (r *record) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }
func (r *record) DeepCopyObject() runtime.Object   { return r }

// records is a list of them, as a core.PodList is of Pods.
type records struct {
	meta.TypeMeta
	meta.ListMeta
	Items []record
}

// DeepCopyObject makes records a runtime.Object.
func (r *records) DeepCopyObject() runtime.Object { return r }
