// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// header is one header that a client sends.
type header struct{ name, value string }

// The IDs that the clients send. The tests expect them.
const (
	trace128 = "4bf92f3577b34da6a3ce929d0e0e4736"
	trace64  = "a3ce929d0e0e4736"
	span     = "00f067aa0ba902b7"
)

// contexts are the trace headers to send, by name.
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
	// extra is the variation in the file's name: further headers, a body.
	extra   string
	headers []header
	method  string
	body    int
	flags   []string // of the client's command
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

// recipes returns all heads of the corpus but Envoy's.
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

//go:embed clients
var clientFiles embed.FS

// clients runs the client programs, whose sources are in a folder.
type clients struct{ folder string }

// unpack writes the clients' sources to a folder.
func unpack(folder string) (clients, error) {
	for _, name := range []string{"client.py", "client.mjs", "Client.java"} {
		source, err := clientFiles.ReadFile("clients/" + name)
		if err != nil {
			return clients{}, err
		}
		if err := os.WriteFile(filepath.Join(folder, name), source, 0o600); err != nil {
			return clients{}, fmt.Errorf("unpack the clients: %w", err)
		}
	}
	return clients{folder}, nil
}

// run makes the recipe's request with the real client.
func (c clients) run(r recipe, url string) error {
	if r.client == "go" {
		return runGo(r, url)
	}
	command := c.command(r, url)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "http_proxy=", "HTTP_PROXY=", "no_proxy=*")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", command[0], err, out)
	}
	return nil
}

func (c clients) command(r recipe, url string) []string {
	interpreter := map[string][]string{
		"python": {"python3", filepath.Join(c.folder, "client.py")},
		"node":   {"node", filepath.Join(c.folder, "client.mjs")},
		"java":   {"java", filepath.Join(c.folder, "Client.java")},
	}
	language, library, _ := strings.Cut(r.client, "-")
	if command := interpreter[language]; command != nil {
		command = append(command, library, r.method, url, fmt.Sprint(r.body))
		for _, h := range r.allHeaders() {
			command = append(command, h.name+"="+h.value)
		}
		return command
	}
	command, headerFlag := []string{"curl", "--silent", "--show-error", "--output", os.DevNull, "--request", r.method}, "--header="
	if r.client == "wget" {
		command, headerFlag = []string{"wget", "--quiet", "--output-document=" + os.DevNull}, "--header="
	}
	for _, h := range r.allHeaders() {
		line := h.name + ": " + h.value
		if r.client == "curl" {
			if h.value == "" {
				line = h.name + ";" // curl's way to send an empty value
			}
			command = append(command, "--header", line)
			continue
		}
		command = append(command, headerFlag+line)
	}
	if r.body > 0 {
		command = append(command, "--data", strings.Repeat("q", r.body))
	}
	return append(append(command, r.flags...), url)
}

// runGo makes the request with net/http.
func runGo(r recipe, url string) error {
	var body io.Reader
	if r.body > 0 {
		// The length of a MultiReader is unknown: chunked.
		body = io.MultiReader(strings.NewReader(strings.Repeat("q", r.body)))
	}
	request, err := http.NewRequest(r.method, url, body)
	if err != nil {
		return err
	}
	for _, h := range r.allHeaders() {
		request.Header.Set(h.name, h.value)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
