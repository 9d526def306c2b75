// SPDX-License-Identifier: Apache-2.0

package cluster

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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Nobody listens: the source does not know anything, says so, and goes on.
// (What a server answers is tested with a real one, in e2e/k8s.)
func TestSourceWithoutAServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := New(Options{
		Config: &rest.Config{Host: "http://" + address}, Node: "n", Linger: time.Minute,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ready(); err == nil {
		t.Error("ready before it runs")
	}
	if !s.Unsettled(7) {
		t.Error("names are settled before anything is known")
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); s.apiFailures() < 3; time.Sleep(5 * time.Millisecond) { // the pause of a poll
		if time.Now().After(deadline) {
			t.Fatal("it does not try again")
		}
	}
	if _, err := s.Ready(); err == nil || !strings.Contains(err.Error(), "pods are not known yet") {
		t.Errorf("readiness: %v", err)
	}
	if s.away() == 0 {
		t.Error("the server is not away")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings, want one for each feed:\n%s", n, log.String())
	}
	s.started -= settling
	if s.Unsettled(7) {
		t.Error("names are waited for without end")
	}
}

func TestContact(t *testing.T) {
	var log bytes.Buffer
	c := &contact{what: "pods", log: slog.New(slog.NewTextHandler(&log, nil))}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no role"))
	c.outcome(context.Canceled)
	c.outcome(apierrors.NewResourceExpired("too old"))
	if since, failures, _ := c.trouble(); !since.IsZero() || failures != 0 {
		t.Error("an answer or the end counts as a failure")
	}
	c.outcome(forbidden)
	c.outcome(forbidden)
	since, failures, last := c.trouble()
	if since.IsZero() || failures != 2 || !strings.Contains(last.Error(), "grant list and watch on pods") {
		t.Errorf("since %v, %d failures, %v", since, failures, last)
	}
	c.outcome(nil)
	if since, failures, last := c.trouble(); !since.IsZero() || last != nil || failures != 2 {
		t.Errorf("since %v, %d failures, %v behind a success", since, failures, last)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("%d lines, want one for the failure and one for its end:\n%s", n, log.String())
	}
}

func TestReadyTellsAboutAnOutage(t *testing.T) {
	s := &Source{here: contact{what: "pods", log: slog.New(slog.DiscardHandler)}}
	s.local.synced.Store(true)
	s.remote.synced.Store(true)
	if remark, err := s.Ready(); remark != "" || err != nil {
		t.Errorf("%q, %v", remark, err)
	}
	s.here.outcome(errors.New("refused"))
	if remark, err := s.Ready(); !strings.Contains(remark, "does not answer") || err != nil {
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
		if _, err := Load(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want a message with %q", file, err, want)
		}
	}
}

// client-go's messages are for debugging, its verbose ones for nobody.
func TestQuiet(t *testing.T) {
	var log bytes.Buffer
	for level, want := range map[slog.Level]int{slog.LevelDebug: 2, slog.LevelInfo: 0} {
		log.Reset()
		l := slog.New(quiet{slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})}).With("a", 1).WithGroup("g")
		l.Error("x")
		l.Info("x")
		l.Log(t.Context(), -4, "x")
		if n := strings.Count(log.String(), "level=DEBUG"); n != want || strings.Count(log.String(), "\n") != want {
			t.Errorf("at level %v:\n%s", level, log.String())
		}
	}
}
