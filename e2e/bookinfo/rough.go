// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/app"
)

// roughPath is the path of requests whose query has what goes wrong with them:
//
//	down=BYTES     the length of the response's body
//	parts=N        it is written in as many parts, with a pause of 2 ms between them
//	fail=503|reset the first attempts fail, as many as times=N
//	early          half of the body is written before the request's body is read
//	reset          the connection is reset in the middle of the body
const roughPath = "/rough"

// rough answers such requests.
type rough struct {
	mu sync.Mutex
	// failed counts the attempts that failed, by request ID, until one succeeds.
	failed map[string]int
}

func (h *rough) serve(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if failure := query.Get("fail"); failure != "" && h.fails(r, query) {
		if failure == "reset" {
			_ = app.Reset(w) // an error means that the client has gone, here and below
			return
		}
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	body := bytes.Repeat([]byte{'x'}, number(query, "down"))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	control := http.NewResponseController(w)
	if query.Has("early") {
		_ = control.EnableFullDuplex()
		_, _ = w.Write(body[:len(body)/2])
		body = body[len(body)/2:]
		_ = control.Flush()
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if query.Has("reset") {
		_, _ = w.Write(body[:len(body)/2])
		_ = control.Flush()
		_ = app.Reset(w)
		return
	}
	for parts := max(number(query, "parts"), 1); parts > 1; parts-- {
		size := len(body) / parts
		_, _ = w.Write(body[:size])
		body = body[size:]
		_ = control.Flush()
		time.Sleep(2 * time.Millisecond) // the pause
	}
	_, _ = w.Write(body)
}

// fails counts an attempt and reports whether it fails.
func (h *rough) fails(r *http.Request, query url.Values) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := r.Header.Get("X-Request-Id")
	if h.failed == nil {
		h.failed = map[string]int{}
	}
	if h.failed[id]++; h.failed[id] > max(number(query, "times"), 1) {
		delete(h.failed, id)
		return false
	}
	return true
}

// number returns a number of the query, 0 without one.
func number(query url.Values, name string) int {
	n, err := strconv.Atoi(query.Get(name))
	if err != nil {
		return 0
	}
	return n
}
