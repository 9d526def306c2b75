// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// Protocol is the protocol between Envoy and the upstream.
type Protocol string

// Protocols, named as in out/reorder.json.
const (
	HTTP1 Protocol = "http/1.1"
	HTTP2 Protocol = "http/2"
)

// metadataSize is the length in bytes of the x-envoy-peer-metadata that every listener
// adds before the router, as in a gateway of Istio.
const metadataSize = 1100

// envoyConfig configures an Envoy with many listeners, which differ in their filters
// and in the upstream's protocol.
type envoyConfig struct {
	// Envoy is the path of the program, Dir an existing directory for its
	// configuration and log.
	Envoy, Dir string
	// Tracer is the tracer of all listeners.
	Tracer lab.Tracer
	// InlineHeaders are registered as custom inline headers of requests in the
	// bootstrap: tracers then overwrite them in place.
	InlineHeaders []string
	// Upstream receives the requests, over either protocol; Collector receives the
	// spans over HTTP/1.1.
	Upstream, Collector netip.AddrPort
	// Concurrency is the number of worker threads; 0 means 1.
	Concurrency int
	Listeners   []envoyListener
}

// envoyListener is an address for requests.
type envoyListener struct {
	// Name identifies the listener. It is also the stat prefix.
	Name string
	// Protocol of the upstream; empty means HTTP1.
	Protocol Protocol
	// Downstream filters run in the connection manager, before the router;
	// Upstream filters run in the router, once per attempt.
	Downstream, Upstream []Filter
	// NoTracer disables tracing in the connection manager.
	NoTracer bool
	// Unsampled starts traces that are not sampled.
	Unsampled bool
	// UpstreamSpans makes the tracer start a span for each attempt.
	UpstreamSpans bool
	// UntracedRoute disables tracing for the route: its sampling rates are 0.
	UntracedRoute bool
}

//go:embed envoy.yaml.tmpl
var envoyTemplateText string

var envoyTemplate = template.Must(template.New("envoy.yaml").
	Funcs(template.FuncMap{"json": toJSON, "filter": Filter.config}).Parse(envoyTemplateText))

// Bootstrap returns the Envoy configuration.
func (c envoyConfig) Bootstrap() ([]byte, error) {
	values := struct {
		envoyConfig
		Metadata string
	}{c, strings.Repeat("m", metadataSize)}
	var out bytes.Buffer
	if err := envoyTemplate.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return out.Bytes(), nil
}

// Filter is an HTTP filter, either Wasm or Lua.
type Filter struct {
	// Name is the Wasm plugin's name, by default "layertrace". Plugins of one VM
	// with different configurations need different names.
	Name string
	// Wasm is the path of a module, Configuration its plugin configuration (JSON;
	// may be empty).
	Wasm, Configuration string
	// Lua is the source of a script.
	Lua string
}

const typeURL = "type.googleapis.com/"

type object = map[string]any

// config returns the filter as an item of the list of HTTP filters, as JSON on one
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

// toJSON returns a value as JSON on one line, which is also YAML at any depth.
func toJSON(value any) (string, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("write the Envoy configuration: %w", err)
	}
	return string(data), nil
}

// envoyStartLimit is how long an Envoy may take to be ready: compiling a module takes
// seconds, many of them on a busy machine, and Valgrind is slow.
const envoyStartLimit = 10 * time.Minute

// Envoy is a running Envoy.
type Envoy struct {
	cmd       *exec.Cmd
	exited    chan struct{} // closed when the process has ended
	admin     string        // URL
	log       string        // path
	listeners map[string]netip.AddrPort
}

// startEnvoy starts an Envoy and waits until it is ready. Call Stop.
func startEnvoy(ctx context.Context, c envoyConfig) (*Envoy, error) {
	config, err := c.Bootstrap()
	if err != nil {
		return nil, err
	}
	return StartEnvoy(ctx, Start{Envoy: c.Envoy, Dir: c.Dir, Config: config, Concurrency: c.Concurrency})
}

// Start describes an Envoy to start.
type Start struct {
	// Envoy is the path of the program, Dir an existing directory for its
	// configuration and log.
	Envoy, Dir string
	// Config is the configuration, YAML or JSON. Its admin interface has port 0.
	Config []byte
	// Concurrency is the number of worker threads; 0 means 1.
	Concurrency int
	// Under is a command that runs Envoy, which is appended to it; nil for none.
	Under []string
}

// StartEnvoy starts an Envoy and waits until it is ready. Call Stop.
func StartEnvoy(ctx context.Context, s Start) (*Envoy, error) {
	configFile, adminFile := filepath.Join(s.Dir, "envoy.yaml"), filepath.Join(s.Dir, "admin")
	if err := os.WriteFile(configFile, s.Config, 0o600); err != nil {
		return nil, fmt.Errorf("write the Envoy configuration: %w", err)
	}
	p := &Envoy{exited: make(chan struct{}), log: filepath.Join(s.Dir, "envoy.log")}
	command := append(slices.Clone(s.Under), s.Envoy, "--config-path", configFile, "--admin-address-path", adminFile,
		"--log-path", p.log, "--log-level", "warning", "--file-flush-interval-msec", "100",
		"--concurrency", strconv.Itoa(max(1, s.Concurrency)), "--use-dynamic-base-id")
	p.cmd = exec.Command(command[0], command[1:]...)
	// A process group of its own, so that Ctrl-C on the terminal does not reach it.
	// It ends with this process.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start Envoy: %w", err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has the result
		close(p.exited)
	}()
	if err := p.awaitReady(ctx, adminFile); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// awaitReady waits until Envoy is live, and reads the addresses of its listeners.
func (p *Envoy) awaitReady(ctx context.Context, adminFile string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := sandbox.Await(ctx, "Envoy to be ready", envoyStartLimit, 20*time.Millisecond, func(ctx context.Context) error {
		if !p.Running() {
			err := fmt.Errorf("start Envoy: it ended: %v\n%s", p.cmd.ProcessState, p.logTail())
			cancel(err)
			return err
		}
		address, err := os.ReadFile(adminFile)
		if err != nil {
			return err
		}
		p.admin = "http://" + strings.TrimSpace(string(address))
		_, err = sandbox.Get(ctx, http.DefaultClient, p.admin+"/ready")
		return err
	})
	if err != nil {
		return err
	}
	p.listeners, err = p.readListeners(ctx)
	return err
}

// Address returns the address of a listener.
func (p *Envoy) Address(listener string) (netip.AddrPort, error) {
	address, ok := p.listeners[listener]
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("find a listener of Envoy: none is named %q", listener)
	}
	return address, nil
}

// PID returns the process ID.
func (p *Envoy) PID() int { return p.cmd.Process.Pid }

// Running reports whether the process is running.
func (p *Envoy) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Stop kills the process and waits for its end. An Envoy that has already ended is an
// error, with the end of its log.
func (p *Envoy) Stop() error {
	if !p.Running() {
		return fmt.Errorf("stop Envoy: it ended early: %v\n%s", p.cmd.ProcessState, p.logTail())
	}
	err := p.cmd.Process.Kill() // it has no state to save
	<-p.exited
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end Envoy: %w", err)
	}
	return nil
}

// Log returns Envoy's log so far (level warning and above).
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

// readListeners reads the addresses of Envoy's listeners.
func (p *Envoy) readListeners(ctx context.Context) (map[string]netip.AddrPort, error) {
	body, err := sandbox.Get(ctx, http.DefaultClient, p.admin+"/listeners?format=json")
	if err != nil {
		return nil, fmt.Errorf("get Envoy's listeners: %w", err)
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

// Counters returns the sum of Envoy's counters whose names end with suffix.
func (p *Envoy) Counters(ctx context.Context, suffix string) (uint64, error) {
	body, err := sandbox.Get(ctx, http.DefaultClient, p.admin+"/stats?usedonly&filter="+url.QueryEscape(suffix+"$"))
	if err != nil {
		return 0, fmt.Errorf("get Envoy's counters %s: %w", suffix, err)
	}
	var sum uint64
	for line := range strings.Lines(string(body)) {
		_, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read Envoy's counter %q for %s: %w", line, suffix, err)
		}
		sum += n
	}
	return sum, nil
}
