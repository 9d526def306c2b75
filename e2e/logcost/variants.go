// SPDX-License-Identifier: Apache-2.0

package logcost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/istio"
)

// Variant is what the proxies have for the agents, in the notation of Envoy's
// configuration.
type Variant struct {
	Name string
	// Client is the proxy that sends requests to the other one, Server.
	Client, Server Side
	// Records is how many records a sampled request has, at both sides together.
	Records int
	// Counted is set if only its instructions are compared: what it adds is too little to
	// show in time.
	Counted bool
}

// Side is what one proxy has.
type Side struct {
	// Filters are HTTP filters before the router, Logs access logs of the connection
	// manager, AttemptLogs those of the router.
	Filters, Logs, AttemptLogs []object
}

type object = map[string]any

// Variants that have a meaning of their own.
const (
	// None has nothing for the agents. NoneAgain is the same: its distance from None is
	// the error of the measurement.
	None      = "none"
	NoneAgain = "none-again"
	// EnvoyFilter and Telemetry are the two forms that layertrace install configures.
	EnvoyFilter = "envoyfilter"
	Telemetry   = "telemetry"
)

// variants returns the installed forms, and those that explain what they cost.
func variants() ([]Variant, error) {
	filter, err := envoyFilter()
	if err != nil {
		return nil, err
	}
	api, err := telemetry()
	if err != nil {
		return nil, err
	}
	never := object{"response_flag_filter": object{"flags": []string{"DPE"}}}
	expression := func(text string) Side { return Side{Logs: withFilter(filter.Server.Logs, celFilter(text))} }
	return []Variant{
		{Name: None},
		{Name: NoneAgain},
		filter,
		api,
		// Logs whose filter is as cheap as can be: of the router and the connection manager.
		{
			Name:   "never",
			Client: Side{AttemptLogs: withFilter(filter.Client.AttemptLogs, never)},
			Server: Side{Logs: withFilter(filter.Server.Logs, never)},
		},
		{Name: "never-request", Counted: true, Client: Side{Logs: withFilter(filter.Client.AttemptLogs, never)}},
		// What keeps the incoming context, another filter that could, and one without work.
		{Name: "incoming", Server: Side{Filters: filter.Server.Filters}},
		{Name: "incoming-metadata", Server: Side{Filters: headerToMetadata("traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled")}},
		{Name: "empty-filter", Counted: true, Server: Side{Filters: headerToMetadata()}},
		// Expressions: a constant, and one look at the headers.
		{Name: "cel-false", Counted: true, Server: expression("false")},
		{Name: "cel-one", Counted: true, Server: expression("'none' in request.headers")},
	}, nil
}

// headerToMetadata returns a filter that keeps headers as metadata.
func headerToMetadata(headers ...string) []object {
	rules := []object{}
	for _, name := range headers {
		rules = append(rules, object{"header": name, "on_header_present": object{
			"metadata_namespace": "layertrace", "key": name, "type": "STRING",
		}})
	}
	return []object{{
		"name":         "envoy.filters.http.header_to_metadata",
		"typed_config": object{"@type": extensions + "filters.http.header_to_metadata.v3.Config", "request_rules": rules},
	}}
}

// withFilter returns logs with another filter.
func withFilter(logs []object, filter object) (changed []object) {
	for _, log := range logs {
		log = maps.Clone(log)
		log["filter"] = filter
		changed = append(changed, log)
	}
	return changed
}

// withoutFields returns a variant whose records have no attributes.
func withoutFields(v Variant, name string) Variant {
	bare := func(logs []object) (changed []object) {
		for _, log := range logs {
			log, config := maps.Clone(log), maps.Clone(log["typed_config"].(object))
			delete(config, "attributes")
			log["typed_config"] = config
			changed = append(changed, log)
		}
		return changed
	}
	v.Name = name
	v.Client.Logs, v.Client.AttemptLogs, v.Server.Logs = bare(v.Client.Logs), bare(v.Client.AttemptLogs), bare(v.Server.Logs)
	return v
}

// envoyFilter returns what the EnvoyFilter of the manifests adds to two sidecars.
func envoyFilter() (v Variant, err error) {
	var manifest struct {
		Spec struct {
			ConfigPatches []struct {
				Match struct{ Context string }
				Patch struct{ Value object }
			}
		}
	}
	if err := read("mtls/envoyfilter/envoyfilter.yaml", &manifest); err != nil {
		return v, err
	}
	v = Variant{Name: EnvoyFilter, Records: 2}
	for _, p := range manifest.Spec.ConfigPatches {
		config, _ := p.Patch.Value["typed_config"].(object)
		side := &v.Server
		switch p.Match.Context {
		case "SIDECAR_OUTBOUND":
			side = &v.Client
		case "GATEWAY":
			continue // as SIDECAR_OUTBOUND
		}
		switch p.Patch.Value["name"] {
		case "layertrace.incoming":
			side.Filters = append(side.Filters, p.Patch.Value)
		case "envoy.filters.network.http_connection_manager":
			side.Logs = append(side.Logs, logsOf(config["access_log"])...)
		case "envoy.filters.http.router":
			side.AttemptLogs = append(side.AttemptLogs, logsOf(config["upstream_log"])...)
		default:
			return v, fmt.Errorf("read the EnvoyFilter: unknown patch of %v", p.Patch.Value["name"])
		}
	}
	if len(v.Server.Filters) != 1 || len(v.Server.Logs) != 1 || len(v.Client.AttemptLogs) != 1 {
		return v, errors.New("read the EnvoyFilter: it has other parts than a filter and a log at the server and a log at the client")
	}
	return v, nil
}

// logsOf returns the access loggers of a list, which send to the cluster of the testbed.
func logsOf(list any) (logs []object) {
	items, _ := list.([]any)
	for _, item := range items {
		log := item.(object)
		common := log["typed_config"].(object)["common_config"].(object)
		common["grpc_service"] = object{"envoy_grpc": object{"cluster_name": sinkCluster}}
		logs = append(logs, log)
	}
	return logs
}

// telemetry returns what istiod makes of the Telemetry resource and the providers of the
// manifests (pilot/pkg/model/telemetry_logging.go of Istio 1.31).
func telemetry() (v Variant, err error) {
	var mesh struct {
		Spec struct {
			MeshConfig struct {
				ExtensionProviders []struct {
					Name         string
					EnvoyOtelAls struct {
						LogName   string
						LogFormat struct {
							Text   string
							Labels map[string]string
						}
					}
				}
			}
		}
	}
	var patches []struct {
		Value []struct {
			Match     struct{ Mode string }
			Providers []struct{ Name string }
			Filter    struct{ Expression string }
		}
	}
	if err := errors.Join(read("mesh/mtls.yaml", &mesh), read("mtls/telemetry/telemetry.yaml", &patches)); err != nil {
		return v, err
	}
	v = Variant{Name: Telemetry, Records: 2}
	for _, patch := range patches {
		for _, rule := range patch.Value {
			for _, p := range mesh.Spec.MeshConfig.ExtensionProviders {
				if p.Name != rule.Providers[0].Name {
					continue
				}
				als := p.EnvoyOtelAls
				log := logger(als.LogName, als.LogFormat.Text, als.LogFormat.Labels)
				log["filter"] = celFilter(rule.Filter.Expression)
				if rule.Match.Mode == "CLIENT" {
					v.Client.Logs = append(v.Client.Logs, log)
				} else {
					v.Server.Logs = append(v.Server.Logs, log)
				}
			}
		}
	}
	if len(v.Server.Logs) != 1 || len(v.Client.Logs) != 1 {
		return v, errors.New("read the Telemetry resource: it has not one log at each side")
	}
	return v, nil
}

// logger returns an OpenTelemetry access logger.
func logger(name, body string, labels map[string]string) object {
	var values []object
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		values = append(values, object{"key": key, "value": object{"string_value": labels[key]}})
	}
	return object{
		"name": "envoy.access_loggers.open_telemetry",
		"typed_config": object{
			"@type": extensions + "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
			"common_config": object{
				"log_name": name, "transport_api_version": "V3",
				"grpc_service": object{"envoy_grpc": object{"cluster_name": sinkCluster}},
			},
			"disable_builtin_labels": true,
			"formatters": []object{{"name": "envoy.formatter.req_without_query", "typed_config": object{
				"@type": extensions + "formatter.req_without_query.v3.ReqWithoutQuery",
			}}},
			"body":       object{"string_value": body},
			"attributes": object{"values": values},
		},
	}
}

// celFilter returns the filter of an access log for an expression.
func celFilter(expression string) object {
	return object{"extension_filter": object{
		"name": "envoy.access_loggers.extension_filters.cel",
		"typed_config": object{
			"@type": extensions + "access_loggers.filters.cel.v3.ExpressionFilter", "expression": expression,
		},
	}}
}

func read(file string, into any) error {
	data, err := fs.ReadFile(istio.Files, file)
	if err == nil {
		data, err = yaml.YAMLToJSON(data)
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("read istio/%s: %w", file, err)
	}
	return nil
}
