// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWorkload(t *testing.T) {
	for name, test := range map[string]struct {
		labels              map[string]string
		ownerKind, owner    string
		service, kind, from string
	}{
		"canonical name first": {
			map[string]string{"service.istio.io/canonical-name": "a", "app.kubernetes.io/name": "b", "app": "c"},
			"StatefulSet", "db", "a", "StatefulSet", "db",
		},
		"recommended label before app": {map[string]string{"app.kubernetes.io/name": "b", "app": "c"}, "DaemonSet", "d", "b", "DaemonSet", "d"},
		"app":                          {map[string]string{"app": "c"}, "Job", "once", "c", "Job", "once"},
		"an empty label names nobody":  {map[string]string{"app": ""}, "", "", "pod-1", "Pod", "pod-1"},
		"Deployment of a ReplicaSet": {
			map[string]string{hashLabel: "6b7f4cc8d9"}, "ReplicaSet", "reviews-v2-6b7f4cc8d9", "reviews-v2", "Deployment", "reviews-v2",
		},
		"ReplicaSet of its own":           {nil, "ReplicaSet", "reviews", "reviews", "ReplicaSet", "reviews"},
		"ReplicaSet with another's hash":  {map[string]string{hashLabel: "1"}, "ReplicaSet", "reviews-2", "reviews-2", "ReplicaSet", "reviews-2"},
		"CronJob of a Job":                {nil, "Job", "backup-28912345", "backup", "CronJob", "backup"},
		"Job with a number":               {nil, "Job", "backup-7", "backup-7", "Job", "backup-7"},
		"static pod":                      {nil, "Node", "node1", "pod-1", "Pod", "pod-1"},
		"something that nobody has heard": {nil, "Rollout", "x", "x", "Rollout", "x"},
	} {
		p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "pod-1", Labels: test.labels}}
		if test.owner != "" {
			yes := true
			p.OwnerReferences = []meta.OwnerReference{{Kind: "ConfigMap", Name: "no-controller"}, {Kind: test.ownerKind, Name: test.owner, Controller: &yes}}
		}
		w := workloadOf(p)
		if w.Service != test.service || w.Kind != test.kind || w.Name != test.from {
			t.Errorf("%s: service %s, %s %s; want %s, %s %s", name, w.Service, w.Kind, w.Name, test.service, test.kind, test.from)
		}
	}
}
