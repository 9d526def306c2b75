// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/decode"
	"github.com/layertrace/layertrace/internal/observe"
)

func newDecode() *cobra.Command {
	var search config.Search
	cmd := &cobra.Command{
		Use:   "decode FILE",
		Short: "Print the exchanges in a packet capture",
		Long: `Print the HTTP exchanges with a trace context in a packet capture, one JSON
object per line, and a summary on stderr. FILE is a pcap or pcapng file, as
written by tcpdump, or "-" for stdin.`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := decodeOptions(&search)
			if err != nil {
				return err
			}
			return decodeFile(args[0], opts, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	config.DefineSearch(cmd.Flags(), &search)
	return cmd
}

func decodeOptions(search *config.Search) (decode.Options, error) {
	// The agent's limits are those of its programs: here any window will do.
	if search.PrefixWindow < 1 || search.DeepWindow < 1 {
		return decode.Options{}, fmt.Errorf("--prefix-window and --deep-window must be at least 1 byte")
	}
	return decode.Options{
		Ports: search.Ports, PrefixWindow: search.PrefixWindow, Deep: search.Deep,
		DeepWindow: search.DeepWindow, Headers: search.ContextHeaders, Formats: search.ContextFormats,
	}, search.ValidateHeaders()
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

// oneFile wants a single argument.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s needs one capture FILE (\"-\": stdin), got %d; see %s --help", cmd.CommandPath(), len(args), cmd.CommandPath())
	}
	return nil
}
