// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/testkit"
)

// fakeDevice is the kernel side of a device without a kernel.
type fakeDevice struct {
	*fakeProbe
	sightings chan observe.Sighting
	flush     []observe.Sighting
}

func (d *fakeDevice) Sightings() <-chan observe.Sighting { return d.sightings }

func (d *fakeDevice) Run(ctx context.Context) error {
	<-ctx.Done()
	for _, s := range d.flush {
		d.sightings <- s
	}
	close(d.sightings)
	return nil
}

func (*fakeDevice) Describe(chan<- *prometheus.Desc) {}
func (*fakeDevice) Collect(chan<- prometheus.Metric) {}

func newSighting(ifindex int, start uint32) observe.Sighting {
	return observe.Sighting{
		Interface: ifindex, Direction: observe.DirectionIngress,
		Source: netip.MustParseAddrPort("10.0.0.1:40000"), Destination: netip.MustParseAddrPort("10.0.0.2:9080"),
		ConnectionID: []byte{1, 2, 3, 4}, OptionTime: 7, Start: start, End: start + 100, First: 1e9, Last: 1e9 + 5, Packets: 1,
	}
}

// From the device's sightings to the receiver, the lines and the metrics, and a shutdown that
// loses nothing.
func TestRunDevice(t *testing.T) {
	device := &fakeDevice{newFakeProbe(), make(chan observe.Sighting, 16), []observe.Sighting{newSighting(loopback, 9000)}}
	receiver := &testkit.Receiver{}
	opts := options(t, device.fakeProbe, "--export=otlp-grpc,stdout", "--otlp-insecure", "--otlp-endpoint="+receiver.Serve(t, "127.0.0.1:0"))
	opts.Config.PNIC = []string{"lo"}
	var lines bytes.Buffer
	opts.Stdout = &lines
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- RunDevice(ctx, opts, func(*config.Config, *slog.Logger) (Device, error) { return device, nil })
	}()
	testkit.Eventually(t, "the agent is ready", func() bool { code, _ := get(t, opts.Config.MetricsAddress, "/readyz"); return code == http.StatusOK })
	if !device.attachedTo(loopback) {
		t.Error("ready without being attached")
	}
	device.sightings <- newSighting(loopback, 1000)
	device.sightings <- newSighting(999, 1000) // of no watched interface
	testkit.Eventually(t, "both are counted", func() bool {
		_, metrics := get(t, opts.Config.MetricsAddress, "/metrics")
		return strings.Contains(metrics, "layertrace_sightings_unknown_interface_total 1\n") && strings.Contains(metrics, "layertrace_sightings_handled_total 1\n")
	})
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	spans := receiver.Spans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	for _, s := range spans {
		texts := receiver.Texts(s)
		if s.GetName() != "sighting" || texts["layertrace.connection_id"] != "01020304" || texts["host.name"] != "node2" ||
			texts["layertrace.capture_point.kind"] != "device" || texts["network.interface.name"] != "lo" {
			t.Errorf("span %s: %v", s.GetName(), texts)
		}
	}
	var line struct {
		Device       string
		ConnectionID string `json:"connection_id"`
		Seq          uint32
	}
	first, _, _ := bytes.Cut(lines.Bytes(), []byte("\n"))
	if err := json.Unmarshal(first, &line); err != nil || line.Device != "node2" || line.ConnectionID != "01020304" || line.Seq != 1000 {
		t.Errorf("line %s: %v", first, err)
	}
}
