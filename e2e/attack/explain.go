// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// explainNested lets explain read a trace whose requests nest, each within the one before, as
// whoever writes to the trace store can make it.
func explainNested(ctx context.Context, t *Testbed) (measured string, pass bool, err error) {
	const (
		requests, cpuLimit, memoryLimit = 8000, 10 * time.Second, 512 << 20
		traceID                         = "4bf92f3577b34da6a3ce929d0e0e4736"
	)
	file := filepath.Join(t.dir, "trace.json")
	if err := writeNested(file, traceID, requests); err != nil {
		return "", false, err
	}
	report := filepath.Join(t.dir, "report.txt")
	p, err := sandbox.Start(sandbox.Spec{
		Name: "explain", Path: t.program, Args: []string{"explain", traceID, "--file", file},
		Namespace: t.Node, Cgroup: t.group, Stdout: report, Stderr: filepath.Join(t.dir, "explain.log"),
	})
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
	text, err := os.ReadFile(report)
	if err != nil {
		return "", false, err
	}
	limited := strings.Contains(strings.Join(strings.Fields(string(text)), " "), "too many hops to list")
	return fmt.Sprintf("%.1f s of CPU time, %d MiB, %d lines; what it leaves out is said: %t", cpu.Seconds(), peak>>20, strings.Count(string(text), "\n"), limited),
		cpu <= cpuLimit && peak <= memoryLimit && limited, nil
}

// writeNested writes a trace as OTLP JSON: n requests of one pod, each seen at two interfaces,
// and each within the one before. Times are in ns.
func writeNested(path, traceID string, n int) (err error) {
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
				"traceId": traceID, "spanId": fmt.Sprintf("%016x", point<<32|i+1), "parentSpanId": fmt.Sprintf("%016x", i+1),
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
