// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/internal/flaghelp"
)

// Join holds the settings of `layertrace join`, described in docs/devices.md. The fields are
// named like the flags.
type Join struct {
	Listen, ListenHTTP string // addresses; empty: none
	Wait, SightingWait time.Duration
	MaxExchanges       int
	MaxSightings       int
	Forward            bool

	Config // of which it has the flags of the sections Export and Agent
}

// DefineJoin adds the flags of `layertrace join` to fs and returns the Join that they set.
func DefineJoin(fs *pflag.FlagSet) *Join {
	j := &Join{}
	for _, s := range []struct {
		title  string
		define func(*pflag.FlagSet)
	}{
		{"Join", j.define},
		{"Export", func(fs *pflag.FlagSet) { defineExport(fs, &j.Config) }},
		{"Process", func(fs *pflag.FlagSet) { defineAgent(fs, &j.Config) }},
	} {
		part := pflag.NewFlagSet(s.title, pflag.ContinueOnError)
		part.SortFlags = false
		s.define(part)
		flaghelp.SetSection(part, s.title)
		fs.AddFlagSet(part)
	}
	metrics := fs.Lookup("metrics-address")
	metrics.DefValue = "127.0.0.1:9465" // an agent may run here too
	j.MetricsAddress = metrics.DefValue
	return j
}

func (j *Join) define(fs *pflag.FlagSet) {
	fs.StringVar(&j.Listen, "listen", "127.0.0.1:4327", "`ADDRESS` of the OTLP receiver over gRPC; empty: off")
	fs.StringVar(&j.ListenHTTP, "listen-http", "", "`ADDRESS` of the OTLP receiver over HTTP; empty: off")
	fs.DurationVar(&j.Wait, "wait", 10*time.Second, "`TIME` that an exchange waits for sightings after its first span came")
	fs.DurationVar(&j.SightingWait, "sighting-wait", time.Minute, "`TIME` that a sighting waits for the spans of its exchange, which come when that has ended")
	fs.IntVar(&j.MaxExchanges, "max-exchanges", 131072, "keep at most `N` exchanges, some 1 KB each")
	fs.IntVar(&j.MaxSightings, "max-sightings", 524288, "keep at most `N` sightings, some 0.5 KB each")
	fs.BoolVar(&j.Forward, "forward", false, "send the agents' spans on to the same receiver, for a setup without a Collector")
}

// Complete sets what depends on flags that were not given. fs has been parsed.
func (j *Join) Complete(fs *pflag.FlagSet) {
	if !fs.Changed(insecureFlag) {
		j.OTLPInsecure = isNear(j.OTLPEndpoint, false)
	}
}

// Validate checks the settings. Errors name the flag.
func (j *Join) Validate() error {
	if j.Listen == "" && j.ListenHTTP == "" {
		return fmt.Errorf("--listen and --listen-http are both empty: set one, such as --listen 0.0.0.0:4327")
	}
	for flag, address := range map[string]string{"listen": j.Listen, "listen-http": j.ListenHTTP} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			return fmt.Errorf("--%s %q: choose ADDRESS:PORT, such as 0.0.0.0:4327", flag, address)
		}
	}
	for flag, d := range map[string]time.Duration{"wait": j.Wait, "sighting-wait": j.SightingWait, "shutdown-timeout": j.ShutdownTimeout} {
		if d <= 0 {
			return fmt.Errorf("--%s is %v: choose a time above 0, such as 10s", flag, d)
		}
	}
	if j.SightingWait < j.Wait {
		return fmt.Errorf("--sighting-wait is %v, less than --wait (%v): a sighting has to wait at least as long as its exchange", j.SightingWait, j.Wait)
	}
	for flag, n := range map[string]int{"max-exchanges": j.MaxExchanges, "max-sightings": j.MaxSightings, "queue-size": j.QueueSize} {
		if n < 1 || n > 1<<26 {
			return fmt.Errorf("--%s is %d: choose 1 to %d", flag, n, 1<<26)
		}
	}
	if j.Exports(ExportStdout) || j.Exports(exportNone) {
		return fmt.Errorf("--export %v: join needs otlp-grpc or otlp-http", j.Export)
	}
	if err := j.validateExport(); err != nil {
		return err
	}
	return j.validateMetrics()
}

// HeaderMap returns the headers of each OTLP request.
func (c *Config) HeaderMap() map[string]string {
	headers := map[string]string{}
	for _, h := range c.OTLPHeaders {
		headers[h.Key] = h.Value
	}
	return headers
}
