// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxCgroups bounds one search through all cgroups, and what is kept of it. A
	// machine with 1,000 containers has some 3,000.
	maxCgroups = 32768
	// cgroupSearchPause is the minimum time between two such searches.
	cgroupSearchPause = 5 * time.Second
)

// cgroupPaths finds the path of a cgroup below the cgroup2 mount by its ID, which is
// the inode number of its directory. It must not be used concurrently.
type cgroupPaths struct {
	mount    string // "" without a cgroup2 mount
	now      func() time.Time
	byHandle bool // false: the kernel refuses
	paths    map[uint64]string
	searched time.Time
}

func newCgroupPaths(mount string, now func() time.Time) *cgroupPaths {
	return &cgroupPaths{mount: mount, now: now, byHandle: isCgroup2(mount), paths: map[uint64]string{}}
}

// path returns the path of a cgroup, such as /system.slice/nginx.service, "" if it is
// unknown or gone.
func (c *cgroupPaths) path(id uint64) string {
	if id == 0 || c.mount == "" {
		return ""
	}
	if path, ok := c.paths[id]; ok {
		return path
	}
	if c.byHandle {
		path, err := openCgroup(c.mount, id)
		if err == nil {
			c.keep(id, path)
			return path
		}
		if errors.Is(err, unix.ESTALE) { // it is gone
			return ""
		}
		c.byHandle = false
	}
	if now := c.now(); now.Sub(c.searched) >= cgroupSearchPause {
		c.searched = now
		c.search()
	}
	return c.paths[id]
}

// keep stores a path. When there are too many, the next look-ups fill it again.
func (c *cgroupPaths) keep(id uint64, path string) {
	if len(c.paths) >= maxCgroups {
		clear(c.paths)
	}
	c.paths[id] = path
}

// search reads the IDs of all cgroups, for agents that may not open files by handle.
func (c *cgroupPaths) search() {
	found := 0
	// What cannot be read stays unknown.
	_ = filepath.WalkDir(c.mount, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // a cgroup that has gone meanwhile
		}
		if found++; found > maxCgroups {
			return filepath.SkipAll
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil {
			c.keep(st.Ino, below(c.mount, dir))
		}
		return nil
	})
}

// fileIDKernfs is FILEID_KERNFS of include/linux/exportfs.h: such a handle is the
// 64-bit ID of the kernfs node, here the cgroup.
const fileIDKernfs = 0xfe

// openCgroup returns the path of a cgroup by opening it by its ID. It needs
// CAP_DAC_READ_SEARCH. unix.ESTALE: there is no such cgroup any more.
func openCgroup(mount string, id uint64) (string, error) {
	at, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(at)
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(at, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	dir, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	return below(mount, strings.TrimSuffix(dir, " (deleted)")), nil
}

// below returns the part of a directory below the mount, "/" for the mount itself.
func below(mount, dir string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(dir, mount), "/")
}

// cgroupMounts are the places of the cgroup2 mount: of the node in the agent's
// container, and on the node itself; each followed by version 2 next to version 1.
var cgroupMounts = []string{
	"/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified",
	"/sys/fs/cgroup", "/sys/fs/cgroup/unified",
}

// findCgroupMount returns the first of the mounts that is one, or "".
func findCgroupMount(mounts []string) string {
	for _, dir := range mounts {
		if isCgroup2(dir) {
			return dir
		}
	}
	return ""
}

func isCgroup2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// containerCgroup matches the cgroup of a container: docker-ID.scope, libpod-ID.scope,
// cri-containerd-ID.scope, crio-ID.scope (systemd), and ID below the runtime's own
// cgroup (cgroupfs). IDs have 64 hex digits.
var containerCgroup = regexp.MustCompile(`(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|$)`)

// namedContainer matches those whose cgroup has the name itself: LXC's, and machines of
// systemd-nspawn.
var namedContainer = regexp.MustCompile(`(?:^|/)(?:lxc\.payload\.([^/]+)|machine-([^/]+)\.scope|systemd-nspawn@([^/]+)\.service)(?:/|$)`)

// containerOf returns the ID or the name of the container that a cgroup belongs to,
// both "" if it belongs to none. Of nested containers it is the outer one, which is
// the one that this machine's runtime knows.
func containerOf(path string) (id, name string) {
	if m := containerCgroup.FindStringSubmatch(path); m != nil {
		return m[1], ""
	}
	if m := namedContainer.FindStringSubmatch(path); m != nil {
		return "", unescapeUnit(m[1] + m[2] + m[3])
	}
	return "", ""
}

// unitOf returns the name of the systemd service that a cgroup belongs to, without
// .service; "" if there is none or its name says nothing about its processes.
func unitOf(path string) string {
	parts := strings.Split(path, "/")
	for i := len(parts) - 1; i >= 0; i-- {
		name, ok := strings.CutSuffix(parts[i], ".service")
		if !ok {
			continue
		}
		template, instance, _ := strings.Cut(name, "@")
		switch {
		case startsOthers[template] || strings.HasPrefix(name, "run-"): // run-: made by systemd-run
			return ""
		case perConnection.MatchString(instance):
			return unescapeUnit(template)
		default:
			return unescapeUnit(name)
		}
	}
	return ""
}

// perConnection matches the instance of a service that systemd starts for one
// connection (Accept=yes): its number and both ends.
var perConnection = regexp.MustCompile(`^[0-9]+-.*:[0-9]+-.*:[0-9]+`)

// startsOthers are services whose processes are mainly programs of others: container
// runtimes (where the cgroups of containers are of version 1), logins, cron, process
// supervisors.
var startsOthers = map[string]bool{
	"user": true, "docker": true, "containerd": true, "crio": true, "podman": true, "buildkit": true,
	"kubelet": true, "k3s": true, "k3s-agent": true, "nomad": true,
	"ssh": true, "sshd": true, "getty": true, "serial-getty": true,
	"cron": true, "crond": true, "anacron": true, "atd": true,
	"supervisor": true, "supervisord": true, "runit": true, "monit": true,
}

// unescapeUnit undoes the escapes of systemd-escape(1): \x2d is a hyphen.
func unescapeUnit(name string) string {
	return escapedByte.ReplaceAllStringFunc(name, func(escape string) string {
		// The expression matches two hex digits only.
		b, _ := strconv.ParseUint(escape[2:], 16, 8)
		return string(rune(b))
	})
}

var escapedByte = regexp.MustCompile(`\\x[0-9a-f]{2}`)
