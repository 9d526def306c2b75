// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/testkit"
)

// binary is the built command.
var binary string

// hideBTF is set when the test binary runs itself to hide the kernel's BTF and then
// execute a command.
const hideBTF = "TEST_HIDE_BTF"

func TestMain(m *testing.M) {
	if os.Getenv(hideBTF) != "" {
		fmt.Fprintln(os.Stderr, becomeWithoutBTF()) // returns only on failure
		os.Exit(2)
	}
	os.Exit(withBinary(m))
}

func withBinary(m *testing.M) int {
	dir, err := os.MkdirTemp("", "layertrace-cli-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "layertrace")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/layertrace/layertrace/agent/cmd/layertrace")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	// Tests also run it as an unprivileged user.
	if err := errors.Join(build.Run(), os.Chmod(dir, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func becomeWithoutBTF() error {
	// In its own mount namespace: an empty directory over the BTF.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("none", "/sys/kernel/btf", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("hide BTF: %w", err)
	}
	args := os.Args[1:]
	return syscall.Exec(args[0], args, nil)
}

// result of one run.
type result struct {
	code           int
	stdout, stderr string
}

// runBinary runs the command to its end.
func runBinary(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// checkRefusal expects an exit code and one line with a text on stderr.
func checkRefusal(t *testing.T, r result, code int, want string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if strings.Count(r.stderr, "\n") != 1 || !strings.HasPrefix(r.stderr, "layertrace: ") || !strings.Contains(r.stderr, want) {
		t.Errorf("stderr is %q, want one line with %q", r.stderr, want)
	}
	if r.stdout != "" {
		t.Errorf("stdout is %q", r.stdout)
	}
}

// process is a running command whose output lines can be awaited.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr chan string
}

// start runs the command inside s until it is stopped or the test ends.
func start(t *testing.T, s *space, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), stdout: make(chan string, 1000), stderr: make(chan string, 1000)}
	p.cmd.Env = []string{}
	for _, pipe := range []struct {
		open func() (io.ReadCloser, error)
		to   chan string
	}{{p.cmd.StdoutPipe, p.stdout}, {p.cmd.StderrPipe, p.stderr}} {
		r, err := pipe.open()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(pipe.to)
			for lines := bufio.NewScanner(r); lines.Scan(); {
				pipe.to <- lines.Text()
			}
		}()
	}
	s.Do(p.cmd.Start)
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill() // the test failed before it ended the process
			_ = p.cmd.Wait()
		}
	})
	return p
}

// await returns the next line with all the texts in it.
func (p *process) await(lines <-chan string, texts ...string) string {
	p.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if !open {
				p.t.Fatalf("the agent ended before it printed %q", texts)
			}
			if containsAll(line, texts) {
				return line
			}
		case <-deadline:
			p.t.Fatalf("the agent does not print %q", texts)
		}
	}
}

func containsAll(line string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(line, text) {
			return false
		}
	}
	return true
}

// end waits for the process and returns its exit code and the remaining lines of
// stdout.
func (p *process) end() (code int, rest []string) {
	for line := range p.stdout {
		rest = append(rest, line)
	}
	for range p.stderr { // Wait needs the pipes to be drained
	}
	_ = p.cmd.Wait() // the exit code is checked
	return p.cmd.ProcessState.ExitCode(), rest
}

// space is a network namespace of a test.
type space struct {
	*testkit.Namespace
	t *testing.T
}

func newSpace(t *testing.T) *space {
	t.Helper()
	return &space{Namespace: testkit.NewNamespace(t), t: t}
}

// dial is a DialContext that connects from the namespace.
func (s *space) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	s.Do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return nil
	})
	return conn, err
}

// pair connects two namespaces by a veth pair and returns the index of the end in a.
func pair(a *space, name, address string, b *space, peer, peerAddress string) int {
	a.t.Helper()
	err := a.Links.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(b.NS),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.up(name, address)
	b.up(peer, peerAddress)
	link, err := a.Links.LinkByName(name)
	if err != nil {
		a.t.Fatal(err)
	}
	return link.Attrs().Index
}

func (s *space) up(name, address string) {
	s.t.Helper()
	link, err := s.Links.LinkByName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.Links.AddrAdd(link, addr); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Links.LinkSetUp(link); err != nil {
		s.t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}
