// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// explained is the trace that explain is asked for.
const explained = "4bf92f3577b34da6a3ce929d0e0e4736"

// explain starts explain. Its report goes to report.txt, errors to explain.log.
func (t *Testbed) explain(args ...string) (*sandbox.Process, error) {
	return sandbox.Start(sandbox.Spec{
		Name: "explain", Path: t.program, Args: append([]string{"explain", explained}, args...), Namespace: t.Node, Cgroup: t.group,
		Stdout: filepath.Join(t.dir, "report.txt"), Stderr: filepath.Join(t.dir, "explain.log"),
	})
}

// explainNested lets explain read a trace whose requests nest, each within the one before, as
// whoever writes to the trace store can make it.
func explainNested(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const requests, cpuLimit, memoryLimit = 8000, 10 * time.Second, 512 << 20
	file := filepath.Join(t.dir, "trace.json")
	if err := writeNested(file, requests); err != nil {
		return "", false, err
	}
	p, err := t.explain("--file", file)
	if err != nil {
		return "", false, err
	}
	if err := p.Wait(ctx); err != nil {
		return "", false, err
	}
	cpu, peak, err := p.Used()
	if err != nil {
		return "", false, err
	}
	text, err := os.ReadFile(filepath.Join(t.dir, "report.txt"))
	if err != nil {
		return "", false, err
	}
	limited := strings.Contains(strings.Join(strings.Fields(string(text)), " "), "too many hops to list")
	return fmt.Sprintf("%.1f s of CPU time, %d MiB, %d lines; what it leaves out is said: %t", cpu.Seconds(), peak>>20, strings.Count(string(text), "\n"), limited),
		cpu <= cpuLimit && peak <= memoryLimit && limited, nil
}

// terminal lets explain ask a store that responds with control characters.
func terminal(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const address = "127.0.0.1:16686"
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"errors":[{"code":400,"msg":"\u001b]0;owned\u0007\u001b[2J\u009b31m\u202eHACK"}]}`)
	})
	if err := t.serve(t.Node, address, handler); err != nil {
		return "", false, err
	}
	p, err := t.explain("--jaeger", "http://"+address)
	if err != nil {
		return "", false, err
	}
	ended := p.Wait(ctx)
	text, err := os.ReadFile(filepath.Join(t.dir, "explain.log"))
	if err != nil || ended == nil {
		return "", false, errors.Join(err, errors.New("explain did not fail"))
	}
	n := strings.Count(string(text), "\x1b") + strings.Count(string(text), "\a") + strings.Count(string(text), "\u009b") + strings.Count(string(text), "\u202e")
	return fmt.Sprintf("%d control characters in %d bytes", n, len(text)), n == 0 && strings.Contains(string(text), "HACK"), nil
}

// endlessStore lets explain ask a trace store that responds without end.
func endlessStore(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		address                 = "127.0.0.1:16686"
		most, slack             = 256 << 20, 16 << 20
		cpuLimit, memoryLimit   = 30 * time.Second, 1 << 30
		responseSize, chunkSize = 1 << 30, 64 << 10
	)
	var sent atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, err := io.WriteString(w, `{"data":["`)
		for chunk := strings.Repeat("a", chunkSize); err == nil && sent.Load() < responseSize; { // until explain has enough
			var n int
			n, err = io.WriteString(w, chunk)
			sent.Add(int64(n))
		}
	})
	if err := t.serve(t.Node, address, handler); err != nil {
		return "", false, err
	}
	p, err := t.explain("--jaeger", "http://"+address)
	if err != nil {
		return "", false, err
	}
	failed := p.Wait(ctx) != nil
	cpu, peak, err := p.Used()
	if err != nil {
		return "", false, err
	}
	said := strings.Contains(p.Tail(), "more than 256 MiB")
	return fmt.Sprintf("it read %d MiB with %.1f s of CPU time and %d MiB; the error says so: %t", sent.Load()>>20, cpu.Seconds(), peak>>20, said),
		failed && said && sent.Load() <= most+slack && cpu <= cpuLimit && peak <= memoryLimit, nil
}

// writeNested writes a trace as OTLP JSON: n requests of one pod, each seen at two interfaces,
// and each within the one before. Times are in ns.
func writeNested(path string, n int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	type object = map[string]any
	attributes := func(values object) (list []object) {
		for key, value := range values {
			switch v := value.(type) {
			case int:
				list = append(list, object{"key": key, "value": object{"intValue": strconv.Itoa(v)}})
			default:
				list = append(list, object{"key": key, "value": object{"stringValue": v}})
			}
		}
		return list
	}
	const wall = 1_700_000_000_000_000_000
	var resources []object
	for point := 1; point <= 2; point++ {
		name, direction := "veth"+strconv.Itoa(point), "ingress"
		if point == 2 {
			direction = "egress"
		}
		var spans []object
		for i := range n {
			// The second point is later by 100 for the request, and earlier for the response.
			shift := 100 * (point - 1)
			begin, end := 1_000_000_000+1000*i+shift, 1_000_000_000+(2*n-i)*2000-shift
			spans = append(spans, object{
				"traceId": explained, "spanId": fmt.Sprintf("%016x", point<<32|i+1), "parentSpanId": fmt.Sprintf("%016x", i+1),
				"name": "app_" + name, "kind": 1,
				"startTimeUnixNano": strconv.Itoa(wall + begin), "endTimeUnixNano": strconv.Itoa(wall + end),
				"attributes": attributes(object{
					"client.address": PodAddress(1), "client.port": 1024 + i%60000, "server.address": PodAddress(2), "server.port": 80,
					"layertrace.direction": direction, "layertrace.context.format": "w3c", "layertrace.monotonic_ns": begin,
					"layertrace.response.first_ns": end - begin, "layertrace.request.bytes": 100, "layertrace.response.bytes": 100,
					"http.response.status_code": 200,
				}),
			})
		}
		resources = append(resources, object{
			"resource": object{"attributes": attributes(object{
				"host.name": "attacked", "layertrace.capture_point.kind": "vnic", "layertrace.capture_point": "attacked/" + strconv.Itoa(point),
				"network.interface.name": name, "service.name": "app", "service.namespace": "default", "k8s.namespace.name": "default", "k8s.pod.name": "app-1",
			})},
			"scopeSpans": []object{{"scope": object{"name": "github.com/layertrace/layertrace"}, "spans": spans}},
		})
	}
	out := bufio.NewWriter(f)
	return errors.Join(json.NewEncoder(out).Encode(object{"resourceSpans": resources}), out.Flush())
}
