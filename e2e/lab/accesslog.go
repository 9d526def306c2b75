// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// The logs that Envoys write for the agent. The name is the body of each record.
const (
	// logClient has the requests that an Envoy sent, one record each, and logAttempt each of
	// their attempts. logServer has the requests that it received.
	logClient  = "layertrace-client"
	logAttempt = "layertrace-attempt"
	logServer  = "layertrace-server"
)

// contextHeaders are the headers of trace contexts, of which records have the values.
var contextHeaders = []string{"traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}

// recordAttributes are the attributes of a log's records, which are those that
// layertrace install configures in a mesh.
func recordAttributes(log string) map[string]string {
	attributes := map[string]string{
		"request_id": "%REQ(X-REQUEST-ID)%",
		"code":       "%RESPONSE_CODE%",
		"flags":      "%RESPONSE_FLAGS%",
		"method":     "%REQ(:METHOD)%",
		"path":       "%REQ_WITHOUT_QUERY(:PATH)%",
	}
	for _, name := range contextHeaders {
		attributes[name] = "%REQ(" + strings.ToUpper(name) + ")%"
		if log == logServer {
			attributes["incoming-"+name] = "%FILTER_STATE(layertrace." + name + ":PLAIN)%"
		}
	}
	further := map[string]string{
		// The ends of the connection, from the client's to the server's.
		"local": "%UPSTREAM_LOCAL_ADDRESS%", "remote": "%UPSTREAM_REMOTE_ADDRESS%",
		"tx_beg":   "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ns)%",
		"rx_beg":   "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:ns)%",
		"rx_end":   "%COMMON_DURATION(DS_RX_BEG:US_RX_END:ns)%",
		"sent":     "%UPSTREAM_WIRE_BYTES_SENT%",
		"received": "%UPSTREAM_WIRE_BYTES_RECEIVED%",
		"attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"protocol": "%UPSTREAM_PROTOCOL%",
	}
	if log == logServer {
		further = map[string]string{
			"remote": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
			"trace_id": "%TRACE_ID%",
			"tx_end":   "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)%",
			"received": "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
			"sent":     "%DOWNSTREAM_WIRE_BYTES_SENT%",
			"protocol": "%PROTOCOL%",
		}
	}
	for name, value := range further {
		attributes[name] = value
	}
	return attributes
}

// sampledOnly is the expression (CEL) for requests that are sampled, as layertrace install
// configures it.
func sampledOnly(t Tracer) string {
	if t == Zipkin {
		return `('x-b3-sampled' in request.headers) && request.headers['x-b3-sampled'] == '1'`
	}
	return `('traceparent' in request.headers) && request.headers['traceparent'].matches('-0[13579bdf]$')`
}

// object is an object of JSON.
type object = map[string]any

const (
	extensions = "type.googleapis.com/envoy.extensions."
	celFilter  = "envoy.access_loggers.extension_filters.cel"
	otelLogger = "envoy.access_loggers.open_telemetry"
)

// accessLogger returns the configuration of an Envoy's access log, in JSON, which is YAML
// as well.
func accessLogger(log string, t Tracer) (string, error) {
	var values []object
	for name, value := range recordAttributes(log) {
		values = append(values, object{"key": name, "value": object{"string_value": value}})
	}
	data, err := json.Marshal(object{
		"name": otelLogger,
		"filter": object{"extension_filter": object{"name": celFilter, "typed_config": object{
			"@type":      extensions + "access_loggers.filters.cel.v3.ExpressionFilter",
			"expression": sampledOnly(t),
		}}},
		"typed_config": object{
			"@type": extensions + "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
			"common_config": object{
				"log_name": log, "transport_api_version": "V3",
				"grpc_service": object{"envoy_grpc": object{"cluster_name": "accesslog"}},
			},
			"disable_builtin_labels": true,
			"formatters": []object{{"name": "envoy.formatter.req_without_query", "typed_config": object{
				"@type": extensions + "formatter.req_without_query.v3.ReqWithoutQuery",
			}}},
			"body":       object{"string_value": log},
			"attributes": object{"values": values},
		},
	})
	if err != nil {
		return "", fmt.Errorf("write the access log's configuration: %w", err)
	}
	return string(data), nil
}

// keepIncoming returns the filter that keeps the trace context of a request as it came: the
// router overwrites it.
func keepIncoming() (string, error) {
	var values []object
	for _, name := range contextHeaders {
		values = append(values, object{
			"object_key": "layertrace." + name, "factory_key": "envoy.string", "skip_if_empty": true,
			"format_string": object{
				"omit_empty_values": true, "text_format_source": object{"inline_string": "%REQ(" + strings.ToUpper(name) + ")%"},
			},
		})
	}
	data, err := json.Marshal(object{
		"name": "envoy.filters.http.set_filter_state",
		"typed_config": object{
			"@type":              extensions + "filters.http.set_filter_state.v3.Config",
			"on_request_headers": values,
		},
	})
	if err != nil {
		return "", fmt.Errorf("write the configuration of set_filter_state: %w", err)
	}
	return string(data), nil
}

// Records are numbers of records of access logs.
type Records struct {
	// Written are those that all Envoys have written since they started.
	Written int
	// Accepted and Refused are those that came to agents, the latter by reason.
	Accepted int
	Refused  map[string]int
	// Outcomes are those that agents have decided on, by side, state and reason.
	Outcomes map[string]int
}

// Decided is the number of records that agents have decided on.
func (r *Records) Decided() (n int) { return total(r.Outcomes) }

// Arrived is the number of records that came to agents.
func (r *Records) Arrived() int { return r.Accepted + total(r.Refused) }

// Missing lists the records without an exchange, by side, state and reason; empty if there
// are none.
func (r *Records) Missing() string {
	var missing []string
	for outcome, n := range r.Outcomes {
		if state := strings.Fields(outcome)[1]; state == "ambiguous" || state == "unmatched" {
			missing = append(missing, fmt.Sprintf("%d %s", n, outcome))
		}
	}
	for reason, n := range r.Refused {
		missing = append(missing, fmt.Sprintf("%d refused %s", n, reason))
	}
	slices.Sort(missing)
	return strings.Join(missing, ", ")
}

func total(counts map[string]int) (n int) {
	for _, one := range counts {
		n += one
	}
	return n
}

// Records reads what Envoys and agents have counted.
func (l *Lab) Records(ctx context.Context) (r Records, err error) {
	r.Refused, r.Outcomes = map[string]int{}, map[string]int{}
	for _, pod := range Pods {
		const url = "http://" + EnvoyAdminAddress + "/stats?format=json&filter=open_telemetry_access_log"
		data, err := l.network.pods[pod.Name].Get(ctx, url)
		if err != nil {
			return r, err
		}
		stats, err := parseStats(data)
		if err != nil {
			return r, err
		}
		for name, value := range stats {
			if strings.HasSuffix(name, ".logs_written") {
				r.Written += int(value)
			}
		}
	}
	for _, node := range Nodes {
		if node == ClientNode {
			continue
		}
		metrics, err := l.AgentMetrics(ctx, node)
		if err != nil {
			return r, err
		}
		for name, value := range metrics {
			r.add(name, int(value))
		}
	}
	return r, nil
}

func (r *Records) add(name string, n int) {
	base, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
	label := func(name string) string {
		_, rest, _ := strings.Cut(","+labels, ","+name+`="`)
		value, _, _ := strings.Cut(rest, `"`)
		return value
	}
	switch {
	case n == 0:
	case base == "layertrace_access_log_records_total":
		r.Accepted += n
	case base == "layertrace_access_log_records_refused_total":
		r.Refused[label("reason")] += n
	case base == "layertrace_encrypted_records_total":
		r.Outcomes[strings.TrimSpace(label("side")+" "+label("state")+" "+label("reason"))] += n
	}
}

// flushInterval is a little more than the time after which Envoys send the records that
// they have; only then they count them as written.
const flushInterval = 1200 * time.Millisecond

// DrainRecords waits until agents have decided on the records of all Envoys, when no more
// requests come. arrive returns how many of the written ones have to arrive; nil: all.
func (l *Lab) DrainRecords(ctx context.Context, arrive func(written int) int) (r Records, err error) {
	written, since := 0, time.Now()
	err = sandbox.Await(ctx, "the agents to join all records", 30*time.Second, 200*time.Millisecond, func(ctx context.Context) (err error) {
		if r, err = l.Records(ctx); err != nil {
			return err
		}
		if r.Written > written {
			written, since = r.Written, time.Now()
		}
		want := r.Written
		if arrive != nil {
			want = arrive(want)
		}
		if time.Since(since) < flushInterval || r.Arrived() < want || r.Decided() < r.Accepted {
			return fmt.Errorf("%d of %d records arrived, %d were accepted, and %d decided on", r.Arrived(), want, r.Accepted, r.Decided())
		}
		return nil
	})
	return r, err
}

// AwaitRecords waits until agents have decided on as many records as Envoys have written of
// the requests until now, while more come.
func (l *Lab) AwaitRecords(ctx context.Context) error {
	written, start := -1, time.Now()
	return sandbox.Await(ctx, "the agents to join the records", 30*time.Second, 200*time.Millisecond, func(ctx context.Context) error {
		r, err := l.Records(ctx)
		if err != nil {
			return err
		}
		if written < 0 && time.Since(start) > flushInterval {
			written = r.Written
		}
		if done := r.Decided() + total(r.Refused); written < 0 || done < written {
			return fmt.Errorf("%d of %d", done, written)
		}
		return nil
	})
}
