// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/agent/internal/config"
)

// Without the pods' cgroup the agent works, and says what is off.
func TestNoCgroupOfPods(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if got := socketCgroups(&config.Config{SocketCgroups: []string{config.SocketCgroupAuto}}, []string{t.TempDir()}, log); got != nil {
		t.Errorf("got %v", got)
	}
	for _, want := range []string{"level=WARN", "no sockets are watched", "--socket-cgroup", "kubepods.slice"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it lacks %q: %s", want, &out)
		}
	}
	named := []string{"/sys/fs/cgroup/pods"}
	if got := socketCgroups(&config.Config{SocketCgroups: named}, nil, log); !slices.Equal(got, named) {
		t.Errorf("named %v, got %v", named, got)
	}
}
