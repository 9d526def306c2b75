// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/screen"
)

// decodeFlags are the settings of layertrace decode.
type decodeFlags struct {
	search config.Search
	all    bool
	paths  bool
	format string
}

// Formats of the output.
const (
	formatAuto  = "auto"
	formatTable = "table"
	formatJSON  = "json"
)

func newDecode() *cobra.Command {
	var f decodeFlags
	cmd := &cobra.Command{
		Use:   "decode FILE",
		Short: "Print the exchanges in a packet capture",
		Long: `Print the HTTP exchanges with a sampled trace context in a packet capture, and a
summary on stderr. On a terminal it is a table, otherwise one JSON object per line
(docs/decode.md has the fields). FILE is a pcap or pcapng file, as written by tcpdump,
or "-" for stdin; it may be compressed by gzip.`,
		Example: `  # what passes now
  tcpdump -i eth0 -U -w - tcp port 8080 | layertrace decode --format table -

  # all requests of a file
  layertrace decode --all capture.pcap.gz`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options(cmd)
			if err != nil {
				return usage(err)
			}
			out, err := f.writer(cmd.OutOrStdout())
			if err != nil {
				return usage(err)
			}
			return decodeFile(args[0], opts, cmd.InOrStdin(), out, cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "also print requests without a sampled trace context")
	flags.StringVar(&f.format, "format", formatAuto, "`FORMAT` of the output: table, json, or auto (table on a terminal)")
	flags.BoolVar(&f.paths, "request-paths", true, "print the paths of requests, without their queries")
	config.DefineSearch(flags, &f.search)
	window := flags.Lookup("prefix-window")
	window.Usage = "search only the first `BYTES` of a request's first segment for the trace context, as an agent does; without it and --deep: the whole head"
	window.DefValue = "0"
	deep := flags.Lookup("deep")
	deep.Usage = "search up to --deep-window bytes of a request, over any number of segments, as an agent does; auto: of those without a trace context in --prefix-window"
	deep.DefValue = string(probe.DeepOff)
	return cmd
}

func (f *decodeFlags) options(cmd *cobra.Command) (decode.Options, error) {
	// The agent's limits are those of its programs: here any window will do.
	if f.search.PrefixWindow < 1 || f.search.DeepWindow < 1 {
		return decode.Options{}, fmt.Errorf("--prefix-window and --deep-window must be at least 1 byte")
	}
	opts := decode.Options{
		Ports: f.search.Ports, DeepWindow: f.search.DeepWindow,
		Headers: f.search.ContextHeaders, Formats: f.search.ContextFormats, All: f.all, NoPaths: !f.paths,
	}
	if cmd.Flags().Changed("deep") {
		opts.Deep, opts.DeepAuto = f.search.Deep == probe.DeepOn, f.search.Deep == probe.DeepAuto
	}
	if cmd.Flags().Changed("prefix-window") {
		opts.PrefixWindow = f.search.PrefixWindow
	}
	return opts, f.search.ValidateHeaders()
}

// exchangeWriter writes exchanges; flush ends the output.
type exchangeWriter interface {
	write(observe.Observation) error
	flush() error
}

func (f *decodeFlags) writer(out io.Writer) (exchangeWriter, error) {
	switch {
	case f.format == formatTable, f.format == formatAuto && isTerminal(out):
		return &exchangeTable{out: bufio.NewWriter(out), width: screen.Width(out)}, nil
	case f.format == formatJSON, f.format == formatAuto:
		buffered := bufio.NewWriter(out)
		return &exchangeLines{buffered, json.NewEncoder(buffered)}, nil
	}
	return nil, fmt.Errorf("--format %q: want %s, %s or %s", f.format, formatTable, formatJSON, formatAuto)
}

// isTerminal reports whether out is a terminal.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// exchangeLines writes JSON lines.
type exchangeLines struct {
	out   *bufio.Writer
	lines *json.Encoder
}

func (l *exchangeLines) write(o observe.Observation) error { return l.lines.Encode(o) }
func (l *exchangeLines) flush() error                      { return l.out.Flush() }

// decodeFile decodes one file. Exchanges before an error are printed too.
func decodeFile(name string, opts decode.Options, stdin io.Reader, out exchangeWriter, stderr io.Writer) error {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("open the capture: %w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	var writeErr error
	decoder := decode.New(opts, func(o observe.Observation) {
		if writeErr == nil {
			writeErr = out.write(o)
		}
	})
	readErr := decode.ReadFile(in, decoder.Packet)
	decoder.Flush()
	if err := out.flush(); writeErr == nil {
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

// oneFile wants a single argument.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s needs one capture FILE (\"-\": stdin), got %d; see %s --help", cmd.CommandPath(), len(args), cmd.CommandPath())
	}
	return nil
}
