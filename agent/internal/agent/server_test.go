// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/internal/testkit"
)

func newServer(t *testing.T) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(t.Context()) })
	return s
}

func getFrom(t *testing.T, s *Server, path string) (status int, body string) {
	t.Helper()
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + s.Address() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(read)
}

// Whoever opens connections and sends nothing does not keep others out: of other addresses
// those above the bound are closed at once, and this machine has a number of its own.
func TestConnectionsToMetricsAreBounded(t *testing.T) {
	s := newServer(t)
	s.Serve(prometheus.NewRegistry(), func() (string, error) { return "", nil }, slog.New(slog.DiscardHandler))
	address := netip.MustParseAddrPort(s.Address())
	// 127.0.0.0/8 is this machine: only its own number counts, so the rest is tried below.
	for range 3 * maxServedOwn {
		c, err := net.Dial("tcp", address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	testkit.Eventually(t, "those above the bound are refused", func() bool { return s.listener.refused.Load() == 2*maxServedOwn })

	l := &boundedListener{served: map[netip.Addr]int{}}
	from := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
	taken := 0
	for n := range 20 {
		for range 20 {
			if l.take(from(n), false) {
				taken++
			}
		}
		if n == 0 && taken != maxServedOf {
			t.Errorf("%d connections of one address, want %d", taken, maxServedOf)
		}
	}
	if taken != maxServed {
		t.Errorf("%d connections, want %d", taken, maxServed)
	}
	if !l.take(netip.MustParseAddr("127.0.0.1"), true) {
		t.Error("this machine is kept out by others")
	}
	l.release(from(0), false)
	if !l.take(from(19), false) {
		t.Error("a connection that was closed still counts")
	}
}

// Who is not admitted learns why, and gets health all the same.
func TestMetricsAreNotForEveryone(t *testing.T) {
	s := newServer(t)
	s.Admit(func(netip.Addr) error { return errors.New("pods of namespace shop may not") })
	s.KeepSpans(http.NotFoundHandler())
	s.Serve(prometheus.NewRegistry(), func() (string, error) { return "", nil }, slog.New(slog.DiscardHandler))
	for path, want := range map[string]int{"/metrics": http.StatusForbidden, "/spans": http.StatusForbidden, "/healthz": http.StatusOK, "/readyz": http.StatusOK} {
		if status, body := getFrom(t, s, path); status != want || want == http.StatusForbidden && !strings.Contains(body, "shop") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
}

// Scrapes that run at the same time are bounded.
func TestScrapesAreBounded(t *testing.T) {
	s := newServer(t)
	entered, leave := make(chan struct{}, 100), make(chan struct{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slow"}, func() float64 {
		entered <- struct{}{}
		<-leave
		return 1
	}))
	s.Serve(registry, func() (string, error) { return "", nil }, slog.New(slog.DiscardHandler))
	results := make(chan int, maxScrapes)
	for range maxScrapes {
		go func() {
			response, err := http.Get("http://" + s.Address() + "/metrics")
			if err != nil {
				results <- 0
				return
			}
			response.Body.Close()
			results <- response.StatusCode
		}()
	}
	for range maxScrapes {
		<-entered
	}
	if status, _ := getFrom(t, s, "/metrics"); status != http.StatusServiceUnavailable {
		t.Errorf("one more scrape: %d, want 503", status)
	}
	close(leave)
	for range maxScrapes {
		if status := <-results; status != http.StatusOK {
			t.Error(fmt.Sprint("a scrape within the bound: ", status))
		}
	}
}
