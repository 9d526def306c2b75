// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/reorder"
	"github.com/layertrace/layertrace/e2e/reorder/cost"
	luafilter "github.com/layertrace/layertrace/lua-filter"
)

type reorderCmd struct {
	out  string
	cost bool

	progress func(format string, args ...any)
}

func reorderCommand() *cobra.Command {
	r := &reorderCmd{}
	cmd := &cobra.Command{
		Use:   "reorder",
		Short: "Show what puts the trace context in front, on the wire, and what it costs",
		Long: `Holds each way of putting the trace context in front to the golden files of
e2e/testdata/wire: Wasm as upstream filter and in the connection manager, Lua as
upstream filter, and Envoy as it is for control; with both tracers, by HTTP/1.1
and HTTP/2, on the wire of a real Envoy. Then measures what a request costs Envoy
with each of them. Fails when a case is not on the wire as its file says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.progress = progress()
			return r.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&r.out, "out", "out", "directory for reorder.json and the logs")
	cmd.Flags().BoolVar(&r.cost, "cost", true, "measure the cost as well (needs a machine that does nothing else)")
	return cmd
}

func (r *reorderCmd) run(ctx context.Context) error {
	dir, err := filepath.Abs(filepath.Join(r.out, "reorder"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("make a directory for the logs: %w", err)
	}
	checkout, err := provision.Checkout()
	if err != nil {
		return err
	}
	envoy, err := provision.Envoy(ctx, r.progress)
	if err != nil {
		return err
	}
	module := filepath.Join(dir, "layertrace.wasm")
	if err := provision.Wasm(ctx, module, r.progress); err != nil {
		return err
	}

	var report reorderReport
	report.Wire, err = reorder.Run(ctx, reorder.Options{
		Envoy: envoy, Module: module, Dir: dir, Progress: r.progress,
		Golden: os.DirFS(filepath.Join(checkout, "e2e", "testdata", "wire")),
	})
	if err != nil {
		return err
	}
	printWire(os.Stdout, report.Wire)
	printOffsets(os.Stdout, report.Wire)
	if r.cost {
		if report.Cost, err = r.measure(ctx, envoy, module, dir); err != nil {
			return err
		}
		printCost(os.Stdout, report.Cost)
	}
	return errors.Join(report.write(filepath.Join(r.out, "reorder.json")), report.failed())
}

func (r *reorderCmd) measure(ctx context.Context, envoy, module, dir string) ([]cost.Result, error) {
	lua, err := luafilter.Source(luafilter.Config{})
	if err != nil {
		return nil, err
	}
	results, err := cost.Measure(ctx, cost.Options{
		Envoy: envoy, Module: module, Lua: lua, Dir: dir, Progress: r.progress,
	})
	if err != nil {
		return nil, fmt.Errorf("measure the cost: %w", err)
	}
	return results, nil
}
