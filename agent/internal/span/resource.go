// SPDX-License-Identifier: Apache-2.0

package span

import (
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/layertrace/layertrace/internal/observe"
)

// resourceField is one attribute of a capture point's resource, which all spans of the
// point share.
type resourceField struct {
	key          attribute.Key
	typ, meaning string
	// get returns the value, "" for none.
	get func(p *observe.Point) string
	// set sets the value, "" if absent. It is nil when other fields have the value.
	set func(p *observe.Point, value string)
	// ofPoint marks attributes that only capture points have, and not layer spans.
	ofPoint bool
}

// resourceFields describe the workload or node of the spans, and the capture point.
// k8s.* is written for pods only.
var resourceFields = []resourceField{
	{semconv.HostNameKey, "string", "the node or device, always",
		func(p *observe.Point) string { return p.Node }, func(p *observe.Point, v string) { p.Node = v }, false},
	{keyKind, "string", "`vnic` (host end of a pod's interface), `pnic` (physical interface), `device` (interface of a device between the nodes) or `socket`",
		func(p *observe.Point) string { return string(p.Kind) }, func(p *observe.Point, v string) { p.Kind = observe.Kind(v) }, true},
	{"layertrace.capture_point", "string", "node and interface index, which stay the same while the interface exists; for sockets: node, inode number of the network namespace, and process",
		func(p *observe.Point) string { return p.ID }, func(p *observe.Point, v string) { p.ID = v }, true},
	{keyProcess, "string", "owner of the sockets: `sidecar` (a process of the user `sidecar-uid`) or `application`; at sockets only",
		func(p *observe.Point) string { return string(p.Process) }, setProcess, true},
	{semconv.NetworkInterfaceNameKey, "string", "name of the interface when the exchange ended",
		func(p *observe.Point) string { return p.Interface }, func(p *observe.Point, v string) { p.Interface = v }, true},
	{semconv.ServiceNameKey, "string", "the workload at the other end of the interface, with `kubernetes` its canonical service in Istio ([configuration.md](configuration.md#kubernetes)); the node at a physical interface and if the workload is unknown",
		(*observe.Point).Service, func(p *observe.Point, v string) { p.Workload.Service = v }, false},
	{semconv.ServiceNamespaceKey, "string", "the workload's namespace",
		func(p *observe.Point) string { return p.Workload.Namespace }, func(p *observe.Point, v string) { p.Workload.Namespace = v }, false},
	{semconv.K8SNamespaceNameKey, "string", "the same",
		func(p *observe.Point) string { return p.Workload.Namespace },
		func(p *observe.Point, v string) {
			if v != "" { // a store may have dropped one of the two
				p.Workload.Namespace = v
			}
		}, false},
	{semconv.K8SPodNameKey, "string", "the pod",
		func(p *observe.Point) string { return p.Workload.Pod }, func(p *observe.Point, v string) { p.Workload.Pod = v }, false},
	{semconv.K8SPodUIDKey, "string", "its UID; this and the next attributes with `kubernetes` only",
		func(p *observe.Point) string { return p.Workload.PodUID }, func(p *observe.Point, v string) { p.Workload.PodUID = v }, false},
	controller("Deployment", "the pod's controller: a Deployment,"),
	controller("StatefulSet", "a StatefulSet,"),
	controller("DaemonSet", "a DaemonSet,"),
	controller("ReplicaSet", "a ReplicaSet without a Deployment,"),
	controller("Job", "a Job,"),
	controller("CronJob", "or a CronJob"),
	{semconv.K8SNodeNameKey, "string", "the node, if a pod or its namespace is known",
		func(p *observe.Point) string {
			if p.Workload.Namespace == "" && p.Workload.Pod == "" {
				return ""
			}
			return p.Node
		}, nil, false},
}

// Keys that are used more than once.
const (
	keyKind    = attribute.Key("layertrace.capture_point.kind")
	keyProcess = attribute.Key("layertrace.socket.process")
)

// controller is the field with the name of a pod's controller of a kind.
func controller(kind, meaning string) resourceField {
	return resourceField{controllerKeys[kind], "string", meaning,
		func(p *observe.Point) string {
			if p.Workload.Kind != kind || p.Workload.Namespace == "" && p.Workload.Pod == "" {
				return ""
			}
			return p.Workload.Name
		},
		func(p *observe.Point, v string) {
			if v != "" {
				p.Workload.Kind, p.Workload.Name = kind, v
			}
		}, false}
}

func setProcess(p *observe.Point, v string) {
	switch process := observe.Process(v); process {
	case observe.Sidecar, observe.AppProcess:
		p.Process = process
	}
}

// Resource returns the attributes that all spans of the point share, those of the environment
// (OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME) included: the point's own take precedence.
func Resource(p *observe.Point) *resource.Resource {
	return resourceWith(p, func(*resourceField) bool { return true })
}

// resourceWith returns the selected fields.
func resourceWith(p *observe.Point, selected func(*resourceField) bool) *resource.Resource {
	kv := resource.Environment().Attributes() // of equal keys the last one counts
	for i := range resourceFields {
		f := &resourceFields[i]
		if value := f.get(p); value != "" && selected(f) {
			kv = append(kv, f.key.String(value))
		}
	}
	return resource.NewWithAttributes(semconv.SchemaURL, kv...)
}

// decodePoint reads the capture point of a stored span.
func decodePoint(s *Stored) (*observe.Point, error) {
	p := &observe.Point{}
	for i := range resourceFields {
		if f := &resourceFields[i]; f.set != nil {
			f.set(p, s.Resource.Text(string(f.key)))
		}
	}
	if p.Workload.Service = s.Service; p.Workload.Service == p.Node {
		p.Workload.Service = "" // unknown: spans have the node's name instead
	}
	if p.Node == "" {
		return nil, errors.New(string(semconv.HostNameKey) + " is missing, so the node is unknown")
	}
	switch p.Kind {
	case observe.KindVNIC:
	case observe.KindPNIC, observe.KindDevice:
		p.Workload = observe.Workload{}
	case observe.KindSocket:
		p.Interface = ""
	default:
		return nil, fmt.Errorf("%s is %q, not a kind of capture point", keyKind, p.Kind)
	}
	return p, nil
}
