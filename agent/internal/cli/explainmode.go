// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/tracestore"
)

// check refuses what does not go together, and values that are none.
func (f *explainFlags) check(set *pflag.FlagSet, args []string) error {
	comparing := f.service != ""
	switch {
	case !comparing && set.Changed("service"):
		return errors.New("--service is empty: name a service that Jaeger lists")
	case comparing && len(args) > 0:
		return errors.New("give either trace IDs or --service")
	case !comparing && len(args) == 0:
		return errors.New("give the ID of a trace, or --service to compare slow traces with typical ones; see layertrace explain --help")
	case set.Changed("file") && f.file == "":
		return errors.New("--file is empty: name a file")
	case set.Changed("file") && set.Changed("jaeger"):
		return errors.New("give either --jaeger or --file")
	case set.Changed("file") && set.Changed("last"):
		return errors.New("a file is read as a whole: leave --last out with --file")
	case f.json && f.html == "-":
		return errors.New("give either --json or --html=-: both go to standard output")
	case f.typical < 0:
		return errors.New("--typical is below 0: choose how many traces to compare with")
	case f.typicalLast <= 0:
		return errors.New("--typical-last is not above 0: choose a time such as 15m, or --typical=0 to compare with nothing")
	case f.last <= 0:
		return errors.New("--last is not above 0: choose a time such as 15m")
	case !(f.slowQuantile > 0 && f.slowQuantile < 1):
		return errors.New("--slow-quantile is not between 0 and 1: 0.95 takes the slowest 5 % of the traces")
	case f.limit <= 0:
		return errors.New("--limit is not above 0: choose how many traces to read")
	}
	names, other := []string{"operation", "last", "slow-quantile", "limit"}, "goes with --service"
	if comparing {
		names, other = []string{"typical", "typical-last"}, "goes with trace IDs, not with --service"
	}
	for _, name := range names {
		if set.Changed(name) {
			return fmt.Errorf("--%s %s", name, other)
		}
	}
	return nil
}

// source is where the traces are. A flag goes before the environment.
func (f *explainFlags) source(cmd *cobra.Command) (tracestore.Store, error) {
	switch f.file {
	case "":
	case "-":
		return tracestore.NewReader("standard input", cmd.InOrStdin()), nil
	default:
		return tracestore.NewFile(f.file), nil
	}
	url := f.jaeger
	if from := os.Getenv(jaegerVariable); from != "" && !cmd.Flags().Changed("jaeger") {
		url = from
	}
	return tracestore.NewJaeger(url, &http.Client{})
}
