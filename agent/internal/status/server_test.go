// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
)

func start(t *testing.T, ready Ready, sources ...Source) string {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(NewRegistry(nil, sources...), ready, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil { // the test's context is over
			t.Error(err)
		}
	})
	return "http://" + s.Address()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestReadiness(t *testing.T) {
	var missing error
	remark := ""
	url := start(t, func() (string, error) { return remark, missing })
	if code, _ := get(t, url+"/readyz"); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	remark = "names are old"
	if code, body := get(t, url+"/readyz"); code != http.StatusOK || body != "ok\nnames are old\n" {
		t.Errorf("ready with a remark: %d %q", code, body)
	}
	missing = errors.New("no interface")
	if code, body := get(t, url+"/readyz"); code != http.StatusServiceUnavailable || body != "no interface\n" {
		t.Errorf("not ready: %d %q", code, body)
	}
	if code, _ := get(t, url+"/healthz"); code != http.StatusOK {
		t.Errorf("healthy: %d", code)
	}
}

func TestMetrics(t *testing.T) {
	url := start(t, nil,
		func() ([]Sample, error) {
			return []Sample{
				{Name: "spans", Help: "Spans.", Value: 2, Label: "result", LabelValue: "ok"},
				{Name: "spans", Help: "Spans.", Value: 1, Label: "result", LabelValue: "lost"},
				{Name: "queue", Help: "Queue.", Gauge: true, Value: 7},
			}, nil
		},
		func() ([]Sample, error) { return nil, errors.New("the kernel does not answer") })
	code, body := get(t, url+"/metrics")
	if code != http.StatusOK {
		t.Errorf("one failing source spoils all: %d", code)
	}
	for _, want := range []string{
		"# TYPE layertrace_spans_total counter", `layertrace_spans_total{result="ok"} 2`, `layertrace_spans_total{result="lost"} 1`,
		"# TYPE layertrace_queue gauge", "layertrace_queue 7", "process_cpu_seconds_total",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestListenTellsThatThePortIsTaken(t *testing.T) {
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if _, err := Listen(s.Address()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}
