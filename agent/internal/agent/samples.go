// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/layertrace/layertrace/agent/internal/status"
	"github.com/layertrace/layertrace/internal/observe"
)

// samples are the counts of what came from the probe and what became of it.
func (d *delivery) samples() ([]status.Sample, error) {
	const handled = "Exchanges of watched interfaces and sockets, which went on to the chosen exports."
	counter := func(name, help string, v uint64) status.Sample {
		return status.Sample{Name: name, Help: help, Value: float64(v)}
	}
	role := func(kind observe.Kind, v uint64) status.Sample {
		return status.Sample{Name: "exchanges_handled", Help: handled, Value: float64(v), Label: "role", LabelValue: string(kind)}
	}
	samples := []status.Sample{
		counter("exchanges_name_waits", "Exchanges that waited because names might be known soon.", d.hold.held.Load()),
		counter("exchanges_name_wait_full", "Exchanges that would have waited for names, but too many did.", d.hold.full.Load()),
		role(observe.KindVNIC, d.vnic.Load()), role(observe.KindPNIC, d.pnic.Load()), role(observe.KindSocket, d.socket.Load()),
		counter("exchanges_unknown_interface", "Exchanges of an interface that is not watched, left out.", d.stray.Load()),
		counter("exchanges_unnamed", "Exchanges at a virtual interface or socket whose workload is not known; the node stands for it.", d.unnamed.Load()),
		counter("exchanges_invalid", "Exchanges without a valid trace context or time, not made spans.", d.invalid.Load()),
	}
	if d.lines != nil {
		written, failed := d.lines.Counts()
		samples = append(samples,
			counter("lines_written", "Exchanges written to stdout.", written),
			counter("lines_failed", "Exchanges that could not be written to stdout.", failed))
	}
	if d.layers != nil {
		more, err := d.layers.samples()
		if err != nil {
			return nil, err
		}
		samples = append(samples, more...)
	}
	if d.queue == nil {
		return samples, nil
	}
	const droppedHelp = "Spans that were dropped."
	dropped := func(reason string, v uint64) status.Sample {
		return status.Sample{Name: "spans_dropped", Help: droppedHelp, Value: float64(v), Label: "reason", LabelValue: reason}
	}
	c := d.queue.Counters()
	return append(samples,
		counter("spans_accepted", "Spans made: the sum of exported, failed, dropped and queued ones.", c.Accepted),
		counter("spans_exported", "Spans that the receiver took.", c.Exported),
		counter("spans_failed", "Spans that the receiver refused, or that were tried for too long.", c.Failed),
		dropped("queue_full", c.DroppedQueueFull), dropped("shutdown", c.DroppedShutdown),
		status.Sample{Name: "spans_queued", Help: "Spans that wait or are being sent.", Gauge: true, Value: float64(c.Queued)}), nil
}

// build is the version as a metric.
func build(version string) status.Source {
	return func() ([]status.Sample, error) {
		return []status.Sample{{Name: "build_info", Help: "The version that runs.", Gauge: true, Value: 1, Label: "version", LabelValue: version}}, nil
	}
}

// readiness is what /readyz answers as a metric.
func readiness(ready status.Ready) status.Source {
	return func() ([]status.Sample, error) {
		sample := status.Sample{Name: "ready", Help: "1 when the agent does all of its work, as /readyz says.", Gauge: true}
		if _, err := ready(); err == nil {
			sample.Value = 1
		}
		return []status.Sample{sample}, nil
	}
}
