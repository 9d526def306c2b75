// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// startLimit is how long an Envoy may take until it is ready: compiling a
// module takes it seconds, many on a busy machine.
const startLimit = 3 * time.Minute

// Proxy is a running Envoy.
type Proxy struct {
	cmd       *exec.Cmd
	exited    chan struct{} // closed when the process has ended
	admin     string        // URL
	log       string        // path
	listeners map[string]netip.AddrPort
}

// Start starts an Envoy and returns when it is ready. The caller calls Stop.
func Start(ctx context.Context, c Config) (*Proxy, error) {
	config, err := c.Bootstrap()
	if err != nil {
		return nil, err
	}
	configFile, adminFile := filepath.Join(c.Dir, "envoy.yaml"), filepath.Join(c.Dir, "admin")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration: %w", err)
	}
	p := &Proxy{exited: make(chan struct{}), log: filepath.Join(c.Dir, "envoy.log")}
	p.cmd = exec.Command(c.Envoy, "--config-path", configFile, "--admin-address-path", adminFile,
		"--log-path", p.log, "--log-level", "warning", "--file-flush-interval-msec", "100",
		"--concurrency", strconv.Itoa(max(1, c.Concurrency)), "--use-dynamic-base-id")
	// A group of its own, so that a Ctrl-C on the terminal does not reach it;
	// it ends with whoever started it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Envoy: %w", err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.exited)
	}()
	if err := p.awaitReady(ctx, adminFile); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// awaitReady waits until Envoy says that it is live, and learns its addresses.
func (p *Proxy) awaitReady(ctx context.Context, adminFile string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := sandbox.Await(ctx, "Envoy to be ready", startLimit, 20*time.Millisecond, func(ctx context.Context) error {
		if !p.Running() {
			err := fmt.Errorf("start Envoy: ended at once: %v\n%s", p.cmd.ProcessState, p.logTail())
			cancel(err)
			return err
		}
		address, err := os.ReadFile(adminFile)
		if err != nil {
			return err
		}
		p.admin = "http://" + strings.TrimSpace(string(address))
		_, err = get(ctx, p.admin+"/ready")
		return err
	})
	if err != nil {
		return err
	}
	p.listeners, err = p.readListeners(ctx)
	return err
}

// Address returns where a listener of the Config takes connections.
func (p *Proxy) Address(listener string) (netip.AddrPort, error) {
	address, ok := p.listeners[listener]
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("find a listener of Envoy: none is called %q", listener)
	}
	return address, nil
}

// PID returns the process ID.
func (p *Proxy) PID() int { return p.cmd.Process.Pid }

// Running reports whether the process has not ended.
func (p *Proxy) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stop ends the process and waits for that. An Envoy that has ended before is
// an error, with the end of its log.
func (p *Proxy) Stop() error {
	if !p.Running() {
		return fmt.Errorf("stop Envoy: ended early: %v\n%s", p.cmd.ProcessState, p.logTail())
	}
	err := p.cmd.Process.Kill() // it has nothing to save
	<-p.exited
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end Envoy: %w", err)
	}
	return nil
}

// Log returns what Envoy has logged so far (level warning and above).
func (p *Proxy) Log() (string, error) {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return "", fmt.Errorf("read Envoy's log: %w", err)
	}
	return string(data), nil
}

func (p *Proxy) logTail() string {
	log, err := p.Log()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
