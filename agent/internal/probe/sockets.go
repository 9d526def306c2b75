// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/bpf"
)

// sockets captures at the sockets in some cgroups.
type sockets struct {
	collection *ebpf.Collection
	links      attachments
}

const writesUnknown = "write times of processes are unknown: time in a sender's queue counts as the application's"

// socketPoints are the tracepoints of the socket programs, in addition to one of
// writePoints.
var socketPoints = []tracepoint{
	{bpf.SocketProgCgroupCreated, "cgroup_mkdir", 1, writesUnknown},
	{bpf.SocketProgSocketRead, "tcp_rcv_space_adjust", 1, "read times of processes are unknown: time in a receiver's queue counts as the application's"},
	{bpf.SocketProgSocketDrop, "kfree_skb", 3, "drops in the network namespaces of pods are unknown"},
}

// writePoints report writes, the better one first: before TCP can send anything
// (since 6.16), and at the end of a write (since 6.3).
var writePoints = []tracepoint{
	{bpf.SocketProgSocketWrite, "tcp_sendmsg_locked", 2, writesUnknown},
	{bpf.SocketProgSocketWrote, "sock_send_length", 2, writesUnknown},
}

// dropReceiver is the number of arguments of kfree_skb up to the receiving socket,
// which it has since 6.11. Without, only drops of sent packets are known.
const dropReceiver = 4

// HaveWrites returns the tracepoint that reports writes in this kernel, or an
// error of the kind ebpf.ErrNotSupported.
func HaveWrites() (name string, err error) {
	p, err := firstSupported(writePoints)
	return p.name, err
}

// selectWrites removes the write program from spec that this kernel does not need,
// and returns the tracepoints of the others.
func selectWrites(spec *ebpf.CollectionSpec) []tracepoint {
	selected, _ := firstSupported(writePoints) // removeUnsupported handles the error
	for _, p := range writePoints {
		if p != selected {
			delete(spec.Programs, p.program)
		}
	}
	return append([]tracepoint{selected}, socketPoints...)
}

// removeLoneWrites reports whether spec has both programs that write times need,
// and otherwise removes a remaining one.
func removeLoneWrites(spec *ebpf.CollectionSpec, write tracepoint) bool {
	for _, name := range []string{bpf.SocketProgCgroupCreated, write.program} {
		if spec.Programs[name] == nil {
			delete(spec.Programs, bpf.SocketProgCgroupCreated)
			delete(spec.Programs, write.program)
			return false
		}
	}
	return true
}

// haveSockets checks for the features that capture at sockets requires. It ignores
// failing checks: loading reports them.
func haveSockets() error {
	for _, err := range []error{features.HaveProgramType(ebpf.CGroupSKB), features.HaveMapType(ebpf.SkStorage)} {
		if errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
	}
	return nil
}

// openSockets loads the socket programs, which share the maps of the capture
// programs, and attaches them. They see all sockets of a process in one of the
// cgroups or below, including those that are already open.
func openSockets(o *Options, k *kernelSide) (*sockets, error) {
	if err := haveSockets(); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read socket programs: %w", err)
	}
	if err := configure(spec, o); err != nil {
		return nil, err
	}
	points := selectWrites(spec)
	if _, err := removeUnsupported(spec, points, o.Log); err != nil {
		return nil, err
	}
	writes := removeLoneWrites(spec, points[0])
	receiver := haveTracepoint("kfree_skb", dropReceiver)
	if receiver != nil && !errors.Is(receiver, ebpf.ErrNotSupported) {
		return nil, receiver
	}
	targets, err := targetCgroups(o.SocketCgroups)
	if err != nil {
		return nil, err
	}
	if err := setAll(spec, map[string]any{
		bpf.SocketVarHaveRxSk:      receiver == nil,
		bpf.SocketVarTargetCgroups: targets,
		bpf.SocketVarHaveWriteTp:   writes,
	}); err != nil {
		return nil, err
	}
	s := &sockets{}
	if s.collection, err = k.load(spec); err != nil {
		return nil, loadError("socket", err)
	}
	if err := s.attach(points, o.SocketCgroups); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// targetCgroups returns the IDs by which the programs know the cgroups: the
// inode numbers of their directories.
func targetCgroups(paths []string) (targets bpf.SocketTargetCgroups, err error) {
	if len(paths) > len(targets.Ids) {
		return targets, fmt.Errorf("capture at the sockets of %d cgroups: the limit is %d, use a common parent", len(paths), len(targets.Ids))
	}
	targets.Len = uint32(len(paths))
	for i, path := range paths {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return targets, fmt.Errorf("look up cgroup: %w", &os.PathError{Op: "stat", Path: path, Err: err})
		}
		targets.Ids[i] = st.Ino
	}
	return targets, nil
}

// attach attaches the tracepoints first, so that the write of every request seen
// in a packet was seen too.
func (s *sockets) attach(points []tracepoint, cgroups []string) error {
	if err := s.links.trace(s.collection, points); err != nil {
		return err
	}
	for _, path := range cgroups {
		for _, hook := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
			l, err := link.AttachCgroup(link.CgroupOptions{
				Path: path, Attach: hook, Program: s.collection.Programs[bpf.SocketProgSocketPacket],
			})
			if err != nil {
				return fmt.Errorf("capture at the sockets of cgroup %s (is it a directory of the cgroup2 mount?): %w", path, err)
			}
			s.links = append(s.links, l)
		}
	}
	return nil
}

// Close ends the capture at sockets.
func (s *sockets) Close() error {
	err := s.links.Close()
	s.collection.Close()
	return err
}

// SocketCgroupAuto as the only one of Options.SocketCgroups means the cgroups of
// the node's pods, or the root of all cgroups on a machine without pods, and with AllRequests.
const SocketCgroupAuto = "auto"

// HavePods reports whether this machine has the cgroup of a kubelet's pods.
func HavePods() bool {
	_, err := findPodCgroups(cgroupMounts, isCgroup2)
	return err == nil
}

// resolveSocketCgroups replaces SocketCgroupAuto by the cgroups below the first of
// the mounts that has any. Without them the other capture points still work.
func (o *Options) resolveSocketCgroups(mounts []string) {
	if !slices.Equal(o.SocketCgroups, []string{SocketCgroupAuto}) {
		return
	}
	pods, err := findPodCgroups(mounts, isCgroup2)
	root := findRootCgroup(mounts, isCgroup2)
	switch o.SocketCgroups = o.chooseCgroups(pods, root); {
	case len(o.SocketCgroups) == 0:
		o.Log.Warn("no capture at sockets: layers come from interfaces only", "reason", err)
	case len(pods) > 0 && o.SocketCgroups[0] == pods[0]:
		o.Log.Info("capturing at the sockets of the pods", "cgroups", pods)
	case len(pods) > 0:
		o.Log.Info("capturing at the sockets of all processes", "cgroup", root)
	default:
		o.Log.Info("no pods here: capturing at the sockets of all processes", "cgroup", root)
	}
}

// chooseCgroups chooses between the cgroups of the pods and the root of all cgroups, "" if it
// is not here. Who wants all requests wants them of all processes.
func (o *Options) chooseCgroups(pods []string, root string) []string {
	if root != "" && !o.Cluster && (o.AllRequests || len(pods) == 0) {
		return []string{root}
	}
	return pods
}

// findRootCgroup returns the first of the mounts that has the root of all cgroups, ""
// without one. In a cgroup namespace, as most containers have, the mount begins lower.
// A machine's processes can be anywhere: in system.slice, below a container runtime's
// own cgroup, in a login session, or accept connections of a listener that systemd made.
func findRootCgroup(mounts []string, suitable func(string) bool) string {
	for _, mount := range mounts {
		// The root has no type (Documentation/admin-guide/cgroup-v2.rst).
		if _, err := os.Stat(filepath.Join(mount, "cgroup.type")); os.IsNotExist(err) && suitable(mount) {
			return mount
		}
	}
	return ""
}

// cgroupMounts are the places to look for the node's cgroups: the DaemonSet's mount
// of them first, then their place on the node itself; each followed by the place of
// version 2 next to version 1.
var cgroupMounts = []string{
	"/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified",
	"/sys/fs/cgroup", "/sys/fs/cgroup/unified",
}

// podCgroupNames are the kubelet's: with the systemd driver, with the cgroupfs
// driver, and both of them below a cgroup of the kubelet, as in kind.
var podCgroupNames = []string{
	"kubepods.slice", "kubepods",
	"kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods",
}

// findPodCgroups returns the pods' cgroups below the first mount that has any.
func findPodCgroups(mounts []string, suitable func(string) bool) ([]string, error) {
	for _, mount := range mounts {
		var found []string
		for _, name := range podCgroupNames {
			dir := filepath.Join(mount, name)
			if info, err := os.Stat(dir); err == nil && info.IsDir() && suitable(dir) {
				found = append(found, dir)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	return nil, fmt.Errorf("find the cgroup (version 2) of pods: no %s in %s: set --socket-cgroup, and mount the node's /sys/fs/cgroup into the agent's container",
		strings.Join(podCgroupNames, " or "), strings.Join(mounts, ", "))
}

// isCgroup2 rejects version 1, to which programs cannot be attached.
func isCgroup2(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}
