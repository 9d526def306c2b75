// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, test := range []struct {
		name       string
		args, env  []string
		want       string
		privileged bool
	}{
		{"unknown command", []string{"agnet"}, nil, `unknown command "agnet"`, false},
		{"unknown flag", []string{"agent", "--quue-size=1"}, nil, "did you mean --queue-size?", false},
		{"argument", []string{"agent", "eth0"}, nil, `unknown command "eth0"`, false},
		{"bad value", []string{"agent", "--queue-size=many"}, nil, "--queue-size", false},
		{"unknown variable", []string{"agent"}, []string{"LAYERTRACE_QUUE_SIZE=1"}, "did you mean LAYERTRACE_QUEUE_SIZE?", false},
		{"bad YAML", []string{"agent", "--config", file("a: b: c")}, nil, "no valid YAML", false},
		{"duplicate key", []string{"agent", "--config", file("deep: true\ndeep: true")}, nil, "already set", false},
		{"unknown key", []string{"agent", "--config", file("quue-size: 1")}, nil, "did you mean queue-size?", false},
		{"no file", []string{"agent", "--config=/nosuch.yaml"}, nil, "correct --config", false},
		{"missing interface", []string{"agent", "--pnic=nosuch0"}, nil, `no interface "nosuch0"`, true},
		{"bad identity", []string{"agent", "--identity", file("nodes: a")}, nil, "identity file", true},
		{"port in use", []string{"agent", "--metrics-address", taken.Addr().String()}, nil, "is in use", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.privileged {
				needRoot(t)
			}
			cmd := exec.Command(binary, test.args...)
			cmd.Env = append([]string{}, test.env...) // and not the tester's
			checkRefusal(t, runBinary(t, cmd), test.want)
		})
	}
}

func TestNotRoot(t *testing.T) {
	needRoot(t) // to become somebody else
	for _, command := range []string{"agent", "doctor"} {
		cmd := exec.Command(binary, command)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		r := runBinary(t, cmd)
		if command == "agent" {
			checkRefusal(t, r, "run as root")
		} else if r.code != 1 {
			t.Errorf("doctor: exit code %d, want 1", r.code)
		}
	}
}

func TestWithoutBTF(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, binary, "agent")
	cmd.Env = []string{hideBTF + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	checkRefusal(t, runBinary(t, cmd), "CONFIG_DEBUG_INFO_BTF=y")
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}
