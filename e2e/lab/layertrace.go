// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/layertrace/layertrace/e2e/lab/jaeger"
	"github.com/layertrace/layertrace/e2e/lab/process"
)

// Layertrace runs a command of layertrace beside Jaeger and returns what it
// wrote to its standard output.
func (l *Lab) Layertrace(ctx context.Context, args ...string) ([]byte, error) {
	name := "layertrace " + args[0]
	out := filepath.Join(l.options.Dir, args[0]+".out")
	command, err := process.Start(process.Spec{
		Name: name, Path: l.options.Tools.Agent, Args: args,
		Space: l.network.sw, Cgroup: l.groups["infra"],
		Stdout: out, Stderr: filepath.Join(l.options.Dir, args[0]+".log"),
	})
	if err != nil {
		return nil, err
	}
	if err := command.Wait(ctx); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, fmt.Errorf("read what %s wrote: %w", name, err)
	}
	return text, nil
}

// JaegerURL is where Jaeger's query API is, from the nodes and beside it.
func JaegerURL() string { return fmt.Sprintf("http://%s:%d", InfraIP, jaeger.QueryPort) }
