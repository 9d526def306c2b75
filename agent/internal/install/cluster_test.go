// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// connectTo returns a client of an API server.
func connectTo(t *testing.T, server *httptest.Server) *Cluster {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("clusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n", server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster, err := Connect(kubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

// A pod that passes for an agent may respond with anything: so much of it is read, and no more.
func TestResponsesOfPodsAreBounded(t *testing.T) {
	for name, test := range map[string]struct {
		size  int
		error string
	}{
		"as much":  {maxFromPod, ""},
		"too much": {maxFromPod + 1, "more than 16 MiB"},
		"no end":   {64 * maxFromPod, "more than 16 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			sent := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/api/v1/namespaces/ns/pods/pod:9464/proxy/metrics" {
					http.NotFound(w, r)
					return
				}
				for chunk := make([]byte, 1<<20); sent < test.size; {
					n, err := w.Write(chunk[:min(len(chunk), test.size-sent)])
					if sent += n; err != nil {
						return
					}
				}
			}))
			t.Cleanup(server.Close)
			cluster := connectTo(t, server)
			data, err := cluster.GetFromPod(t.Context(), "ns", "pod", 9464, "metrics")
			switch {
			case test.error == "" && (err != nil || len(data) != test.size):
				t.Errorf("%d bytes, %v; want %d", len(data), err, test.size)
			case test.error != "" && (err == nil || !strings.Contains(err.Error(), test.error)):
				t.Errorf("%v, want %q", err, test.error)
			}
			server.Close() // waits for the handler
			if sent > 4*maxFromPod {
				t.Errorf("%d MiB were read", sent>>20)
			}
		})
	}
}

// So may a service, also with an error; and its path is that which was asked for.
func TestResponsesOfServicesAreBounded(t *testing.T) {
	const end = 64 << 20
	for _, test := range []struct {
		path, want string
		status     int
		limit      int // what is read, with what buffers of the sockets take
		error      string
	}{
		{"/items/", "/items/", http.StatusOK, 2 * maxFromPod, ""},
		{"/items?x=1", "/items", http.StatusOK, 2 * maxFromPod, ""},
		{"/", "/", http.StatusBadGateway, maxFromPod, "(status 502)"},
	} {
		sent := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/api/v1/namespaces/shop/services/cart:80/proxy"+test.want || r.Header.Get("traceparent") != "x" {
				t.Errorf("it asks for %s", r.URL)
			}
			w.WriteHeader(test.status)
			for chunk := make([]byte, 1<<20); sent < end; {
				n, err := w.Write(chunk)
				if sent += n; err != nil {
					return
				}
			}
		}))
		path, err := url.Parse(test.path)
		if err != nil {
			t.Fatal(err)
		}
		err = connectTo(t, server).GetFromService(t.Context(), "shop", "cart:80", path, map[string]string{"traceparent": "x"})
		if (err != nil) != (test.error != "") || err != nil && !strings.Contains(err.Error(), test.error) {
			t.Errorf("%s: %v, want %q", test.path, err, test.error)
		}
		server.Close() // waits for the handler
		if sent > test.limit {
			t.Errorf("%s: %d MiB were read", test.path, sent>>20)
		}
	}
}
