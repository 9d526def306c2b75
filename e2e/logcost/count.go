// SPDX-License-Identifier: Apache-2.0

package logcost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/e2e/reorder"
)

// countRequests is the number of requests whose instructions are counted.
const countRequests = 400

// Instructions are the instructions of a variant's requests under a load: of the worker
// thread, in user space, for a request.
type Instructions struct {
	Variant string  `json:"variant"`
	Sampled float64 `json:"sampled_percent"`
	Client  int     `json:"client"`
	Server  int     `json:"server"`
}

// Count runs the proxies in Valgrind and counts the instructions of their requests. Other
// load on the machine does not change them, so that they show what time cannot.
func Count(ctx context.Context, o Options) (rows []Instructions, err error) {
	compared, err := comparisons()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Dir, "count")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create a directory for the proxies: %w", err)
	}
	o.Progress("starting the proxies in Valgrind")
	under := func(dir string) []string {
		return []string{
			"valgrind", "--tool=callgrind", "--separate-threads=yes",
			"--callgrind-out-file=" + filepath.Join(dir, "callgrind"), "--log-file=" + filepath.Join(dir, "valgrind.log"),
		}
	}
	// One request at a time: then wake-ups do not depend on other load.
	b, err := startTestbed(ctx, testbedOptions{Envoy: o.Envoy, Dir: dir, Variants: union(compared), InFlight: 1, Under: under})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	for _, v := range union(compared) {
		if err := b.send(ctx, v, 100, 20); err != nil { // opens the connections
			return nil, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	for _, c := range compared {
		for _, v := range c.variants {
			o.Progress("counting %s, %g %% sampled", v.Name, c.load.Sampled())
			client, server, err := b.count(ctx, v, c.load.Every, dir)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.Name, err)
			}
			rows = append(rows, Instructions{v.Name, c.load.Sampled(), client, server})
		}
	}
	return rows, nil
}

// count returns the instructions of a request in each proxy.
func (b *testbed) count(ctx context.Context, v Variant, every int, dir string) (client, server int, err error) {
	clientDir, serverDir := filepath.Join(dir, "client"), filepath.Join(dir, "server")
	for _, counted := range []bool{false, true} { // the first sets the counts to 0
		if counted {
			if err := b.send(ctx, v, countRequests, every); err != nil {
				return 0, 0, err
			}
		}
		var errs [2]error
		client, errs[0] = dump(ctx, b.client, clientDir)
		server, errs[1] = dump(ctx, b.server, serverDir)
		if err := errors.Join(errs[:]...); err != nil {
			return 0, 0, err
		}
	}
	return client / countRequests, server / countRequests, nil
}

// dump makes Callgrind write what it counted since the last time, and returns the number
// of instructions.
func dump(ctx context.Context, p *reorder.Envoy, dir string) (total int, err error) {
	cmd := exec.CommandContext(ctx, "callgrind_control", "--dump", strconv.Itoa(p.PID()))
	if text, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("read the counts of Valgrind: %w\n%s", err, text)
	}
	// A file for each thread. Envoy's worker is the one with most work.
	files, err := filepath.Glob(filepath.Join(dir, "callgrind.*"))
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		n, err := readTotal(file)
		if err != nil {
			return 0, err
		}
		total = max(total, n)
		if err := os.Remove(file); err != nil {
			return 0, err
		}
	}
	if total == 0 {
		return 0, fmt.Errorf("read the counts of Valgrind: none in %d files of %s", len(files), dir)
	}
	return total, nil
}

// readTotal returns the number of instructions in a file.
func readTotal(path string) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if total, found := strings.CutPrefix(lines.Text(), "totals: "); found {
			return strconv.Atoi(total)
		}
	}
	return 0, errors.Join(lines.Err(), fmt.Errorf("read the counts of Valgrind: no totals in %s", path))
}
