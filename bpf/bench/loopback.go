// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// loopback is a connection between two sockets of this process.
type loopback struct{ writer, reader *os.File }

func openLoopback() (l loopback, err error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return l, err
	}
	defer listener.Close()
	client, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		return l, err
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		return l, err
	}
	defer server.Close()
	if l.writer, err = blocking(client); err != nil {
		return l, err
	}
	l.reader, err = blocking(server)
	return l, err
}

// blocking returns the connection's socket without Go's poller.
func blocking(c net.Conn) (*os.File, error) {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	return f, syscall.SetNonblock(int(f.Fd()), false)
}

// Close closes both ends.
func (l loopback) Close() error {
	return errors.Join(l.writer.Close(), l.reader.Close())
}

// pin keeps the calling goroutine on one thread and one CPU until its end: otherwise
// a reader elsewhere, or another CPU's caches, would be measured.
func pin() error {
	runtime.LockOSThread()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("read the CPUs of this thread: %w", err)
	}
	for cpu := range len(cpus) * 64 {
		if cpus.IsSet(cpu) {
			cpus.Zero()
			cpus.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("stay on one CPU: %w", err)
	}
	return nil
}

func threadTime() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return ts.Nano(), nil
}

// makeCgroup creates a top-level cgroup for sockets of this process.
func makeCgroup() (string, error) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(root, &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir, err := os.MkdirTemp(root, "layertrace-bench-")
		if err != nil {
			return "", fmt.Errorf("create cgroup: %w", err)
		}
		return dir, nil
	}
	return "", errors.New("find the cgroup2 mount: not at /sys/fs/cgroup or /sys/fs/cgroup/unified")
}

// openLoopbackIn opens a connection whose sockets belong to the cgroup; the process
// leaves the cgroup again.
func openLoopbackIn(group string) (l loopback, err error) {
	own, err := ownCgroup(filepath.Dir(group))
	if err != nil {
		return l, err
	}
	if err := enter(group); err != nil {
		return l, err
	}
	l, err = openLoopback()
	return l, errors.Join(err, enter(own))
}

// ownCgroup is the directory of this process's cgroup below root.
func ownCgroup(root string) (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("read own cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "0::"); found {
			return filepath.Join(root, path), nil
		}
	}
	return "", errors.New("read own cgroup: /proc/self/cgroup has no line of cgroup2")
}

// enter moves this process into a cgroup.
func enter(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter the cgroup %s: %w", dir, err)
	}
	return nil
}
