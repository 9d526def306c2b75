// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Of a device's agent everything is refused that needs more than headers.
func TestHeadersOnly(t *testing.T) {
	if c, err := load(t, []string{"--headers-only", "--pnic=eth0,eth1"}, nil, ""); err != nil || !c.HeadersOnly {
		t.Errorf("%+v, %v", c, err)
	}
	for args, want := range map[string]string{
		"--vnic=veth0":           "--vnic",
		"--pnic=":                "--pnic is empty",
		"--spans=layers":         "--spans=layers",
		"--tcp-option=compact":   "--tcp-option",
		"--kubernetes":           "--kubernetes",
		"--cpu-limit=1":          "--cpu-limit",
		"--deep":                 "--deep",
		"--context-format=b3":    "--context-format",
		"--context-header=x=w3c": "--context-header",
		"--socket-cgroup=auto":   "--spans=layers",
		"--tcp-option-cgroup=/a --tcp-option=paper": "devices only read options",
	} {
		if _, err := load(t, append([]string{"--headers-only"}, strings.Fields(args)...), nil, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func joinOf(args ...string) (*Join, error) {
	fs := pflag.NewFlagSet("join", pflag.ContinueOnError)
	j := DefineJoin(fs)
	if err := fs.Parse(args); err != nil {
		return j, err
	}
	return j, j.Validate()
}

func TestJoinSettings(t *testing.T) {
	j, err := joinOf()
	if err != nil || j.OTLPEndpoint != "localhost:4317" || j.MetricsAddress != "127.0.0.1:9465" {
		t.Errorf("%+v, %v", j, err)
	}
	for args, want := range map[string]string{
		"--listen=":                      "both empty",
		"--listen=4327":                  "ADDRESS:PORT",
		"--listen-http=here":             "ADDRESS:PORT",
		"--wait=0s":                      "--wait",
		"--sighting-wait=1s":             "less than --wait",
		"--max-exchanges=0":              "--max-exchanges",
		"--max-sightings=-1":             "--max-sightings",
		"--export=stdout":                "join needs otlp-grpc or otlp-http",
		"--export=none":                  "join needs otlp-grpc or otlp-http",
		"--export=otlp-http,otlp-grpc":   "one of",
		"--otlp-endpoint=http://a:4317/": "HOST:PORT",
		"--metrics-address=9465":         "HOST:PORT",
	} {
		if _, err := joinOf(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// docs/devices.md lists the flags of join's own section with their defaults.
func TestDocumentationListsJoinSettings(t *testing.T) {
	page, err := os.ReadFile("../../../docs/devices.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\| (?:`([^`]*)`)? *\\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2]
	}
	fs := pflag.NewFlagSet("join", pflag.ContinueOnError)
	(&Join{}).define(fs)
	fs.VisitAll(func(f *pflag.Flag) {
		if got, ok := documented[f.Name]; !ok || got != f.DefValue {
			t.Errorf("docs/devices.md has %q for --%s, want %q", got, f.Name, f.DefValue)
		}
		delete(documented, f.Name)
	})
	if len(documented) > 0 {
		t.Errorf("docs/devices.md lists %v, which are not flags", documented)
	}
}
