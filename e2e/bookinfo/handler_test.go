// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/app"
)

const traceID = "0af7651916cd43dd8448eb211c80319c"

// start starts a service.
func start(t *testing.T, role string, addresses hosts) (*httptest.Server, *app.State) {
	t.Helper()
	log, err := openLog(filepath.Join(t.TempDir(), role))
	if err != nil {
		t.Fatal(err)
	}
	state := &app.State{}
	handler, err := newHandler(role, addresses, log, state)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnContext = app.ConnContext
	server.Listener = state.Listen(server.Listener)
	server.Start()
	t.Cleanup(func() {
		server.Close()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, state
}

// get requests a page, and returns when head and body were there.
func get(t *testing.T, url string) (body []byte, head, whole time.Duration, err error) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("x-b3-traceid", traceID)
	request.Header.Set("x-b3-spanid", traceID[16:])
	begin := time.Now()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	head = time.Since(begin)
	body, err = io.ReadAll(response.Body)
	return body, head, time.Since(begin), err
}

const pause = 80 * time.Millisecond

// The head comes at once, and the rest after the pause that is reported. It is still
// the same page, with and without events.
func TestPausedResponse(t *testing.T) {
	server, state := start(t, "store", nil)
	for _, events := range []int{0, 4} {
		state.Arm(app.Fault{TraceID: traceID, Pause: pause, Events: events})
		body, head, whole, err := get(t, server.URL)
		report := state.Disarm(traceID)
		if err != nil || !json.Valid(body) {
			t.Errorf("%d events: %q, %v", events, body, err)
		}
		if report.Paused < pause || report.Paused > whole || head > pause/2 {
			t.Errorf("%d events: paused for %v; head after %v, all after %v", events, report.Paused, head, whole)
		}
	}
}

func TestResetResponse(t *testing.T) {
	server, state := start(t, "store", nil)
	state.Arm(app.Fault{TraceID: traceID, Pause: pause, Reset: true})
	body, _, whole, err := get(t, server.URL)
	if !errors.Is(err, syscall.ECONNRESET) || len(body) == 0 || whole < pause {
		t.Errorf("%d bytes after %v, %v", len(body), whole, err)
	}
	state.Disarm(traceID)
	if body, _, _, err = get(t, server.URL); err != nil || !json.Valid(body) {
		t.Errorf("the next request: %q, %v", body, err)
	}
}

// A long response, or a long request, is left unread for the reported time, for which
// the whole takes longer.
func TestUnreadMessages(t *testing.T) {
	const long = 3 << 20
	store, stores := start(t, "store", nil)
	reader, readers := start(t, "reader", hosts{"store": store.Listener.Addr().String()})
	for name, arm := range map[string]func() *app.State{
		"response": func() *app.State {
			stores.Arm(app.Fault{TraceID: traceID, PadResponse: long})
			readers.Arm(app.Fault{TraceID: traceID, ReadCallsAfter: map[string]time.Duration{"store": pause}})
			return readers
		},
		"request": func() *app.State {
			readers.Arm(app.Fault{TraceID: traceID, PadRequests: map[string]int{"store": long}})
			stores.Arm(app.Fault{TraceID: traceID, ReadBodyAfter: pause})
			return stores
		},
	} {
		waits := arm()
		body, _, whole, err := get(t, reader.URL)
		report := waits.Disarm(traceID)
		if err != nil || !json.Valid(body) || len(body) > 1000 || report.Unread < pause || report.Unread > whole {
			t.Errorf("%s: %d bytes, %v; unread for %v of %v", name, len(body), err, report.Unread, whole)
		}
	}
}
