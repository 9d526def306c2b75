// SPDX-License-Identifier: Apache-2.0

package truth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/internal/observe"
)

// location is an interface of a node, by names.
type location struct{ node, nic string }

// readExchanges reads what all agents of a run reported.
func readExchanges(l *lab.Lab, run *lab.Run) (map[location][]observe.Observation, error) {
	all := map[location][]observe.Observation{}
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		names, err := l.InterfaceNames(node)
		if err != nil {
			return nil, err
		}
		exchanges, err := NodeExchanges(run, node)
		if err != nil {
			return nil, err
		}
		for _, x := range exchanges {
			at := location{lab.NodeName(node), names[x.Interface]}
			all[at] = append(all[at], x)
		}
	}
	return all, nil
}

// NodeExchanges reads what the agent of one node reported.
func NodeExchanges(run *lab.Run, node int) ([]observe.Observation, error) {
	files := run.Exchanges(node)
	if len(files) == 0 {
		return nil, fmt.Errorf("no agent ran on %s", lab.NodeName(node))
	}
	var all []observe.Observation
	for _, file := range files {
		ofFile, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("read exchanges of %s: %w", lab.NodeName(node), err)
		}
		all = append(all, ofFile...)
	}
	return all, nil
}

func readFile(file lab.AgentFile) ([]observe.Observation, error) {
	f, err := os.Open(file.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var exchanges []observe.Observation
	for lines := json.NewDecoder(f); ; {
		var x observe.Observation
		err := lines.Decode(&x)
		if errors.Is(err, io.EOF) || file.Killed && errors.Is(err, io.ErrUnexpectedEOF) {
			return exchanges, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file.Path, len(exchanges)+1, err)
		}
		exchanges = append(exchanges, x)
	}
}
