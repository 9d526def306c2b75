// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/watch"
)

// Wrong flags are refused before anything is done, with the flag and what to write instead.
func TestTryRefusals(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--local", "--status=abc"}, `--status "abc": use a class (5xx)`},
		{[]string{"--local", "--path=api"}, "such as /api/*"},
		{[]string{"--local", "--layer=kernel"}, "protocol-stack"},
		{[]string{"--local", "--service="}, "--service is empty"},
		{[]string{"--local", "--min-duration=-1s"}, "--min-duration"},
		{[]string{"--local", "--output=xml"}, "use text or json"},
		{[]string{"--local", "--for=-1s"}, "--for -1s"},
		{[]string{"--local", "--cpu-limit=-1"}, "cpu-limit"},
		{[]string{"--local", "--ports=http"}, `"http"`},
		{[]string{"--local", "now"}, "takes no arguments"},
		{nil, "--local"},
	} {
		checkRefusal(t, runBinary(t, exec.Command(binary, append([]string{"try"}, c.args...)...)), exitUsage, c.want)
	}
}

func TestTryLocalNotRoot(t *testing.T) {
	needRoot(t) // to run as another user
	cmd := exec.Command(binary, "try", "--local")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	checkRefusal(t, runBinary(t, cmd), exitFailed, "run as root (sudo)")
}

// The agent inside has layers, captures all requests, sends nothing and listens nowhere,
// whatever the environment says.
func TestTryLocalSettings(t *testing.T) {
	t.Setenv("LAYERTRACE_EXPORT", "stdout")
	cfg, err := (&tryLocal{cpuLimit: 0.5}).settings()
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.Watched || !cfg.Layers() || cfg.MetricsAddress != "" || cfg.CPULimit != 0.5 || !slices.Contains(cfg.VNIC, "kind:loopback") || !slices.Contains(cfg.VNIC, "kind:veth") {
		t.Errorf("%+v", cfg)
	}
	for _, e := range config.Exporters {
		if e != "none" && cfg.Exports(e) {
			t.Errorf("it exports by %s", e)
		}
	}
}

type line struct {
	Client, Server, Method, Path string
	Status                       int
	TraceID                      string `json:"trace_id"`
	Layers                       []struct{ Layer, Location string }
	Marks                        []string
}

// Requests over loopback, without a trace context and with one, in a namespace of their own:
// a line for each, a filter, and the end by --count. The reader of a pipe may end.
func TestTryLocal(t *testing.T) {
	needRoot(t)
	s := newSpace(t)
	s.up("lo", "127.0.0.2/8") // its usual address comes by itself
	serve(t, s)
	get := func(path, traceparent string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:8080"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if traceparent != "" {
			r.Header.Set("traceparent", traceparent)
		}
		client := http.Client{Transport: &http.Transport{DialContext: s.dial, DisableKeepAlives: true}}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body) // the status is enough
		response.Body.Close()
	}

	p := start(t, s, "try", "--local", "--output=json", "--ports=8080", "--path=/try-local/*", "--count=2", "--for=60s")
	p.await(p.stderr, "watching HTTP/1 requests")
	get("/other", "")
	get("/try-local/plain", "")
	get("/try-local/traced", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	var got [2]line
	for i := range got {
		if err := json.Unmarshal([]byte(p.await(p.stdout, "{")), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	if code, rest := p.end(); code != 0 || len(rest) != 0 {
		t.Errorf("exit code %d, more lines %q", code, rest)
	}
	for _, l := range got {
		traced := l.Path == "/try-local/traced"
		if l.Method != "GET" || l.Status != http.StatusTeapot || l.Client == "" || l.Client != l.Server || traced != (l.TraceID == "0af7651916cd43dd8448eb211c80319c") {
			t.Errorf("%+v", l)
		}
		if len(l.Layers) == 0 || l.Layers[0].Layer != "application" || traced == (len(l.Marks) > 0 && l.Marks[len(l.Marks)-1] == "no_context") {
			t.Errorf("layers and marks: %+v", l)
		}
	}
	if got[0].Path == got[1].Path {
		t.Errorf("twice the same request: %+v", got)
	}

	p = start(t, s, "try", "--local", "--ports=8080", "--path=/try-local/*")
	p.await(p.stderr, "watching HTTP/1 requests")
	get("/try-local/text", "")
	p.await(p.stdout, " GET /try-local/text ", " 418 ", " % application of ")
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.await(p.stderr, "1 request in ", " 1 shown")
	if code, _ := p.end(); code != 0 {
		t.Errorf("exit code %d after SIGHUP", code)
	}

	// A reader that has ended, such as head, ends it without an error.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(binary, "try", "--local", "--ports=8080", "--path=/try-local/*")
	cmd.Stdout = w
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.Do(cmd.Start)
	w.Close()
	said := ""
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said += lines.Text() + "\n"
		if strings.Contains(lines.Text(), "watching HTTP/1 requests") {
			get("/try-local/pipe", "")
		}
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(said, " 0 shown") || !strings.Contains(said, "1 could not be written") {
		t.Errorf("%v, stderr is %q", err, said)
	}
}

// serve serves HTTP on 127.0.0.1:8080 in a namespace; the application takes most of the time.
func serve(t *testing.T, s *space) {
	t.Helper()
	var listener net.Listener
	s.Do(func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:8080")
		return err
	})
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(400 * time.Millisecond) // the time to find: more than any wait for a CPU
		w.WriteHeader(http.StatusTeapot)
	})}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { server.Close() })
}

// An agent that fails ends the view with its error.
func TestWatchAgentFails(t *testing.T) {
	cfg, err := (&tryLocal{}).settings()
	if err != nil {
		t.Fatal(err)
	}
	cfg.VNIC, cfg.VNICDefault = []string{"nosuch0"}, false
	var out, remarks bytes.Buffer
	ended := 0
	err = watchAgent(context.Background(), watch.Options{Out: &out, Err: &remarks}, cfg, newLog(io.Discard, cfg), func() { ended++ })
	if err == nil || !strings.Contains(err.Error(), "nosuch0") || errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the agent's error", err)
	}
	if out.Len() != 0 || ended != 1 {
		t.Errorf("stdout %q, the terminal was restored %d times", out.String(), ended)
	}
}
