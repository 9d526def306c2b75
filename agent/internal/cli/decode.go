// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func newDecode() *cobra.Command {
	var f decodeFlags
	cmd := &cobra.Command{
		Use:   "decode FILE",
		Short: "Print the exchanges in a packet capture",
		Long: `Print the HTTP exchanges with a trace context in a packet capture, one JSON
object per line, and a summary on stderr. FILE is a pcap or pcapng file, as
written by tcpdump, or "-" for stdin.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options()
			if err != nil {
				return err
			}
			return decodeFile(args[0], opts, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	set := cmd.Flags()
	set.UintSliceVar(&f.ports, "ports", nil, "TCP `PORTS` to decode, of either end (default: all)")
	set.Lookup("ports").DefValue = "" // not "[]" in the help
	set.IntVar(&f.prefixWindow, "prefix-window", tracecontext.DefaultPrefixWindow, "search the first `BYTES` of a request's first segment for the trace context")
	set.BoolVar(&f.deep, "deep", false, "continue the search in later segments, up to --deep-window")
	set.IntVar(&f.deepWindow, "deep-window", tracecontext.DefaultDeepWindow, "search the first `BYTES` of a request with --deep")
	set.StringArrayVar(&f.headers, "context-header", nil, fmt.Sprintf("additional header with a trace context, as `NAME=FORMAT` (repeatable, at most %d); FORMAT is one of %v",
		tracecontext.MaxContextHeaders, tracecontext.SingleHeaderFormats()))
	return cmd
}

// decodeFlags are the flags as given.
type decodeFlags struct {
	ports                    []uint
	prefixWindow, deepWindow int
	deep                     bool
	headers                  []string
}

func (f *decodeFlags) options() (decode.Options, error) {
	opts := decode.Options{PrefixWindow: f.prefixWindow, Deep: f.deep, DeepWindow: f.deepWindow}
	if f.prefixWindow < 1 || f.deepWindow < 1 {
		return opts, fmt.Errorf("--prefix-window and --deep-window must be at least 1 byte")
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

// decodeFile decodes one file. Exchanges before an error are printed too.
func decodeFile(name string, opts decode.Options, stdin io.Reader, stdout, stderr io.Writer) error {
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
	decoder := decode.New(opts, func(o observe.Observation) {
		if writeErr == nil {
			writeErr = lines.Encode(o)
		}
	})
	readErr := decode.ReadFile(in, decoder.Packet)
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
