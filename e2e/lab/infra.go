// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/layertrace/layertrace/e2e/lab/jaeger"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// StartJaeger starts Jaeger beside the switch and waits until it answers. Up
// has done so; this is for after StopJaeger, and Jaeger is empty then.
func (l *Lab) StartJaeger(ctx context.Context) error {
	config, err := jaeger.Config(InfraIP, l.options.MaxTraces)
	if err != nil {
		return err
	}
	path := filepath.Join(l.options.Dir, "jaeger.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return fmt.Errorf("write the Jaeger configuration: %w", err)
	}
	l.jaeger, err = process.Start(process.Spec{
		Name: "jaeger", Path: l.options.Tools.Jaeger, Args: []string{"--config", path},
		Space: l.network.sw, Cgroup: l.groups["infra"],
		Stderr: filepath.Join(l.options.Dir, "jaeger.log"),
	})
	if err != nil {
		return err
	}
	l.Jaeger = jaeger.NewClient(InfraIP, l.network.sw.DialContext)
	return l.ready(ctx, l.jaeger, func(ctx context.Context) error {
		_, err := l.Jaeger.Services(ctx)
		return err
	})
}

// StopJaeger ends Jaeger at once.
func (l *Lab) StopJaeger() error {
	l.Jaeger.Close()
	return l.jaeger.Kill()
}

// PauseJaeger stops Jaeger from answering while its connections stay, until
// ResumeJaeger: what an overloaded one looks like.
func (l *Lab) PauseJaeger() error { return l.jaeger.Signal(syscall.SIGSTOP) }

// ResumeJaeger lets Jaeger go on after PauseJaeger.
func (l *Lab) ResumeJaeger() error { return l.jaeger.Signal(syscall.SIGCONT) }
