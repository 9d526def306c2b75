// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/probe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

// load reads settings as the command does: arguments, environment, file content.
func load(t *testing.T, args, environ []string, file string) (*Config, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", name}, args...)
	}
	fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	c := Define(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return c, Load(fs, c, environ)
}

func TestPrecedence(t *testing.T) {
	const file = "queue-size: 100\nports: [1, 2]\ndeep: true\nvnic: 'cali*'\n"
	env := []string{"LAYERTRACE_QUEUE_SIZE=200", "LAYERTRACE_PORTS=3,4", "HOME=/"}
	for _, test := range []struct {
		name  string
		args  []string
		env   []string
		file  string
		queue int
		ports []uint16
		vnic  []string
	}{
		{"default", nil, nil, "", 8192, []uint16{}, []string{"kind:veth"}},
		{"file", nil, nil, file, 100, []uint16{1, 2}, []string{"cali*"}},
		{"environment over file", nil, env, file, 200, []uint16{3, 4}, []string{"cali*"}},
		{"flag over environment", []string{"--queue-size=300", "--ports=5"}, env, file, 300, []uint16{5}, []string{"cali*"}},
		{"repeated flag", []string{"--ports=5,6", "--ports=7"}, nil, "", 8192, []uint16{5, 6, 7}, []string{"kind:veth"}},
		{"empty list", []string{"--vnic="}, nil, "", 8192, []uint16{}, []string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := load(t, test.args, test.env, test.file)
			if err != nil {
				t.Fatal(err)
			}
			if c.QueueSize != test.queue {
				t.Errorf("queue-size %d, want %d", c.QueueSize, test.queue)
			}
			if !reflect.DeepEqual(c.Ports, test.ports) {
				t.Errorf("ports %v, want %v", c.Ports, test.ports)
			}
			if !reflect.DeepEqual(c.VNIC, test.vnic) {
				t.Errorf("vnic %v, want %v", c.VNIC, test.vnic)
			}
		})
	}
}

// Deep was a bool: its values mean what they did.
func TestDeep(t *testing.T) {
	for want, tests := range map[probe.DeepMode][]struct{ args, env, file string }{
		probe.DeepAuto: {{}, {"--deep=auto", "", "deep: true"}, {"", "LAYERTRACE_DEEP=auto", ""}, {"", "", "deep: auto"}},
		probe.DeepOn:   {{"--deep", "", ""}, {"--deep=true", "", ""}, {"", "LAYERTRACE_DEEP=true", "deep: false"}, {"", "", "deep: true"}},
		probe.DeepOff:  {{"--deep=false", "", "deep: true"}, {"", "LAYERTRACE_DEEP=false", ""}, {"", "", "deep: 'false'"}},
	} {
		for _, test := range tests {
			c, err := load(t, strings.Fields(test.args), strings.Fields(test.env), test.file)
			if err != nil || c.Deep != want {
				t.Errorf("%+v: %v, deep %q, want %q", test, err, c.Deep, want)
			}
		}
	}
}

// The files in FILE.d are parts of it: a later one overrides an earlier one, the file
// overrides both. $(NAME) is a variable.
func TestParts(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "config.yaml.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"config.yaml":            "queue-size: 1\n",
		"config.yaml.d/a.yaml":   "queue-size: 2\nring-bytes: 4096\nmode: tcx\nmtls: true\naccess-log-address: '[$(HOST_IP)]:4327'\n",
		"config.yaml.d/b.yaml":   "ring-bytes: 8192\npnic: ['$(CARD)', '$HOME', 'e(x)']\n",
		"config.yaml.d/a.yaml.0": "no settings",
		"config.old.yaml":        "no settings",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{"HOST_IP=192.0.2.1", "CARD=eth0", "HOME=/"}
	read := func(environ ...string) (*Config, error) {
		fs := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		c := Define(fs)
		if err := fs.Parse([]string{"--config", filepath.Join(dir, "config.yaml")}); err != nil {
			t.Fatal(err)
		}
		return c, Load(fs, c, environ)
	}
	c, err := read(environ...)
	if err != nil {
		t.Fatal(err)
	}
	if c.QueueSize != 1 || c.RingBytes != 8192 || c.Mode != probe.ModeTCX || !c.MTLS || c.AccessLogAddress != "[192.0.2.1]:4327" ||
		!reflect.DeepEqual(c.PNIC, []string{"eth0", "$HOME", "e(x)"}) {
		t.Errorf("got %+v", c)
	}
	if c, err := read(append(environ, "LAYERTRACE_MTLS=false")...); err != nil || c.MTLS {
		t.Errorf("the environment does not override a part: %v", err)
	}
	_, err = read("CARD=eth0")
	if want := `config.yaml.d/a.yaml: key "access-log-address": the environment has no variable HOST_IP`; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Every kind of value works in the file and in the environment.
func TestValues(t *testing.T) {
	fromFile := `
context-header: [x-trace=w3c, X-Other=skywalking]
context-format: [b3, w3c]
trusted-prefix: [10.1.2.3, 10.244.1.1/16]
idle-timeout: 500ms
ring-bytes: 1048576
otlp-insecure: true
otlp-header: "authorization=Bearer a=b"
export: [otlp-grpc, stdout]
mode: clsact
`
	fromEnv := []string{
		"LAYERTRACE_CONTEXT_HEADER=x-trace=w3c,X-Other=skywalking", "LAYERTRACE_CONTEXT_FORMAT=b3,w3c", "LAYERTRACE_TRUSTED_PREFIX=10.1.2.3,10.244.1.1/16",
		"LAYERTRACE_IDLE_TIMEOUT=500ms", "LAYERTRACE_RING_BYTES=1048576", "LAYERTRACE_OTLP_INSECURE=true",
		"LAYERTRACE_OTLP_HEADER=authorization=Bearer a=b", "LAYERTRACE_EXPORT=otlp-grpc,stdout", "LAYERTRACE_MODE=clsact",
	}
	for name, source := range map[string]struct {
		env  []string
		file string
	}{"file": {nil, fromFile}, "environment": {fromEnv, ""}} {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, nil, source.env, source.file)
			if err != nil {
				t.Fatal(err)
			}
			headers := []tracecontext.ContextHeader{{Name: "x-trace", Format: tracecontext.FormatW3C}, {Name: "X-Other", Format: tracecontext.FormatSkyWalking}}
			if !reflect.DeepEqual(c.ContextHeaders, headers) {
				t.Errorf("context-header %v, want %v", c.ContextHeaders, headers)
			}
			if want := []tracecontext.Format{tracecontext.FormatB3, tracecontext.FormatW3C}; !reflect.DeepEqual(c.ContextFormats, want) {
				t.Errorf("context-format %v, want %v", c.ContextFormats, want)
			}
			if got := c.TrustedPrefixes[0].String() + " " + c.TrustedPrefixes[1].String(); got != "10.1.2.3/32 10.244.0.0/16" {
				t.Errorf("trusted-prefix %s", got)
			}
			if c.IdleTimeout != 500*time.Millisecond || c.RingBytes != 1<<20 || !c.OTLPInsecure || c.Mode != "clsact" {
				t.Errorf("read %+v", c)
			}
			if want := []KeyValue{{"authorization", "Bearer a=b"}}; !reflect.DeepEqual(c.OTLPHeaders, want) {
				t.Errorf("otlp-header %v, want %v", c.OTLPHeaders, want)
			}
			if !c.Exports(ExportStdout) || !c.Exports(ExportOTLPGRPC) || c.OTLPEndpoint != "localhost:4317" {
				t.Errorf("export %v to %s", c.Export, c.OTLPEndpoint)
			}
		})
	}
}

func TestConfigFileFromEnvironment(t *testing.T) {
	name := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(name, []byte("node: n7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, nil, []string{"LAYERTRACE_CONFIG=" + name}, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Node != "n7" {
		t.Errorf("node %q, want n7", c.Node)
	}
}

// Variables that Kubernetes sets for a Service named layertrace are not settings.
func TestServiceLinksAreNoSettings(t *testing.T) {
	_, err := load(t, nil, []string{
		"LAYERTRACE_SERVICE_HOST=10.0.0.1", "LAYERTRACE_SERVICE_PORT=80", "LAYERTRACE_SERVICE_PORT_HTTP=80",
		"LAYERTRACE_PORT=tcp://10.0.0.1:80", "LAYERTRACE_PORT_80_TCP=tcp://10.0.0.1:80", "LAYERTRACE_PORT_80_TCP_ADDR=10.0.0.1",
		"LAYERTRACE_AGENT_SERVICE_HOST=10.0.0.1", "LAYERTRACE_AGENT_PORT_80_TCP_PROTO=tcp",
	}, "")
	if err != nil {
		t.Error(err)
	}
}

// Without the setting, spans go in clear only to this machine and to services of the cluster.
func TestEndpointsWithoutTLS(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"": true, "localhost:4317": true, "127.0.0.1:4317": true, "[::1]:4317": true,
		"collector.monitoring.svc:4317": true, "collector.monitoring.svc.cluster.local.:4317": true,
		"10.0.0.9:4317": false, "otlp.example.org:4317": false, "[2001:db8::1]:4317": false, "svc.example.org:443": false,
	} {
		if got := isNear(endpoint, true); got != want {
			t.Errorf("%q: %v", endpoint, got)
		}
	}
	for _, inCluster := range []bool{false, true} {
		if got := isNear("collector:4317", inCluster); got != inCluster {
			t.Errorf("a name without a dot, in a cluster %v: %v", inCluster, got)
		}
	}
}
