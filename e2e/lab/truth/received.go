// SPDX-License-Identifier: Apache-2.0

package truth

import (
	"fmt"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/lab/envoy"
	"github.com/layertrace/layertrace/e2e/lab/requestlog"
)

// CheckReceived compares the hops, which come from the sending Envoys, with
// what the applications of a stopped run logged: each request that was sent to
// a pod was received there once. With Zipkin, whose two ends share a span ID,
// trace and span ID are compared; with OpenTelemetry the receiving Envoy gives
// the application a span ID of its own, and trace IDs are.
func CheckReceived(run *lab.Run, tracer envoy.Tracer, hops []Hop) error {
	sent := map[string]map[Key]int{}
	for _, pod := range lab.Pods {
		sent[pod.Name] = map[Key]int{}
	}
	for _, hop := range hops {
		key := hop.Key
		if tracer != envoy.Zipkin {
			key.SpanID = ""
		}
		sent[hop.To.Name][key]++
	}
	for _, pod := range lab.Pods {
		if pod.Gateway {
			continue
		}
		requests, err := requestlog.Read(run.RequestLog(pod.Name))
		if err != nil {
			return err
		}
		left := sent[pod.Name]
		for _, request := range requests {
			key := Key{request.TraceID, request.SpanID}
			if tracer != envoy.Zipkin {
				key.SpanID = ""
			}
			if left[key]--; left[key] < 0 {
				return fmt.Errorf("%s logged a request of trace %s, span %s that no Envoy sent", pod.Name, request.TraceID, request.SpanID)
			}
			if left[key] == 0 {
				delete(left, key)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d requests that were sent to %s are not in its log", len(left), pod.Name)
		}
	}
	return nil
}
