// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
	"github.com/layertrace/layertrace/internal/observe"
)

// seen is what the agent, in the kernel, and decode, from the packets, must
// tell alike of an exchange. Times are of different clocks, and packets merged
// by offloading are not the same at both.
type seen struct {
	traceID, spanID, client, server, connectionID string
	requestBytes, responseBytes                   uint64
	status                                        int
	headerOffset                                  uint32
}

func what(x observe.Observation) seen {
	return seen{
		x.Context.TraceID.String(), x.Context.SpanID.String(), x.Client.String(), x.Server.String(), x.ConnectionIDHex(),
		x.Request.Bytes, x.Response.Bytes, x.Status, x.Context.HeaderOffset,
	}
}

// checkDecode compares what `layertrace decode` reads from packets that were
// captured at the watched node's physical interface with what its agent
// reported there.
func checkDecode(t *testing.T, l *lab.Lab, run *lab.Run, file string) {
	t.Helper()
	names, err := l.InterfaceNames(watched)
	if err != nil {
		t.Fatal(err)
	}
	all, err := measure.NodeExchanges(run, watched)
	if err != nil {
		t.Fatal(err)
	}
	reported := map[seen]int{}
	total := 0
	for _, x := range all {
		if names[x.Interface] == lab.PNIC {
			reported[what(x)]++
			total++
		}
	}
	decoded := decode(t, file)
	if len(decoded) != total {
		t.Errorf("decode reads %d exchanges, the agent reported %d", len(decoded), total)
	}
	for _, x := range decoded {
		if reported[what(x)]--; reported[what(x)] < 0 {
			t.Fatalf("decode reads %+v, which the agent did not report", what(x))
		}
	}
}

func decode(t *testing.T, file string) (exchanges []observe.Observation) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(interrupted, theTools(t).Agent, "decode", file)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("decode: %v\n%s", err, &stderr)
	}
	for lines := json.NewDecoder(bytes.NewReader(out)); ; {
		var x observe.Observation
		if err := lines.Decode(&x); errors.Is(err, io.EOF) {
			return exchanges
		} else if err != nil {
			t.Fatal(err)
		}
		exchanges = append(exchanges, x)
	}
}
