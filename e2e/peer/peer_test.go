// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/layertrace/layertrace/e2e/peer/ask"
)

// Each path has the length and the duration that it promises.
func TestResponses(t *testing.T) {
	for path, want := range map[string]struct {
		bytes int64
		took  time.Duration
	}{
		ask.Quick + "?wait_ms=30":      {int64(len(fmt.Sprintf(lengthHead, 2)) + 2), 30 * time.Millisecond},
		ask.Pause + "?wait_ms=30":      {int64(len(fmt.Sprintf(lengthHead, 2)) + 2), 30 * time.Millisecond},
		ask.Events + "?n=3&wait_ms=10": {int64(len(chunkedHead) + 3*len("8\r\ndata: a\n\r\n") + len("0\r\n\r\n")), 30 * time.Millisecond},
		ask.Bulk + "?n=3000000":        {int64(len(fmt.Sprintf(lengthHead, 3_000_000)) + 3_000_000), 0},
	} {
		target, err := url.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- respond(server, target) }()
		start := time.Now()
		r := &response{conn: client}
		if err := r.head(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := r.body(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if took := time.Since(start); took < want.took || r.bytes != want.bytes {
			t.Errorf("%s: %d bytes in %v, want %d in at least %v", path, r.bytes, took, want.bytes, want.took)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A connection with an endless response is kept, after responses that ended.
func TestEndless(t *testing.T) {
	client, server := net.Pipe()
	endless := &endlessResponses{}
	kept := make(chan bool, 1)
	go func() { kept <- answer(server, endless) }()
	for _, path := range []string{ask.Quick, ask.Endless} {
		if _, err := client.Write(ask.Head(ask.NewTraceID(), path)); err != nil {
			t.Fatal(err)
		}
		r := &response{conn: client}
		if err := r.head(); err != nil {
			t.Fatal(err)
		}
		if path == ask.Quick {
			if err := r.body(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !<-kept || len(endless.conns) != 1 {
		t.Errorf("%d connections kept", len(endless.conns))
	}
}

func TestCutResponseIsAnError(t *testing.T) {
	client, server := net.Pipe()
	go func() {
		fmt.Fprintf(server, lengthHead+"part", 10)
		server.Close()
	}()
	r := &response{conn: client}
	if err := r.head(); err != nil {
		t.Fatal(err)
	}
	if err := r.body(); err == nil {
		t.Error("no error")
	}
}
