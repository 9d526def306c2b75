// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/internal/testkit"
)

// childEnv is set when the test binary runs itself on a terminal of its own.
const childEnv = "LAYERTRACE_WATCH_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

// child reads keys until q, restores the terminal and writes what it got.
func child() {
	keys, err := OpenKeys(os.Stdin)
	if err != nil || keys == nil {
		fmt.Printf("no keys: %v\n", err)
		return
	}
	fmt.Println("ready")
	got := ""
	for got == "" || got[len(got)-1] != 'q' {
		got += string(<-keys.Pressed)
	}
	for range 2 { // the second one changes nothing
		if err := keys.Close(); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Printf("got %q\n", got)
}

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// Keys come at once and unseen, signals and lines stay as they are, and the terminal is as
// before in the end.
func TestKeys(t *testing.T) {
	ours, theirs := openTerminal(t)
	state := func() unix.Termios {
		s, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	before := state()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test fails
	var shown buffer
	go func() {
		var some [256]byte
		for {
			n, err := ours.Read(some[:])
			if err != nil {
				return
			}
			_, _ = shown.Write(some[:n])
		}
	}()
	testkit.Eventually(t, "the child reads keys", func() bool { return shown.lines() == 1 })
	during := state()
	if during.Lflag&(unix.ICANON|unix.ECHO) != 0 || during.Lflag&unix.ISIG == 0 || during.Oflag != before.Oflag || during.Iflag != before.Iflag {
		t.Errorf("the terminal is %+v, was %+v", during, before)
	}
	if _, err := ours.WriteString("p q"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the child does not end")
	}
	if after := state(); after != before {
		t.Errorf("the terminal is %+v, was %+v", after, before)
	}
	testkit.Eventually(t, "its last line", func() bool { return shown.lines() == 2 })
	if want := "ready\r\ngot \"p q\"\r\n"; shown.String() != want {
		t.Errorf("the terminal shows %q, want %q", shown.String(), want)
	}
}

// Without a terminal there are no keys.
func TestNoTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	keys, err := OpenKeys(r)
	if keys != nil || err != nil {
		t.Errorf("%v, %v", keys, err)
	}
	if err := keys.Close(); err != nil {
		t.Error(err)
	}
}
