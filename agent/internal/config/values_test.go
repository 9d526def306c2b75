// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"
)

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name      string
		args, env []string
		file      string
		want      string // part of the message
	}{
		{"unknown key", nil, nil, "metrics-adress: x", `unknown key "metrics-adress"; did you mean metrics-address?`},
		{"far off key", nil, nil, "colour: x", "see layertrace agent --help"},
		{"unknown variable", nil, []string{"LAYERTRACE_QUEU_SIZE=1"}, "", "LAYERTRACE_QUEU_SIZE; did you mean LAYERTRACE_QUEUE_SIZE?"},
		{"lower case variable", nil, []string{"LAYERTRACE_queue_size=1"}, "", "did you mean LAYERTRACE_QUEUE_SIZE?"},
		{"duplicate key", nil, nil, "deep: true\ndeep: false", `"deep" already set`},
		{"no YAML", nil, nil, "a: b: c", "not a valid YAML"},
		{"map as value", nil, nil, "deep: {a: b}", `key "deep"`},
		{"key without value", nil, nil, "deep:", "no value"},
		{"list for one value", nil, nil, "mode: [tcx]", "mode takes one value"},
		{"config in the file", nil, nil, "config: x", "not allowed in the file"},
		{"bad number", nil, []string{"LAYERTRACE_QUEUE_SIZE=many"}, "", "environment variable LAYERTRACE_QUEUE_SIZE"},
		{"bad choice", []string{"--mode=tcxx"}, nil, "", "did you mean tcx?"},
		{"bad port", nil, nil, "ports: [80, 99999]", `"99999" is not a TCP port`},
		{"bad prefix", []string{"--trusted-prefix=10.0.0.0/33"}, nil, "", "not an address or prefix"},
		{"bad context format", []string{"--context-header=x=b3multi"}, nil, "", `format "b3multi"`},
		{"long context name", []string{"--context-header=" + strings.Repeat("x", 32) + "=w3c"}, nil, "", "1 to 31 bytes"},
		{"five context names", []string{"--context-header=a=b3,b=b3,c=b3,d=b3,e=b3"}, nil, "", "at most 4"},
		{"ring of no power of two", []string{"--ring-bytes=5000000"}, nil, "", "power of two"},
		{"small ring", []string{"--ring-bytes=2048"}, nil, "", "power of two from 4096"},
		{"large ring", []string{"--ring-bytes=2147483648"}, nil, "", "power of two from 4096"},
		{"negative time", []string{"--open-span-after=-1s"}, nil, "", "--open-span-after"},
		{"more CPUs than there are", []string{"--cpu-limit=100000"}, nil, "", "--cpu-limit"},
		{"negative CPUs", []string{"--cpu-limit=-1"}, nil, "", "0 for no limit"},
		{"too little for an idle agent", []string{"--cpu-limit=0.001"}, nil, "", "choose 0.02 to"},
		{"no number of CPUs", []string{"--cpu-limit=NaN"}, nil, "", "--cpu-limit"},
		{"timeout of 0", []string{"--idle-timeout=0s"}, nil, "", "--idle-timeout"},
		{"read interval of 0", []string{"--read-interval=0s"}, nil, "", "--read-interval"},
		{"bad pattern", []string{"--vnic=veth["}, nil, "", "not a valid pattern"},
		{"no interface", []string{"--vnic=", "--pnic="}, nil, "", "both empty"},
		{"option without cgroup", []string{"--tcp-option=compact"}, nil, "", "--tcp-option-cgroup"},
		{"kubeconfig without kubernetes", []string{"--kubeconfig=x"}, nil, "", "--kubernetes"},
		{"infer without mtls", []string{"--mtls-infer"}, nil, "", "without --mtls"},
		{"mtls ports without mtls", []string{"--mtls-ports=443"}, nil, "", "without --mtls"},
		{"mtls connections without mtls", []string{"--mtls-connections=1000"}, nil, "", "without --mtls"},
		{"mtls turns without mtls", nil, nil, "mtls-turns: 1024", "without --mtls"},
		{"few mtls connections", []string{"--mtls", "--mtls-connections=15"}, nil, "", "choose 16 to 4194304, or 0"},
		{"many mtls connections", []string{"--mtls", "--mtls-connections=4194305"}, nil, "", "choose 16 to 4194304, or 0"},
		{"few turns", []string{"--mtls", "--mtls-turns=512"}, nil, "", "choose 1024 to 16777216"},
		{"many turns", []string{"--mtls", "--mtls-turns=33554432"}, nil, "", "choose 1024 to 16777216"},
		{"turns of no power of two", nil, []string{"LAYERTRACE_MTLS=true", "LAYERTRACE_MTLS_TURNS=65537"}, "", "a power of two, such as 65536"},
		{"infer without sockets", []string{"--mtls", "--mtls-infer"}, nil, "", "--spans=layers"},
		{"mtls without a source", []string{"--mtls", "--access-log-address="}, nil, "", "--access-log-address"},
		{"bad access log address", []string{"--mtls", "--access-log-address=4327"}, nil, "", "HOST:PORT"},
		{"mtls on a device", []string{"--headers-only", "--pnic=eth0", "--mtls"}, nil, "", "--headers-only"},
		{"two OTLPs", []string{"--export=otlp-grpc,otlp-http"}, nil, "", "one of otlp-grpc and otlp-http"},
		{"none and more", []string{"--export=none,stdout"}, nil, "", "none cannot be combined"},
		{"URL for gRPC", []string{"--otlp-endpoint=http://a:1/"}, nil, "", "HOST:PORT"},
		{"no URL for HTTP", []string{"--export=otlp-http", "--otlp-endpoint=a:4318"}, nil, "", "needs a URL"},
		{"too many kept spans", []string{"--keep-spans=32769"}, nil, "", "choose 0 to 32768"},
		{"kept spans that nobody can read", []string{"--keep-spans=1", "--metrics-address="}, nil, "", "--metrics-address"},
		{"kept spans of a device", []string{"--headers-only", "--pnic=eth0", "--keep-spans=1"}, nil, "", "--headers-only"},
		{"bad metrics address", []string{"--metrics-address=9464"}, nil, "", "HOST:PORT"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(t, test.args, test.env, test.file)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want a message with %q", err, test.want)
			}
		})
	}
}

// With layers the default is to look for the cgroup.
func TestSocketCgroup(t *testing.T) {
	for args, want := range map[string][]string{
		"":                                    nil,
		"--spans=layers":                      {SocketCgroupAuto},
		"--spans=layers --socket-cgroup=none": nil,
		"--kubernetes":                        nil,
		"--kubernetes --spans=layers":         {SocketCgroupAuto},
		"--kubernetes --spans=layers --socket-cgroup=/a,/b": {"/a", "/b"},
		"--spans=layers --socket-cgroup=auto":               {SocketCgroupAuto},
	} {
		c, err := load(t, strings.Fields(args), nil, "")
		if err != nil || !slices.Equal(c.SocketCgroups, want) {
			t.Errorf("%q: %v, %v", args, c.SocketCgroups, err)
		}
	}
}

func TestLayersRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--socket-cgroup=auto":                    "--spans=layers",
		"--spans=layers --socket-cgroup=auto,/a":  "cannot be combined",
		"--spans=layers --socket-cgroup=none,/a":  "cannot be combined",
		"--layer-min-duration=20us":               "--spans=layers",
		"--spans=layers --layer-min-duration=-1s": "choose 0 or more",
	} {
		if _, err := load(t, strings.Fields(args), nil, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// VNICDefault is false when any source sets the patterns.
func TestVNICDefault(t *testing.T) {
	for _, test := range []struct {
		args, environ []string
		file          string
		want          bool
	}{
		{nil, nil, "", true},
		{[]string{"--pnic=eth0"}, nil, "", true},
		{[]string{"--vnic=kind:veth"}, nil, "", false},
		{nil, []string{"LAYERTRACE_VNIC=kind:veth"}, "", false},
		{nil, nil, "vnic: [kind:veth]", false},
	} {
		c, err := load(t, test.args, test.environ, test.file)
		if err != nil || c.VNICDefault != test.want {
			t.Errorf("%+v: %v, %v", test, c.VNICDefault, err)
		}
	}
}
