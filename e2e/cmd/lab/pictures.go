// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/pictures"
	"github.com/layertrace/layertrace/e2e/provision"
)

func picturesCommand() *cobra.Command {
	var dir, out, name string
	cmd := &cobra.Command{
		Use:   "pictures",
		Short: "Make the documents' pictures again from a real run",
		Long: `Runs Bookinfo, makes a request that is slow between two nodes, and photographs its
trace in Zipkin's UI and the page of layertrace explain. Jaeger's UI is not part
of its Go module: the trace is read from Jaeger's API, converted to Zipkin's
format and sent to a Zipkin server. Needs root, Java, Maven and Chromium.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return makePictures(cmd.Context(), dir, out, name)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", filepath.Join("docs", "images"), "directory for the pictures")
	cmd.Flags().StringVar(&out, "out", "out", "directory for the logs")
	cmd.Flags().StringVar(&name, "name", "pictures", "tells labs apart that run at the same time")
	return cmd
}

func makePictures(ctx context.Context, dir, out, name string) (err error) {
	if err := lab.CheckRoot(); err != nil {
		return err
	}
	report := progress()
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	logs, err := filepath.Abs(filepath.Join(out, name+"-lab"))
	if err != nil {
		return err
	}
	tools, err := provision.Tools(ctx, report)
	if err != nil {
		return err
	}
	jar, err := provision.Zipkin(ctx, report)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{Name: name, Dir: logs, Tools: tools, Progress: report})
	if err != nil {
		return err
	}
	defer func() {
		report("taking the lab down")
		err = errors.Join(err, l.Down())
	}()
	m := &pictures.Maker{Lab: l, ZipkinJAR: jar, Dir: dir, Logs: logs, Progress: report}
	return m.Make(ctx)
}
