// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// A process that is not in the container of a manifest differs from it, and the difference is
// named: this one has other capabilities and writes to its root.
func TestUnconfinedProcessIsReported(t *testing.T) {
	yes, no, user := true, false, int64(12345)
	err := confined("/proc/self", &core.SecurityContext{
		RunAsUser: &user, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities: &core.Capabilities{Add: []core.Capability{"BPF", "NET_RAW"}},
	}, &core.PodSecurityContext{SeccompProfile: &core.SeccompProfile{Type: core.SeccompProfileTypeRuntimeDefault}})
	if err == nil {
		t.Fatal("no difference was reported")
	}
	for _, want := range []string{"has Uid ", "want 12345", "has CapBnd ", "want 0000008000002000", "the root is mounted rw"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
}

func TestUnknownContainerHasNoProcess(t *testing.T) {
	for _, container := range []string{"", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"} {
		if process, err := processOf(container); err == nil {
			t.Errorf("container %q has the process %s", container, process)
		}
	}
}
