// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"
)

// capabilities are the numbers of those that the agents' manifest may name.
var capabilities = map[core.Capability]int{
	"BPF": unix.CAP_BPF, "PERFMON": unix.CAP_PERFMON, "NET_ADMIN": unix.CAP_NET_ADMIN, "NET_RAW": unix.CAP_NET_RAW, "SYS_ADMIN": unix.CAP_SYS_ADMIN,
}

// agentIsConfined compares the agent's process, as the kernel has it, with the security context
// that the API server has: containerd started the project's image under just that.
func agentIsConfined(ctx context.Context, c *chain) error {
	pods, err := c.cluster.Client.CoreV1().Pods(agentNamespace).List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	if len(pods.Items) != 1 || len(pods.Items[0].Status.ContainerStatuses) != 1 {
		return fmt.Errorf("%d pods of agents, want 1 with 1 container", len(pods.Items))
	}
	pod := pods.Items[0]
	_, container, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	process, err := processOf(container)
	if err != nil {
		return err
	}
	return errors.Join(confined(process, pod.Spec.Containers[0].SecurityContext, pod.Spec.SecurityContext), imageIn(process))
}

// processOf returns the /proc directory of the only process in a container.
func processOf(container string) (string, error) {
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return "", err
	}
	var found []string
	for _, group := range groups {
		text, err := os.ReadFile(group)
		if err == nil && container != "" && strings.Contains(string(text), "/"+container) { // else it has ended
			found = append(found, filepath.Dir(group))
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("container %q has the processes %v, want 1", container, found)
	}
	return found[0], nil
}

// confined compares /proc/PID/status and the mount of / with a security context.
func confined(process string, want *core.SecurityContext, pod *core.PodSecurityContext) error {
	text, err := os.ReadFile(process + "/status")
	if err != nil {
		return err
	}
	status := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		status[name], _, _ = strings.Cut(strings.TrimSpace(value), "\t")
	}
	var mask uint64
	for _, name := range want.Capabilities.Add {
		number, known := capabilities[name]
		if !known {
			return fmt.Errorf("the manifest adds the capability %s, whose number this test lacks", name)
		}
		mask |= 1 << number
	}
	all := fmt.Sprintf("%016x", mask)
	expected := map[string]string{
		"Uid": strconv.FormatInt(*want.RunAsUser, 10), "CapEff": all, "CapPrm": all, "CapBnd": all, "CapAmb": fmt.Sprintf("%016x", 0),
		"NoNewPrivs": map[bool]string{true: "0", false: "1"}[*want.AllowPrivilegeEscalation],
	}
	if pod.SeccompProfile.Type == core.SeccompProfileTypeRuntimeDefault {
		expected["Seccomp"] = "2" // a filter (SECCOMP_MODE_FILTER)
	}
	var errs []error
	for name, value := range expected {
		if status[name] != value {
			errs = append(errs, fmt.Errorf("the agent has %s %s, want %s", name, status[name], value))
		}
	}
	mounts, err := os.ReadFile(process + "/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) > 3 && fields[1] == "/" && strings.HasPrefix(fields[3], "ro,") != *want.ReadOnlyRootFilesystem {
			errs = append(errs, fmt.Errorf("the root is mounted %s", fields[3]))
		}
	}
	return errors.Join(errs...)
}

// imageIn checks the files of the image: of root, not writable by others, with the CA
// certificates and the licences.
func imageIn(process string) error {
	var errs []error
	for name, mode := range map[string]os.FileMode{
		"layertrace": 0o755, "etc/ssl/certs": 0o755, "etc/ssl/certs/ca-certificates.crt": 0o644, "LICENSES/Apache-2.0.txt": 0o644,
	} {
		info, err := os.Stat(filepath.Join(process, "root", name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(process, "root", name), &stat); err != nil || stat.Uid != 0 || stat.Gid != 0 || info.Mode().Perm() != mode {
			errs = append(errs, fmt.Errorf("/%s: owner %d:%d, mode %v, want 0:0, %v: %w", name, stat.Uid, stat.Gid, info.Mode().Perm(), mode, err))
		}
	}
	return errors.Join(errs...)
}
