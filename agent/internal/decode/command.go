// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// flags are the command's options as written on the command line.
type flags struct {
	ports                    []uint
	prefixWindow, deepWindow int
	deep                     bool
	headers                  []string
}

// Command returns "layertrace decode".
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "decode FILE",
		Short: "Print the exchanges in a packet capture",
		Long: `Print the HTTP exchanges with a trace context in a packet capture, a pcap or
pcapng file as tcpdump writes it ("-": standard input), one JSON object a line.
A summary goes to standard error.`,
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options()
			if err != nil {
				return err
			}
			return run(args[0], opts, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	set := cmd.Flags()
	set.UintSliceVar(&f.ports, "ports", nil, "TCP ports to look at, at either end (default all)")
	set.IntVar(&f.prefixWindow, "prefix-window", DefaultPrefixWindow, "bytes of a request's first segment that are searched")
	set.BoolVar(&f.deep, "deep", false, "search over several segments")
	set.IntVar(&f.deepWindow, "deep-window", DefaultDeepWindow, "bytes of a request that are searched with --deep")
	set.StringArrayVar(&f.headers, "context-header", nil, "a further header with a trace context, as NAME=w3c|b3|jaeger|skywalking (repeatable)")
	return cmd
}

func (f *flags) options() (Options, error) {
	opts := Options{PrefixWindow: f.prefixWindow, Deep: f.deep, DeepWindow: f.deepWindow}
	if f.prefixWindow < 1 || f.deepWindow < 1 {
		return opts, fmt.Errorf("--prefix-window and --deep-window take 1 byte or more")
	}
	for _, port := range f.ports {
		if port < 1 || port > 65535 {
			return opts, fmt.Errorf("--ports: %d is not a TCP port (1 to 65535)", port)
		}
		opts.Ports = append(opts.Ports, uint16(port))
	}
	for _, text := range f.headers {
		h, err := tracecontext.ParseContextHeader(text)
		if err != nil {
			return opts, fmt.Errorf("--context-header: %w", err)
		}
		opts.Headers = append(opts.Headers, h)
	}
	if err := tracecontext.ValidateContextHeaders(opts.Headers); err != nil {
		return opts, fmt.Errorf("--context-header: %w", err)
	}
	return opts, nil
}

// run decodes one file. What was read before an error is printed too.
func run(name string, opts Options, stdin io.Reader, stdout, stderr io.Writer) error {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("open the capture: %w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	out := bufio.NewWriter(stdout)
	lines := json.NewEncoder(out)
	var writeErr error
	decoder := New(opts, func(x observe.Observation) {
		if writeErr == nil {
			writeErr = lines.Encode(x)
		}
	})
	readErr := ReadFile(in, decoder.Packet)
	decoder.Flush()
	if err := out.Flush(); writeErr == nil {
		writeErr = err
	}
	if writeErr != nil {
		return fmt.Errorf("write the exchanges: %w", writeErr)
	}
	for _, c := range decoder.Counters() {
		if c.Value > 0 {
			fmt.Fprintf(stderr, "%s: %d (%s)\n", c.Name, c.Value, c.Help)
		}
	}
	if readErr != nil {
		return fmt.Errorf("%s: %w", name, readErr)
	}
	return nil
}
