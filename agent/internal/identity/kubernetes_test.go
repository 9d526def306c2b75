// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Without an API server it is not ready, and retries. (e2e/k8s tests it
// with a real server.)
func TestKubernetesWithoutAServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	k, err := NewKubernetes(KubernetesOptions{
		Config: &rest.Config{Host: "http://" + address}, Node: "n", GracePeriod: time.Minute,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Ready(); err == nil {
		t.Error("ready before it runs")
	}
	if !k.MayChange(7) {
		t.Error("names are final before the cluster was read")
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); k.apiFailures() < 3; time.Sleep(5 * time.Millisecond) { // the pause of a poll
		if time.Now().After(deadline) {
			t.Fatal("no retries")
		}
	}
	if _, err := k.Ready(); err == nil || !strings.Contains(err.Error(), "pods are not known yet") {
		t.Errorf("readiness: %v", err)
	}
	if k.apiAway() == 0 {
		t.Error("no outage")
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(k)
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings, want one per reflector:\n%s", n, log.String())
	}
	k.started -= settleTime
	if k.MayChange(7) {
		t.Error("names may change forever")
	}
}

func TestAPIHealth(t *testing.T) {
	var log bytes.Buffer
	h := &apiHealth{of: "pods", log: slog.New(slog.NewTextHandler(&log, nil))}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no role"))
	h.observe(context.Canceled)
	h.observe(apierrors.NewResourceExpired("too old"))
	if since, failures, _ := h.outage(); !since.IsZero() || failures != 0 {
		t.Error("an expected error or the shutdown counts as a failure")
	}
	h.observe(forbidden)
	h.observe(forbidden)
	since, failures, last := h.outage()
	if since.IsZero() || failures != 2 || !strings.Contains(last.Error(), "grant list and watch on pods") {
		t.Errorf("since %v, %d failures, %v", since, failures, last)
	}
	h.observe(nil)
	if since, failures, last := h.outage(); !since.IsZero() || last != nil || failures != 2 {
		t.Errorf("since %v, %d failures, %v after a success", since, failures, last)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want one for the failure and one for its end:\n%s", n, log.String())
	}
}

func TestReadyReportsAnOutage(t *testing.T) {
	k := &Kubernetes{localHealth: apiHealth{of: "pods", log: slog.New(slog.DiscardHandler)}}
	k.local.synced.Store(true)
	k.remote.synced.Store(true)
	if remark, err := k.Ready(); remark != "" || err != nil {
		t.Errorf("%q, %v", remark, err)
	}
	k.localHealth.observe(errors.New("refused"))
	if remark, err := k.Ready(); !strings.Contains(remark, "does not respond") || err != nil {
		t.Errorf("%q, %v", remark, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"": "--kubeconfig", "/nosuch": "--kubeconfig /nosuch", broken: "--kubeconfig " + broken} {
		if _, err := LoadKubeConfig(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want a message with %q", file, err, want)
		}
	}
}

// client-go's messages become debug messages; its verbose ones are dropped.
func TestQuiet(t *testing.T) {
	var log bytes.Buffer
	for level, want := range map[slog.Level]int{slog.LevelDebug: 2, slog.LevelInfo: 0} {
		log.Reset()
		l := slog.New(logFilter{slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})}).With("a", 1).WithGroup("g")
		l.Error("x")
		l.Info("x")
		l.Log(t.Context(), -4, "x")
		if n := strings.Count(log.String(), "level=DEBUG"); n != want || strings.Count(log.String(), "\n") != want {
			t.Errorf("at level %v:\n%s", level, log.String())
		}
	}
}
