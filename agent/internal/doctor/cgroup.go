// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// cgroup2 finds the cgroup2 hierarchy, which is beside the others (unified) on
// hosts that still use version 1.
func cgroup2() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("not mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified: mount -t cgroup2 none DIR, and mount it into a container")
}

func trySockops() error { return tryCgroup(ebpf.SockOps, ebpf.AttachCGroupSockOps) }

func tryCgroupSKB() error {
	for _, attach := range []ebpf.AttachType{ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetIngress} {
		if err := tryCgroup(ebpf.CGroupSKB, attach); err != nil {
			return err
		}
	}
	return nil
}

// tryCgroup attaches to a cgroup of its own.
func tryCgroup(kind ebpf.ProgramType, attach ebpf.AttachType) error {
	return inCgroup(func(dir string) error {
		p, err := load(kind, attach, "", 1)
		if err != nil {
			return err
		}
		defer p.Close()
		l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: attach, Program: p})
		if err != nil {
			return fmt.Errorf("attach to a cgroup: %w", err)
		}
		return l.Close()
	})
}

// inCgroup calls try with the directory of a new cgroup, which it removes then.
func inCgroup(try func(dir string) error) (err error) {
	root, err := cgroup2()
	if err != nil {
		return fmt.Errorf("%w: no cgroup2", errUnknown)
	}
	dir, err := os.MkdirTemp(root, "layertrace-doctor-")
	if err != nil {
		return fmt.Errorf("%w: make a cgroup: %w", errUnknown, err)
	}
	defer func() {
		// RemoveAll would try the kernel's files in it first.
		if e := unix.Rmdir(dir); e != nil && err == nil {
			err = fmt.Errorf("remove the cgroup %s: %w; remove it with rmdir", filepath.Base(dir), e)
		}
	}()
	return try(dir)
}
