// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/measure"
)

// watched is the node at whose physical interface packets are captured.
const watched = 4

// For each layout of the TCP option: nothing is missed, every exchange carries
// its connection's ID, the bytes on the wire are those of docs/tcp-options.md,
// and `layertrace decode` reads from the packets what the agent reported.
func TestTCPOption(t *testing.T) {
	for _, layout := range []struct {
		name string
		id   int // bytes
		read func(segment) (option, error)
	}{
		{"off", 0, readNone}, {"compact", 8, readCompact}, {"paper", 4, readPaper},
	} {
		t.Run(layout.name, func(t *testing.T) {
			l := theLab(t)
			setup := measure.Reordered(lab.OpenTelemetry)
			setup.Name, setup.TCPOption = "option-"+layout.name, layout.name
			run := start(t, l, setup)
			file := filepath.Join(t.TempDir(), "node.pcap")
			capture, err := l.CapturePackets(interrupted, watched, lab.PNIC, file)
			if err != nil {
				t.Fatal(err)
			}
			send(t, l, lab.Load{Requests: 300})
			if err := run.Drain(interrupted); err != nil {
				t.Fatal(err)
			}
			hops := stop(t, run)
			if err := capture.Stop(interrupted); err != nil {
				t.Fatal(err)
			}
			points, err := measure.Compare(l, run, hops)
			if err != nil {
				t.Fatal(err)
			}
			exact(t, points)
			ids := checkWire(t, file, layout.read)
			checkConnectionIDs(t, l, run, layout.id, ids)
			checkDecode(t, l, run, file)
		})
	}
}

// checkWire reads the option off every packet on which it should be, and
// returns the connection IDs by client and server.
func checkWire(t *testing.T, file string, read func(segment) (option, error)) map[string]string {
	t.Helper()
	ids, starts := map[string]string{}, 0
	owner := map[string]string{}
	type start struct {
		from, to netip.AddrPort
		seq      uint32
	}
	seen := map[start]bool{}
	for _, s := range readSegments(t, file) {
		// What is sent again (nothing is lost here, but a busy machine
		// acknowledges late) goes without; docs/tcp-options.md.
		if again := (start{s.from, s.to, s.seq}); s.syn || len(s.payload) > 0 {
			if seen[again] && len(s.experimental()) == 0 {
				continue
			}
			seen[again] = true
		}
		o, err := read(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if !s.beginsMessage() && !s.syn {
			continue
		}
		starts++
		connection, id := s.connection(), hex.EncodeToString(o.id)
		if before, known := ids[connection]; known && before != id {
			t.Fatalf("%s: connection ID %q, before %q", s, id, before)
		}
		if other, taken := owner[id]; taken && other != connection && id != "" {
			t.Fatalf("connections %s and %s have the same ID %q", connection, other, id)
		}
		ids[connection], owner[id] = id, connection
	}
	t.Logf("%d SYNs and first segments on %d connections", starts, len(ids))
	if starts < 6*300 { // three requests and three responses per front page
		t.Errorf("only %d SYNs and first segments captured", starts)
	}
	return ids
}

// checkConnectionIDs checks that every exchange that an agent reported carries
// an ID of the right size, on the captured interface the one on the wire.
func checkConnectionIDs(t *testing.T, l *lab.Lab, run *lab.Run, size int, wire map[string]string) {
	t.Helper()
	for _, node := range lab.Nodes {
		if node == lab.ClientNode {
			continue
		}
		exchanges, err := measure.NodeExchanges(run, node)
		if err != nil {
			t.Fatal(err)
		}
		names, err := l.InterfaceNames(node)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range exchanges {
			what := fmt.Sprintf("%s %s: %v -> %v", lab.NodeName(node), names[x.Interface], x.Client, x.Server)
			if len(x.ConnectionID) != size {
				t.Fatalf("%s: connection ID %q, want %d bytes", what, x.ConnectionIDHex(), size)
			}
			id, captured := wire[x.Client.String()+"-"+x.Server.String()]
			if node == watched && names[x.Interface] == lab.PNIC && (!captured || id != x.ConnectionIDHex()) {
				t.Fatalf("%s: connection ID %q, on the wire %q", what, x.ConnectionIDHex(), id)
			}
		}
	}
}
