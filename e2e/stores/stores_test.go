// SPDX-License-Identifier: Apache-2.0

// Package stores tests what trace stores do with a preliminary span (flag still_open)
// that is followed by the span of the whole with the same ID: the table of
// docs/attributes.md.
package stores

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/sandbox"
	"github.com/layertrace/layertrace/internal/testkit"
)

var withZipkin = flag.Bool("zipkin", false, "test Zipkin too, which needs Java, and Maven to get it")

const (
	traceID = "5b8efff798038103d269b633813fc60c"
	spanID  = "eee19b7ec3c1b174"
	start   = 1_700_000_000_000_000 // µs
	early   = 30 * time.Second      // of the preliminary span
	whole   = 95 * time.Second
)

// store is a running trace store.
type store struct {
	// send stores the span with a duration, and flags or none, on its own.
	send func(ctx context.Context, took time.Duration, flags string) error
	// spans returns the stored spans as duration and flags, in ascending order.
	spans func(ctx context.Context) ([]string, error)
}

// shown is a span of a store in the answers of spans.
func shown(took time.Duration, flags string) string {
	return strings.TrimSpace(fmt.Sprintf("%06.1fs %s", took.Seconds(), flags))
}

// What each store returns after both spans: docs/attributes.md has the same.
func TestPreliminarySpanAndWhole(t *testing.T) {
	both := []string{shown(early, "still_open"), shown(whole, "")}
	stores := map[string]struct {
		start func(*testing.T) store
		want  []string
	}{
		"Jaeger, in memory": {func(t *testing.T) store { return startJaeger(t, "127.93.0.1", "") }, both},
		"Jaeger, Badger":    {func(t *testing.T) store { return startJaeger(t, "127.93.0.2", "{ badger: { ephemeral: true } }") }, both[1:]},
	}
	if *withZipkin {
		stores["Zipkin"] = struct {
			start func(*testing.T) store
			want  []string
		}{startZipkin, both}
	}
	if *tempoProgram != "" {
		stores["Tempo"] = struct {
			start func(*testing.T) store
			want  []string
		}{startTempo, both}
	}
	for name, s := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // mostly waits
			running := s.start(t)
			if err := running.send(t.Context(), early, "still_open"); err != nil {
				t.Fatal(err)
			}
			await(t, running, both[:1])
			if err := running.send(t.Context(), whole, ""); err != nil {
				t.Fatal(err)
			}
			await(t, running, s.want)
		})
	}
}

// await waits until a store has the spans.
func await(t *testing.T, s store, want []string) {
	t.Helper()
	if err := sandbox.Await(t.Context(), "the spans", 20*time.Second, 100*time.Millisecond, func(ctx context.Context) error {
		got, err := s.spans(ctx)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// startJaeger starts Jaeger at an address of the loopback device, with a configured
// storage or the lab's.
func startJaeger(t *testing.T, ip, storage string) store {
	t.Helper()
	checkout, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	program, err := provision.Jaeger(t.Context(), checkout, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	config, err := lab.JaegerConfig(ip, 100)
	if err != nil {
		t.Fatal(err)
	}
	const inMemory = "{ memory: { max_traces: 100 } }"
	if !strings.Contains(config, inMemory) {
		t.Fatalf("no storage in memory in\n%s", config)
	}
	if storage != "" {
		config = strings.Replace(config, inMemory, storage, 1)
	}
	file := filepath.Join(t.TempDir(), "jaeger.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	jaeger := lab.NewJaegerClient(ip, nil)
	t.Cleanup(jaeger.Close)
	run(t, exec.CommandContext(t.Context(), program, "--config", file), func(ctx context.Context) error {
		_, err := jaeger.Services(ctx)
		return err
	})
	return store{
		send: func(ctx context.Context, took time.Duration, flags string) error {
			return post(ctx, fmt.Sprintf("http://%s:%d/v1/traces", ip, lab.JaegerOTLPHTTPPort), otlp(took, flags))
		},
		spans: func(ctx context.Context) (all []string, err error) {
			trace, err := jaeger.Trace(ctx, traceID)
			for _, s := range trace.Spans {
				flags, _ := s.Tags["layertrace.flags"].(string)
				all = append(all, shown(s.Duration, strings.Trim(flags, `[]"`)))
			}
			slices.Sort(all)
			return all, err
		},
	}
}

// otlp is the span as OTLP JSON.
func otlp(took time.Duration, flags string) string {
	attributes := "[]"
	if flags != "" {
		attributes = fmt.Sprintf(`[{"key": "layertrace.flags", "value": {"arrayValue": {"values": [{"stringValue": %q}]}}}]`, flags)
	}
	return fmt.Sprintf(`{"resourceSpans": [{
		"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "web"}}]},
		"scopeSpans": [{"spans": [{"traceId": %q, "spanId": %q, "name": "eth0", "kind": 1,
			"startTimeUnixNano": "%d", "endTimeUnixNano": "%d", "attributes": %s}]}]}]}`,
		traceID, spanID, int64(start)*1000, int64(start)*1000+took.Nanoseconds(), attributes)
}

// startTempo starts Tempo, which keeps spans on disk.
func startTempo(t *testing.T) store {
	t.Helper()
	const ip = "127.93.0.3"
	dir := t.TempDir()
	config := filepath.Join(dir, "tempo.yaml")
	if err := os.WriteFile(config, []byte(lab.TempoConfig(ip, dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("http://%s:%d", ip, lab.TempoPort)
	run(t, exec.CommandContext(t.Context(), *tempoProgram, "-target=all", "-config.file="+config), func(ctx context.Context) error {
		return get(ctx, base+"/api/v2/traces/"+traceID, &struct{}{}) // without spans yet
	})
	return store{
		send: func(ctx context.Context, took time.Duration, flags string) error {
			return post(ctx, fmt.Sprintf("http://%s:%d/v1/traces", ip, lab.TempoOTLPHTTPPort), otlp(took, flags))
		},
		spans: func(ctx context.Context) (all []string, err error) {
			var response struct {
				Trace struct {
					ResourceSpans []struct {
						ScopeSpans []struct {
							Spans []struct {
								Start int64 `json:"startTimeUnixNano,string"`
								End   int64 `json:"endTimeUnixNano,string"`

								Attributes []struct {
									Value struct {
										ArrayValue struct{ Values []map[string]string }
									}
								}
							}
						}
					}
				}
			}
			err = get(ctx, base+"/api/v2/traces/"+traceID, &response)
			for _, resource := range response.Trace.ResourceSpans {
				for _, scope := range resource.ScopeSpans {
					for _, s := range scope.Spans {
						flags := ""
						for _, a := range s.Attributes {
							flags = a.Value.ArrayValue.Values[0]["stringValue"]
						}
						all = append(all, shown(time.Duration(s.End-s.Start), flags))
					}
				}
			}
			slices.Sort(all)
			return all, err
		},
	}
}

// startZipkin starts Zipkin, which keeps spans in memory.
func startZipkin(t *testing.T) store {
	t.Helper()
	jar, err := provision.Zipkin(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	address := testkit.FreeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	base := "http://" + address
	cmd := exec.CommandContext(t.Context(), "java", "-Xmx256m", "-jar", jar)
	cmd.Env = append(os.Environ(), "QUERY_PORT="+port, "SELF_TRACING_ENABLED=false")
	run(t, cmd, func(ctx context.Context) error { return get(ctx, base+"/health", nil) })
	return store{
		send: func(ctx context.Context, took time.Duration, flags string) error {
			tags := "{}"
			if flags != "" {
				tags = fmt.Sprintf(`{"layertrace.flags": %q}`, flags)
			}
			return post(ctx, base+"/api/v2/spans", fmt.Sprintf(
				`[{"traceId": %q, "id": %q, "name": "eth0", "timestamp": %d, "duration": %d, "localEndpoint": {"serviceName": "web"}, "tags": %s}]`,
				traceID, spanID, int64(start), took.Microseconds(), tags))
		},
		spans: func(ctx context.Context) (all []string, err error) {
			var spans []struct {
				Duration int64
				Tags     map[string]string
			}
			err = get(ctx, base+"/api/v2/trace/"+traceID, &spans)
			for _, s := range spans {
				all = append(all, shown(time.Duration(s.Duration)*time.Microsecond, s.Tags["layertrace.flags"]))
			}
			slices.Sort(all)
			return all, err
		},
	}
}

// run runs a program until the end of the test, and waits until it is ready.
func run(t *testing.T, cmd *exec.Cmd, ready func(context.Context) error) {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // the test's context ends it
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, &output)
		}
	})
	if err := sandbox.Await(t.Context(), cmd.Path, 2*time.Minute, 100*time.Millisecond, ready); err != nil {
		t.Fatal(err)
	}
}

func post(ctx context.Context, url, body string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	return do(request, nil)
}

func get(ctx context.Context, url string, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return do(request, data)
}

// do sends a request, and decodes the response into data if that is not nil.
func do(request *http.Request, data any) error {
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode/100 != 2:
		return fmt.Errorf("%s: %s: %s", request.URL, response.Status, body)
	case data == nil:
		return nil
	}
	return json.Unmarshal(body, data)
}
