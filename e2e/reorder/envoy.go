// SPDX-License-Identifier: Apache-2.0

// Package proxy runs one Envoy with many listeners, which differ in the filters
// that a request meets and in the protocol in which it leaves.
package reorder

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Protocol is what Envoy speaks with the upstream.
type Protocol string

// Protocols, by their ALPN-like names as in out/reorder.json.
const (
	HTTP1 Protocol = "http/1.1"
	HTTP2 Protocol = "http/2"
)

// MetadataSize is the length in bytes of the x-envoy-peer-metadata that every
// listener adds before the router, as Istio does at a gateway.
const MetadataSize = 1100

// Config is one Envoy process.
type EnvoyConfig struct {
	// Envoy is the path of the program, Dir an existing directory for its
	// configuration and its log.
	Envoy, Dir string
	// Tracer is what all listeners trace with.
	Tracer lab.Tracer
	// InlineHeaders are registered as custom inline headers of requests in
	// the bootstrap: tracers then write them in place.
	InlineHeaders []string
	// Upstream takes the requests, in whichever protocol they come; Collector
	// takes the spans over HTTP/1.1.
	Upstream, Collector netip.AddrPort
	// Concurrency is the number of worker threads; 0 means 1.
	Concurrency int
	Listeners   []Listener
}

// Listener is one address to send requests to.
type Listener struct {
	// Name tells listeners apart. It is also the stat prefix.
	Name string
	// Protocol of the upstream; empty means HTTP1.
	Protocol Protocol
	// Downstream filters run in the connection manager, before the router;
	// Upstream filters run in the router, once per attempt.
	Downstream, Upstream []Filter
	// NoTracer leaves tracing out of the connection manager.
	NoTracer bool
	// Unsampled begins traces that are not sampled.
	Unsampled bool
	// UpstreamSpans lets the tracer begin a span for each attempt.
	UpstreamSpans bool
	// UntracedRoute switches tracing off for the route: its sampling rates are 0.
	UntracedRoute bool
}

//go:embed envoy.yaml.tmpl
var envoyTemplateText string

var envoyTemplate = template.Must(template.New("envoy.yaml").
	Funcs(template.FuncMap{"json": toJSON, "filter": Filter.config}).Parse(envoyTemplateText))

// Bootstrap writes the Envoy configuration.
func (c EnvoyConfig) Bootstrap() ([]byte, error) {
	values := struct {
		EnvoyConfig
		Metadata string
	}{c, strings.Repeat("m", MetadataSize)}
	var out bytes.Buffer
	if err := envoyTemplate.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return out.Bytes(), nil
}

// Filter is one HTTP filter: Wasm or Lua is set.
type Filter struct {
	// Name is the Wasm plugin's; plugins of one VM need different names where
	// their configurations differ. Empty means "layertrace".
	Name string
	// Wasm is the path of a module, Configuration what it gets as plugin
	// configuration (JSON; may be empty).
	Wasm, Configuration string
	// Lua is the source of a script.
	Lua string
}

const typeURL = "type.googleapis.com/"

type object = map[string]any

// config returns the filter as an item of a list of HTTP filters, in JSON on one
// line.
func (f Filter) config() (string, error) {
	if f.Lua != "" {
		return toJSON(object{"name": "lua", "typed_config": object{
			"@type":               typeURL + "envoy.extensions.filters.http.lua.v3.Lua",
			"default_source_code": object{"inline_string": f.Lua},
		}})
	}
	plugin := object{
		"name":           cmp.Or(f.Name, "layertrace"),
		"failure_policy": "FAIL_OPEN",
		"vm_config": object{
			"vm_id":   "layertrace",
			"runtime": "envoy.wasm.runtime.v8",
			"code":    object{"local": object{"filename": f.Wasm}},
		},
	}
	if f.Configuration != "" {
		plugin["configuration"] = object{"@type": typeURL + "google.protobuf.StringValue", "value": f.Configuration}
	}
	return toJSON(object{"name": "wasm", "typed_config": object{
		"@type": typeURL + "envoy.extensions.filters.http.wasm.v3.Wasm", "config": plugin,
	}})
}

// toJSON writes a value so that it is YAML too, at any depth.
func toJSON(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return string(data), nil
}

// startLimit is how long an Envoy may take until it is ready: compiling a
// module takes it seconds, many on a busy machine.
const envoyStartLimit = 3 * time.Minute

// Proxy is a running Envoy.
type Envoy struct {
	cmd       *exec.Cmd
	exited    chan struct{} // closed when the process has ended
	admin     string        // URL
	log       string        // path
	listeners map[string]netip.AddrPort
}

// Start starts an Envoy and returns when it is ready. The caller calls Stop.
func StartEnvoy(ctx context.Context, c EnvoyConfig) (*Envoy, error) {
	config, err := c.Bootstrap()
	if err != nil {
		return nil, err
	}
	configFile, adminFile := filepath.Join(c.Dir, "envoy.yaml"), filepath.Join(c.Dir, "admin")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration: %w", err)
	}
	p := &Envoy{exited: make(chan struct{}), log: filepath.Join(c.Dir, "envoy.log")}
	p.cmd = exec.Command(c.Envoy, "--config-path", configFile, "--admin-address-path", adminFile,
		"--log-path", p.log, "--log-level", "warning", "--file-flush-interval-msec", "100",
		"--concurrency", strconv.Itoa(max(1, c.Concurrency)), "--use-dynamic-base-id")
	// A group of its own, so that a Ctrl-C on the terminal does not reach it;
	// it ends with whoever started it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Envoy: %w", err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.exited)
	}()
	if err := p.awaitReady(ctx, adminFile); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// awaitReady waits until Envoy says that it is live, and learns its addresses.
func (p *Envoy) awaitReady(ctx context.Context, adminFile string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := sandbox.Await(ctx, "Envoy to be ready", envoyStartLimit, 20*time.Millisecond, func(ctx context.Context) error {
		if !p.Running() {
			err := fmt.Errorf("start Envoy: ended at once: %v\n%s", p.cmd.ProcessState, p.logTail())
			cancel(err)
			return err
		}
		address, err := os.ReadFile(adminFile)
		if err != nil {
			return err
		}
		p.admin = "http://" + strings.TrimSpace(string(address))
		_, err = getURL(ctx, p.admin+"/ready")
		return err
	})
	if err != nil {
		return err
	}
	p.listeners, err = p.readListeners(ctx)
	return err
}

// Address returns where a listener of the Config takes connections.
func (p *Envoy) Address(listener string) (netip.AddrPort, error) {
	address, ok := p.listeners[listener]
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("find a listener of Envoy: none is called %q", listener)
	}
	return address, nil
}

// PID returns the process ID.
func (p *Envoy) PID() int { return p.cmd.Process.Pid }

// Running reports whether the process has not ended.
func (p *Envoy) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stop ends the process and waits for that. An Envoy that has ended before is
// an error, with the end of its log.
func (p *Envoy) Stop() error {
	if !p.Running() {
		return fmt.Errorf("stop Envoy: ended early: %v\n%s", p.cmd.ProcessState, p.logTail())
	}
	err := p.cmd.Process.Kill() // it has nothing to save
	<-p.exited
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end Envoy: %w", err)
	}
	return nil
}

// Log returns what Envoy has logged so far (level warning and above).
func (p *Envoy) Log() (string, error) {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return "", fmt.Errorf("read Envoy's log: %w", err)
	}
	return string(data), nil
}

func (p *Envoy) logTail() string {
	log, err := p.Log()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// readListeners asks Envoy for the addresses that its listeners got.
func (p *Envoy) readListeners(ctx context.Context) (map[string]netip.AddrPort, error) {
	body, err := getURL(ctx, p.admin+"/listeners?format=json")
	if err != nil {
		return nil, fmt.Errorf("ask Envoy for its listeners: %w", err)
	}
	var list struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address netip.Addr `json:"address"`
					Port    uint16     `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read Envoy's listeners: %w", err)
	}
	listeners := map[string]netip.AddrPort{}
	for _, l := range list.Statuses {
		listeners[l.Name] = netip.AddrPortFrom(l.Address.Socket.Address, l.Address.Socket.Port)
	}
	return listeners, nil
}

// Counters returns Envoy's counters whose names end with suffix, added up over
// listeners; those never touched count nothing.
func (p *Envoy) Counters(ctx context.Context, suffix string) (uint64, error) {
	body, err := getURL(ctx, p.admin+"/stats?usedonly&filter="+url.QueryEscape(suffix+"$"))
	if err != nil {
		return 0, fmt.Errorf("ask Envoy for %s: %w", suffix, err)
	}
	var sum uint64
	for line := range strings.Lines(string(body)) {
		_, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read Envoy's answer %q for %s: %w", line, suffix, err)
		}
		sum += n
	}
	return sum, nil
}

func getURL(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
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
