// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// inTerminal runs a command in a terminal of a width, and returns its screen.
func inTerminal(t *testing.T, columns int, env []string, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"NO_COLOR=1"}, env...)
	cmd.Stdout = terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close() // the command has the last one: reading ends with it
	screen, err := io.ReadAll(master)
	if err != nil && !strings.Contains(err.Error(), "input/output error") { // the end of a terminal
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(screen), "\r\n", "\n")
}

// Text fits the terminal. COLUMNS is the user's word.
func TestTextFitsTheTerminal(t *testing.T) {
	commands := [][]string{
		{"install", "--help"}, {"agent", "--help"},
		{"explain", "--file", "../tracestore/testdata/otlp.jsonl", "4bf92f3577b34da6a3ce929d0e0e4736"},
	}
	for _, args := range commands {
		for _, test := range []struct {
			columns int
			env     []string
			want    int
		}{{80, nil, 80}, {120, nil, 120}, {120, []string{"COLUMNS=90"}, 90}} {
			widest := 0
			for line := range strings.Lines(inTerminal(t, test.columns, test.env, args...)) {
				widest = max(widest, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
			}
			if widest > test.want || widest < test.want-20 {
				t.Errorf("%v in %d columns, %v: %d columns, want up to %d", args, test.columns, test.env, widest, test.want)
			}
		}
	}
}
