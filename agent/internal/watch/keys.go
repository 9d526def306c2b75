// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Keys reads single keys from a terminal: without Enter, and without showing them. Everything
// else stays as it is, such as Ctrl-C, which sends a signal.
type Keys struct {
	// Pressed gets the keys. It is never closed.
	Pressed <-chan byte

	fd        int
	continues chan os.Signal
	mu        sync.Mutex  // guards the rest
	before    *term.State // nil: restored
}

// OpenKeys reads keys from a file until Close. It returns nil if the file is no terminal, or
// belongs to another job at present.
func OpenKeys(in *os.File) (*Keys, error) {
	fd := int(in.Fd())
	if !term.IsTerminal(fd) || !isForeground(fd) {
		return nil, nil
	}
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("read the state of the terminal: %w", err)
	}
	k := &Keys{fd: fd, before: before, continues: make(chan os.Signal, 1)}
	if err := k.set(); err != nil {
		return nil, err
	}
	// Shells set their own state while the job is stopped (Ctrl-Z).
	signal.Notify(k.continues, unix.SIGCONT)
	go func() {
		for range k.continues {
			k.setAgain()
		}
	}()
	pressed := make(chan byte)
	k.Pressed = pressed
	go func() { // ends with the process, or with the terminal
		var one [1]byte
		for {
			if n, err := in.Read(one[:]); n == 0 || err != nil {
				return
			}
			pressed <- one[0]
		}
	}()
	return k, nil
}

// isForeground reports whether the terminal takes input for this process's job: others are
// stopped when they read.
func isForeground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// set is the raw mode of term without what output and signals need.
func (k *Keys) set() error {
	normal, err := unix.IoctlGetTermios(k.fd, unix.TCGETS)
	if err == nil {
		_, err = term.MakeRaw(k.fd)
	}
	if err != nil {
		return fmt.Errorf("read single keys from the terminal: %w", err)
	}
	raw, err := unix.IoctlGetTermios(k.fd, unix.TCGETS)
	if err == nil {
		raw.Oflag, raw.Iflag = normal.Oflag, normal.Iflag
		raw.Lflag |= normal.Lflag & unix.ISIG
		err = unix.IoctlSetTermios(k.fd, unix.TCSETS, raw)
	}
	if err != nil {
		_ = term.Restore(k.fd, k.before) // the first error counts
		return fmt.Errorf("read single keys from the terminal: %w", err)
	}
	return nil
}

func (k *Keys) setAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.before != nil && isForeground(k.fd) {
		_ = k.set() // without it keys need Enter
	}
}

// Close restores the terminal. It may be called more than once, and on nil.
func (k *Keys) Close() error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.before == nil {
		return nil
	}
	signal.Stop(k.continues)
	close(k.continues)
	before := k.before
	k.before = nil
	if err := term.Restore(k.fd, before); err != nil {
		return fmt.Errorf("restore the terminal: %w", err)
	}
	return nil
}
