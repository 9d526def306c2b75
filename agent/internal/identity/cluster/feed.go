// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sync/atomic"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// feed writes what a reflector reads straight into the index: there is no
// other copy of the pods. It is a cache.TransformingStore.
type feed struct {
	index   *index
	local   bool   // this node's pods, or all others
	changed func() // called after each change
	synced  atomic.Bool
}

var _ cache.TransformingStore = (*feed)(nil)

// Transformer is used where the reflector collects a list.
func (f *feed) Transformer() cache.TransformFunc { return trim }

// Add takes a pod that appeared.
func (f *feed) Add(object any) error {
	if r := recordOf(object); r != nil {
		f.index.put(r, f.local, false)
		f.changed()
	}
	return nil
}

// Update takes a pod that changed.
func (f *feed) Update(object any) error { return f.Add(object) }

// Delete takes a pod that went, or that is no longer selected.
func (f *feed) Delete(object any) error {
	if r := recordOf(object); r != nil {
		f.index.remove(r.pod.workload.PodUID)
		f.changed()
	}
	return nil
}

// Replace takes a whole list: the first one, and what is there after the watch
// could not be continued. What is not in it has gone.
func (f *feed) Replace(objects []any, _ string) error {
	listed := make(map[string]bool, len(objects))
	for _, object := range objects {
		if r := recordOf(object); r != nil {
			listed[r.pod.workload.PodUID] = true
		}
	}
	for _, uid := range f.index.uids(f.local) {
		if !listed[uid] {
			f.index.remove(uid)
		}
	}
	first := !f.synced.Load()
	for _, object := range objects {
		if r := recordOf(object); r != nil {
			f.index.put(r, f.local, first)
		}
	}
	f.synced.Store(true)
	f.changed()
	return nil
}

// Resync has nothing to do: nothing is derived from the pods later.
func (f *feed) Resync() error { return nil }

// recordOf takes what a list gives, or a watch.
func recordOf(object any) *record {
	switch object := object.(type) {
	case *record:
		return object
	case *core.Pod:
		return newRecord(object)
	}
	return nil
}
