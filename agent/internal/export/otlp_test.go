// SPDX-License-Identifier: Apache-2.0

package export

import (
	"testing"

	"github.com/layertrace/layertrace/internal/testkit"
)

// A refused connection is retried over HTTP too.
func TestHTTPReceiverComesBack(t *testing.T) {
	address := testkit.FreeAddress(t)
	q := newQueue(t, OTLPOptions{HTTP: true, Endpoint: "http://" + address, Headers: map[string]string{"x-token": "secret"}}, 700)
	send(q, 0, 600)
	r := &testkit.Receiver{Token: "secret"}
	r.ServeHTTP(t, address)
	testkit.Eventually(t, "the queue is sent", func() bool { return q.Counters().Exported == 600 })
	if n := len(r.Spans()); n != 600 {
		t.Errorf("%d spans arrived, want 600", n)
	}
	checkSum(t, q.Counters())
}

func TestHTTPRefusalIsNotTriedAgain(t *testing.T) {
	address := testkit.FreeAddress(t)
	(&testkit.Receiver{Token: "secret"}).ServeHTTP(t, address)
	q := newQueue(t, OTLPOptions{HTTP: true, Endpoint: "http://" + address}, 700) // without the header
	send(q, 0, 10)
	testkit.Eventually(t, "the batch is refused", func() bool { return q.Counters().Failed == 10 })
	checkSum(t, q.Counters())
}

func TestTracesURL(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://a:4318":        "http://a:4318/v1/traces",
		"http://a:4318/":       "http://a:4318/v1/traces",
		"https://a/otlp/spans": "https://a/otlp/spans",
	} {
		if got, err := tracesURL(endpoint); err != nil || got != want {
			t.Errorf("%s becomes %s (%v), want %s", endpoint, got, err, want)
		}
	}
}
