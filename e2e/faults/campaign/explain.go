// SPDX-License-Identifier: Apache-2.0

package campaign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/lab"
)

// Explainer tells what layertrace says of groups of traces, in their order.
type Explainer interface {
	Explain(ctx context.Context, groups [][]string) ([]faults.Verdict, error)
}

// Command is the Explainer that runs `layertrace explain`.
type Command struct{ Lab *lab.Lab }

// Explain runs it once for all groups.
func (c Command) Explain(ctx context.Context, groups [][]string) ([]faults.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	args := []string{"explain", "--json", "--baseline", strconv.Itoa(typical), "--jaeger", lab.JaegerURL()}
	for _, ids := range groups {
		args = append(args, strings.Join(ids, ",")+",") // one trace is a group, too
	}
	out, err := c.Lab.Layertrace(ctx, args...)
	if err != nil {
		return nil, err
	}
	return parse(out)
}

// parse reads one JSON report per group.
func parse(out []byte) (verdicts []faults.Verdict, err error) {
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var r report
		err := decoder.Decode(&r)
		if errors.Is(err, io.EOF) {
			return verdicts, nil
		}
		if err == nil && (len(r.TraceIDs) == 0 || r.Verdict.Layer == "") {
			err = errors.New("a report without trace_ids or verdict.layer")
		}
		if err != nil {
			return nil, fmt.Errorf("read the answer of layertrace explain --json, report %d: %w", len(verdicts)+1, err)
		}
		verdicts = append(verdicts, r.verdict())
	}
}

// report is what is needed of a report.
type report struct {
	TraceIDs     []string `json:"trace_ids"`
	Total        int64    `json:"slow_total_ns"`
	Unattributed int64    `json:"unattributed_ns"`
	Verdict      struct {
		Layer      faults.Layer   `json:"layer"`
		Place      string         `json:"location"`
		Queue      string         `json:"queue"`
		Excess     int64          `json:"excess_ns"`
		Covers     []faults.Layer `json:"merged_layers"`
		Confidence string         `json:"confidence"`
	} `json:"verdict"`
}

func (r report) verdict() faults.Verdict {
	return faults.Verdict{
		Layer: r.Verdict.Layer, Place: r.Verdict.Place, Queue: r.Verdict.Queue, Covers: r.Verdict.Covers, Confidence: r.Verdict.Confidence,
		Excess: time.Duration(r.Verdict.Excess), Unattributed: time.Duration(r.Unattributed), Total: time.Duration(r.Total),
	}
}
