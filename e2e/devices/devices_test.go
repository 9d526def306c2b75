// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"flag"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
)

var frontPages = flag.Int("front-pages", 300, "number of front page requests in each test")

var interrupted context.Context // ends on Ctrl-C

var shared *lab.Lab

func TestMain(m *testing.M) {
	testrun.Main(m, &interrupted, func() error {
		if shared == nil {
			return nil
		}
		return shared.Down()
	})
}

// theLab returns the lab that all tests share.
func theLab(t *testing.T) *lab.Lab {
	t.Helper()
	testrun.Needs(t, "the lab")
	if shared != nil {
		return shared
	}
	tools, err := provision.Tools(interrupted, testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	shared, err = lab.Up(interrupted, lab.Options{
		Name: "devicestest", Dir: testrun.Out(t, "devices-test-lab"), Tools: tools, Progress: testrun.Report, Devices: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return shared
}

func check(t *testing.T, o Options) Result {
	t.Helper()
	o.Requests, o.Connections = *frontPages, 8
	r, err := Check(interrupted, theLab(t), o, testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests, %d of %d passages seen, %d without option, %v", r.Requests, r.Seen, r.Expected, r.Unmarked, r.Sightings)
	if err := r.Exact(); err != nil {
		t.Error(err)
	}
	return r
}

// TestTwoDevices: each passage of a request through two devices has one span, in the right
// trace, in both layouts of the option and for both tracers.
func TestTwoDevices(t *testing.T) {
	check(t, Options{Layout: "compact", Tracer: lab.Zipkin})
	check(t, Options{Layout: "paper", Tracer: lab.OpenTelemetry})
}

// TestAddressTranslation: a device that translates the addresses of client and server sees a
// connection under two pairs of addresses, and the next device under the second. All are joined.
func TestAddressTranslation(t *testing.T) {
	back, err := theLab(t).Translate()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	}()
	check(t, Options{Layout: "compact", Tracer: lab.Zipkin, Translated: true})
}

// TestOneWay: where routes are not symmetric, a device sees one message of an exchange, and has
// a span of that one.
func TestOneWay(t *testing.T) {
	node, back, err := theLab(t).Bypass()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	}()
	o := Options{Layout: "compact", Tracer: lab.Zipkin}
	o.OneWay.Device, o.OneWay.Node = lab.Devices[0].Name, node
	check(t, o)
}

// TestRestart: a device's agent that is stopped, or killed, while requests pass, and starts
// again, has no span that is wrong, doubled, or of one way only. What it did not see is
// missing, at its own interfaces.
func TestRestart(t *testing.T) {
	o := Options{Layout: "compact", Tracer: lab.Zipkin, Requests: 5 * *frontPages, Connections: 8} // some still come after a restart
	for _, crash := range []bool{false, true} {
		o.During = append(o.During, func(ctx context.Context, run *lab.Run) error {
			return run.RestartDevice(ctx, lab.Devices[0], crash)
		})
	}
	r, err := Check(interrupted, theLab(t), o, testrun.Report)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d passages seen, %v", r.Seen, r.Expected, r.Sightings)
	if err := r.NeverWrong(); err != nil {
		t.Error(err)
	}
	for point, missing := range r.MissingAt {
		if !strings.HasPrefix(point, lab.Devices[0].Name+"_") {
			t.Errorf("%d passages are missing at %s, whose agent ran", missing, point)
		}
	}
}
