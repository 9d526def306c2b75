// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/layertrace/layertrace/e2e/lab/provision"
)

//go:embed testdata/envoy.yaml.tmpl
var configTemplate string

// settings fill testdata/envoy.yaml.tmpl.
type settings struct {
	Tracer    string // zipkin or opentelemetry
	Wasm      string // path of the module
	Upstream  int    // port on 127.0.0.1
	Collector int    // port on 127.0.0.1
	Metadata  string // value of x-envoy-peer-metadata, added before the router

	Listeners     []string          // names; all but "stock" have the filter
	Configuration map[string]string // plugin configuration by listener
}

// envoy is a running proxy.
type envoy struct {
	admin     string            // URL
	listeners map[string]string // name -> host:port
	log       string            // path of its log file
}

// startEnvoy runs an Envoy until the test is over.
func startEnvoy(t *testing.T, s settings) *envoy {
	t.Helper()
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // spans are not looked at
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(collector.Close)
	s.Collector = port(t, collector.Listener.Addr().String())

	program, err := provision.Envoy(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var config bytes.Buffer
	if err := template.Must(template.New("envoy").Parse(configTemplate)).Execute(&config, s); err != nil {
		t.Fatalf("fill the Envoy configuration: %v", err)
	}
	configFile, adminFile := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(configFile, config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	e := &envoy{log: filepath.Join(dir, "envoy.log"), listeners: map[string]string{}}
	cmd := exec.Command(program, "--config-path", configFile, "--admin-address-path", adminFile,
		"--log-path", e.log, "--log-level", "warning", "--concurrency", "1", "--use-dynamic-base-id")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Envoy: %v", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited // says that it was killed
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", e.readLog(t))
		}
	})
	e.awaitReady(t, adminFile, exited)
	e.readListeners(t)
	return e
}

// awaitReady waits until Envoy says that it is live.
func (e *envoy) awaitReady(t *testing.T, adminFile string, exited <-chan error) {
	t.Helper()
	poll(t, "Envoy to be ready", func() error {
		select {
		case err := <-exited:
			t.Fatalf("Envoy ended at once: %v\n%s", err, e.readLog(t))
		default:
		}
		address, err := os.ReadFile(adminFile)
		if err != nil {
			return err
		}
		e.admin = "http://" + strings.TrimSpace(string(address))
		_, err = get(e.admin + "/ready")
		return err
	})
}

func (e *envoy) readListeners(t *testing.T) {
	t.Helper()
	body, err := get(e.admin + "/listeners?format=json")
	if err != nil {
		t.Fatalf("ask Envoy for its listeners: %v", err)
	}
	var list struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatalf("read Envoy's listeners: %v", err)
	}
	for _, l := range list.Statuses {
		e.listeners[l.Name] = fmt.Sprintf("127.0.0.1:%d", l.Address.Socket.Port)
	}
}

// counter returns one of Envoy's counters; those never touched are 0.
func (e *envoy) counter(t *testing.T, name string) string {
	t.Helper()
	body, err := get(e.admin + "/stats?usedonly&filter=" + name)
	if err != nil {
		t.Fatalf("ask Envoy for %s: %v", name, err)
	}
	for _, line := range strings.Split(string(body), "\n") {
		if key, value, ok := strings.Cut(line, ": "); ok && strings.HasSuffix(key, name) {
			return value
		}
	}
	return "0"
}

func (e *envoy) readLog(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(e.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}

// poll tries until there is no error, for 60 s at most: compiling the module
// takes Envoy some seconds on a busy machine.
func poll(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
