// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"unique"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/layertrace/layertrace/internal/observe"
)

// pod is what the index keeps of a pod. It is immutable: an update is a new one.
type pod struct {
	workload observe.Workload
	// addresses are the pod's own: none before the kubelet reports them, and
	// none in the node's network namespace.
	addresses []netip.Addr
	// local: the pod is on this node.
	local bool
	// ending is when its deletion was first seen, 0 before. Its containers run
	// on for the grace period.
	ending uint64
}

// newPod keeps one copy of the strings that many pods share.
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
	texts := []string{p.Status.PodIP} // all that API servers before 1.20 have
	for i, ip := range p.Status.PodIPs {
		if i == 0 {
			texts = texts[:0]
		}
		texts = append(texts, ip.IP)
	}
	kept.addresses = parseAddrs(texts)
	return kept
}

// nameLabels are the labels that name a pod's service, first match first. The
// order is Istio's, so that our spans have the same service as the proxy's
// (istio/istio, pkg/kube/labels/labels.go, canonicalServiceName).
var nameLabels = [...]string{"service.istio.io/canonical-name", "app.kubernetes.io/name", "app"}

// hashLabel is the suffix of a ReplicaSet's name after its Deployment's.
const hashLabel = "pod-template-hash"

// scheduledJob matches the name of a CronJob's Job: the CronJob's name and the
// time in minutes.
var scheduledJob = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// workloadOf describes a pod. Its service is Istio's canonical service: from
// the labels, else the controller's name.
func workloadOf(p *core.Pod) observe.Workload {
	kind, name := controllerOf(p)
	w := observe.Workload{
		Service: name, Namespace: p.Namespace, Pod: p.Name, Node: p.Spec.NodeName,
		PodUID: string(p.UID), Kind: kind, Name: name,
	}
	for _, label := range nameLabels {
		if v := p.Labels[label]; v != "" {
			w.Service = v
			break
		}
	}
	return w
}

// controllerOf returns kind and name of the object the user created. Like Istio
// (istio/istio, pkg/kube/util.go, GetWorkloadMetaFromPod) it derives a
// Deployment's name from its ReplicaSet's and a CronJob's from its Job's, which
// saves reading those. A pod without a controller is of kind Pod.
func controllerOf(p *core.Pod) (kind, name string) {
	owner := meta.GetControllerOfNoCopy(p)
	switch {
	case owner == nil || owner.Kind == "Node": // Node: a static pod
		return "Pod", p.Name
	case owner.Kind == "ReplicaSet":
		if name, ok := strings.CutSuffix(owner.Name, "-"+p.Labels[hashLabel]); ok && name != "" {
			return "Deployment", name
		}
	case owner.Kind == "Job":
		if m := scheduledJob.FindStringSubmatch(owner.Name); m != nil {
			return "CronJob", m[1]
		}
	}
	return owner.Kind, owner.Name
}

// hostAddresses are the addresses of the pod's node.
func hostAddresses(p *core.Pod) []netip.Addr {
	texts := []string{p.Status.HostIP}
	for _, ip := range p.Status.HostIPs {
		if ip.IP != p.Status.HostIP {
			texts = append(texts, ip.IP)
		}
	}
	return parseAddrs(texts)
}

// parseAddrs skips invalid addresses: the API server validates them, but a pod
// may have none yet.
func parseAddrs(texts []string) []netip.Addr {
	addresses := make([]netip.Addr, 0, len(texts))
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses
}

// podRecord is what is read of a Pod object: a few hundred bytes of several
// thousand. The reflector collects records while it lists.
type podRecord struct {
	pod     *pod // the index sets local and ending
	version string
	hosts   []netip.Addr // addresses of the pod's node
	// terminated: its containers have ended for good, and its address is free
	// for another pod.
	terminated bool
	// deleted: its deletion was requested.
	deleted bool
}

func newPodRecord(p *core.Pod) *podRecord {
	return &podRecord{
		pod: newPod(p), version: p.ResourceVersion, hosts: hostAddresses(p),
		terminated: p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed,
		deleted:    p.DeletionTimestamp != nil,
	}
}

// trimPod is a cache.TransformFunc from Pods to records.
func trimPod(object any) (any, error) {
	if p, ok := object.(*core.Pod); ok {
		return newPodRecord(p), nil
	}
	return object, nil
}

// GetObjectMeta returns what the reflector needs as the key of a list entry.
func (r *podRecord) GetObjectMeta() meta.Object {
	w := &r.pod.workload
	return &meta.ObjectMeta{Namespace: w.Namespace, Name: w.Pod, ResourceVersion: r.version}
}

// GetObjectKind implements runtime.Object. The kind is not used.
func (r *podRecord) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. Records are immutable.
func (r *podRecord) DeepCopyObject() runtime.Object { return r }

// podRecords is the counterpart of core.PodList.
type podRecords struct {
	meta.TypeMeta
	meta.ListMeta
	Items []podRecord
}

// DeepCopyObject implements runtime.Object.
func (r *podRecords) DeepCopyObject() runtime.Object { return r }

// Decoding a list of pods one by one keeps memory flat: client-go would hold
// the whole response and all its objects, hundreds of MiB for 10,000 pods, and
// servers before 1.34 read a paged list from etcd.
//
// The encoding (apimachinery, pkg/runtime/serializer/protobuf, and the .proto
// files of runtime.Unknown and core/v1) is "k8s\0", then a message with a
// PodList in field 2. A PodList has its ListMeta in field 1 and each Pod in
// field 2.
const (
	podListMagic = "k8s\x00"
	fieldRaw     = 2
	fieldMeta    = 1
	fieldItem    = 2
	wireBytes    = 2       // the wire type of all these fields
	largestField = 8 << 20 // bytes of a Pod; etcd's limit is 1.5 MiB
)

// readPodList decodes a PodList.
func readPodList(r io.Reader) (*podRecords, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	var prefix [len(podListMagic)]byte
	if _, err := io.ReadFull(in, prefix[:]); err != nil {
		return nil, fmt.Errorf("read a list of pods: %w", err)
	}
	if string(prefix[:]) != podListMagic {
		return nil, errors.New("read a list of pods: the response is not in Kubernetes' protobuf encoding")
	}
	for {
		number, size, err := readField(in)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read a list of pods: %w", unexpectedEOF(err))
		case number != fieldRaw:
			err = skipField(in, size)
		default:
			list := &podRecords{}
			body := &io.LimitedReader{R: in, N: int64(size)}
			if err = list.read(bufio.NewReader(body)); err == nil && body.N != 0 {
				err = io.ErrUnexpectedEOF
			}
			if err == nil {
				return list, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read a list of pods: %w", err)
		}
	}
}

// read decodes the fields of a PodList up to its end.
func (r *podRecords) read(in *bufio.Reader) error {
	var buffer []byte
	for {
		number, size, err := readField(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if number != fieldMeta && number != fieldItem {
			if err := skipField(in, size); err != nil {
				return err
			}
			continue
		}
		if size > largestField {
			return fmt.Errorf("an object of %d bytes", size)
		}
		if uint64(cap(buffer)) < size {
			buffer = make([]byte, size)
		}
		buffer = buffer[:size]
		if _, err := io.ReadFull(in, buffer); err != nil {
			return unexpectedEOF(err)
		}
		if err := r.decode(number, buffer); err != nil {
			return err
		}
	}
}

// decode decodes one field of the PodList without keeping references to data.
func (r *podRecords) decode(number uint64, data []byte) error {
	if number == fieldMeta {
		r.ListMeta = meta.ListMeta{}
		return r.ListMeta.Unmarshal(data)
	}
	var p core.Pod
	if err := p.Unmarshal(data); err != nil {
		return err
	}
	r.Items = append(r.Items, *newPodRecord(&p))
	return nil
}

// readField reads a field's number and length. It returns io.EOF at the end of
// the message.
func readField(in *bufio.Reader) (number, size uint64, err error) {
	tag, err := binary.ReadUvarint(in)
	if err != nil {
		return 0, 0, err
	}
	if tag&7 != wireBytes {
		return 0, 0, fmt.Errorf("field %d has wire type %d", tag>>3, tag&7)
	}
	size, err = binary.ReadUvarint(in)
	return tag >> 3, size, unexpectedEOF(err)
}

func skipField(in *bufio.Reader, size uint64) error {
	_, err := io.CopyN(io.Discard, in, int64(size))
	return unexpectedEOF(err)
}

// unexpectedEOF turns an EOF inside a message into an error.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
