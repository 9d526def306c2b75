// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"text/template"

	"github.com/layertrace/layertrace/e2e/sandbox"
)

// CollectorIP is the Collector's address, on the switch. It has Jaeger's ports, for the
// spans of runs with Setup.Collector.
const CollectorIP = "10.10.0.253"

// Destinations are where the Collector sends spans, besides Jaeger; empty for none.
type Destinations struct {
	// Zipkin is the URL of Zipkin's receiver.
	Zipkin string
	// Tempo is an address for OTLP over gRPC.
	Tempo string
	// JSON is a URL that takes OTLP JSON.
	JSON string
}

//go:embed collector.yaml.tmpl
var collectorConfig string

var collectorTemplate = template.Must(template.New("collector").Parse(collectorConfig))

// StartCollector starts an OpenTelemetry Collector on the switch and waits until it
// accepts connections. Down ends it.
func (l *Lab) StartCollector(ctx context.Context, program string, to Destinations) error {
	path := filepath.Join(l.options.Dir, "collector.yaml")
	err := writeCollectorConfig(path, collectorTemplate, map[string]any{
		"IP": CollectorIP, "JaegerIP": InfraIP, "OTLP": JaegerOTLPPort, "Zipkin": JaegerZipkinPort, "To": to,
	})
	if err != nil {
		return err
	}
	if err := l.network.infra.AddAddress(SwitchBridge, CollectorIP+"/24"); err != nil {
		return err
	}
	collector, err := sandbox.Start(sandbox.Spec{
		Name: "collector", Path: program, Args: []string{"--config", path},
		Namespace: l.network.infra, Cgroup: l.groups["infra"],
		Stderr: filepath.Join(l.options.Dir, "collector.log"),
	})
	if err != nil {
		return err
	}
	return l.ready(ctx, collector, func(ctx context.Context) error {
		for _, port := range []int{JaegerOTLPPort, JaegerZipkinPort} {
			connection, err := l.network.infra.DialContext(ctx, "tcp", net.JoinHostPort(CollectorIP, strconv.Itoa(port)))
			if err != nil {
				return err
			}
			_ = connection.Close() // it was only a trial
		}
		return nil
	})
}

func writeCollectorConfig(path string, from *template.Template, values map[string]any) error {
	var config bytes.Buffer
	err := from.Execute(&config, values)
	if err == nil {
		err = os.WriteFile(path, config.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the Collector's configuration: %w", err)
	}
	return nil
}

// collectorIP is where agents and Envoys of a setup send their spans.
func (s Setup) collectorIP() string {
	if s.Collector {
		return CollectorIP
	}
	return InfraIP
}
