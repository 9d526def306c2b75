// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// header is one line that a client is told to send.
type header struct{ name, value string }

// The IDs that the clients send; the tests know them too.
const (
	trace128 = "4bf92f3577b34da6a3ce929d0e0e4736"
	trace64  = "a3ce929d0e0e4736"
	span     = "00f067aa0ba902b7"
)

// contexts are the trace headers that a client is given, by name.
var contexts = map[string][]header{
	"none":          nil,
	"w3c":           {{"traceparent", "00-" + trace128 + "-" + span + "-01"}, {"tracestate", "vendor=t61rcWkgMzE"}},
	"w3c-unsampled": {{"traceparent", "00-" + trace128 + "-" + span + "-00"}},
	"b3":            {{"b3", trace128 + "-" + span + "-1-05e3ac9a4f6e3b90"}},
	"b3-denied":     {{"b3", "0"}},
	"b3multi":       {{"X-B3-TraceId", trace128}, {"X-B3-SpanId", span}, {"X-B3-ParentSpanId", "05e3ac9a4f6e3b90"}, {"X-B3-Sampled", "1"}},
	"b3multi-64":    {{"x-b3-traceid", trace64}, {"x-b3-spanid", span}, {"x-b3-sampled", "0"}},
	"jaeger":        {{"uber-trace-id", trace128 + ":" + span + ":0:1"}, {"uberctx-user", "a"}},
	"datadog":       {{"x-datadog-trace-id", "11803532876627986230"}, {"x-datadog-parent-id", "67667974448284343"}, {"x-datadog-sampling-priority", "1"}, {"x-datadog-tags", "_dd.p.dm=-1"}},
	"skywalking":    {{"sw8", "1-ZmI4ZDJjNzE0YTU3NGY=-YWJjLjEyMy4xNjAw-3-Y2F0YWxvZw==-bm9kZS0y-L2NhdGFsb2c=-MTI3LjAuMC4xOjgwODA="}, {"sw8-correlation", ""}},
}

// recipe is one request by one client.
type recipe struct {
	client  string
	context string
	// extra goes into the file's name; headers and body belong to it.
	extra   string
	headers []header
	method  string
	body    int
	flags   []string // of the client itself
}

func (r recipe) name() string {
	name := r.client + "-" + r.context
	if r.extra != "" {
		name += "-" + r.extra
	}
	return name
}

func (r recipe) allHeaders() []header {
	return append(append([]header{}, r.headers...), contexts[r.context]...)
}

func cookie(bytes int) []header { return []header{{"Cookie", "session=" + strings.Repeat("c", bytes)}} }

// recipes lists every head of the corpus that Envoy does not write.
func recipes() []recipe {
	var all []recipe
	for client, names := range map[string][]string{
		"curl":                   {"none", "w3c", "w3c-unsampled", "b3", "b3-denied", "b3multi", "b3multi-64", "jaeger", "datadog", "skywalking"},
		"go":                     {"none", "w3c", "b3", "b3multi", "jaeger", "datadog", "skywalking"},
		"python-urllib":          {"none", "w3c", "b3multi", "jaeger"},
		"python-http.client":     {"w3c", "b3", "datadog"},
		"python-requests":        {"none", "w3c", "b3multi-64", "skywalking"},
		"node-http":              {"none", "w3c", "b3multi", "datadog"},
		"node-fetch":             {"none", "w3c", "b3", "skywalking"},
		"java-HttpClient":        {"none", "w3c", "b3multi", "jaeger"},
		"java-HttpURLConnection": {"w3c", "b3", "datadog", "skywalking"},
		"wget":                   {"none", "w3c", "b3multi"},
	} {
		for _, context := range names {
			all = append(all, recipe{client: client, context: context, method: "GET"})
		}
	}
	return append(all,
		recipe{client: "curl", context: "w3c", extra: "cookie-16k", headers: cookie(16 << 10), method: "GET"},
		recipe{client: "curl", context: "none", extra: "cookie-16k", headers: cookie(16 << 10), method: "GET"},
		recipe{client: "go", context: "w3c", extra: "cookie-16k", headers: cookie(16 << 10), method: "GET"},
		recipe{client: "curl", context: "b3multi", extra: "cookie-1k", headers: cookie(1 << 10), method: "GET"},
		recipe{client: "curl", context: "w3c", extra: "expect", headers: []header{{"Expect", "100-continue"}}, method: "POST", body: 2 << 10},
		recipe{client: "curl", context: "b3", extra: "chunked", headers: []header{{"Transfer-Encoding", "chunked"}}, method: "PUT", body: 300},
		recipe{client: "curl", context: "w3c", extra: "http10", method: "GET", flags: []string{"--http1.0"}},
		recipe{client: "curl", context: "w3c", extra: "head", method: "HEAD", flags: []string{"--head"}},
		recipe{client: "curl", context: "jaeger", extra: "delete", method: "DELETE"},
		recipe{client: "curl", context: "w3c", extra: "options", method: "OPTIONS"},
		recipe{client: "go", context: "b3multi", extra: "chunked", method: "POST", body: 300},
		recipe{client: "python-requests", context: "w3c", extra: "chunked", method: "POST", body: 300},
		recipe{client: "node-http", context: "w3c", extra: "post", method: "PATCH", body: 300},
		recipe{client: "java-HttpURLConnection", context: "b3multi", extra: "chunked", method: "POST", body: 300},
		recipe{client: "java-HttpClient", context: "w3c", extra: "post", method: "POST", body: 300},
	)
}
