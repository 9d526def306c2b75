// SPDX-License-Identifier: Apache-2.0

package unseen

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const metrics = `# TYPE layertrace_requests_total counter
layertrace_requests_total 5
# TYPE layertrace_connections_unreadable_total counter
layertrace_connections_unreadable_total{kind="tls"} 1
layertrace_connections_unreadable_total{kind="http2"} 0
# TYPE layertrace_packets_encapsulated_total counter
layertrace_packets_encapsulated_total{kind="ipip"} 7
layertrace_packets_encapsulated_total{kind="vxlan"} 120
layertrace_packets_encapsulated_total{kind="esp"} 2
# TYPE layertrace_exchanges_one_way_total counter
layertrace_exchanges_one_way_total{interface="vpod2"} 4
# TYPE layertrace_programs_ahead gauge
layertrace_programs_ahead{hook="tcx-egress",interface="eth0",program="to_the_front"} 1
layertrace_programs_ahead{hook="xdp",interface="eth0",program="lb"} 1
`

// What loses whole interfaces comes first, then the most frequent; each has advice.
func TestRead(t *testing.T) {
	all, err := Read(strings.NewReader(metrics))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		got = append(got, s.String())
		if s.Advice == "" {
			t.Errorf("%v has no advice", s)
		}
	}
	want := []string{
		"BPF program to_the_front ahead at tcx-egress of eth0",
		"BPF program lb ahead at xdp of eth0",
		"4 exchanges without a response that passed elsewhere at vpod2",
		"120 packets in VXLAN",
		"7 packets in IPIP",
		"2 packets in IPsec ESP",
		"1 connection with TLS",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sights (-want +got):\n%s", diff)
	}
	lines := strings.Join(Lines(all), "\n")
	for _, part := range []string{"TCX_NEXT", "drops or redirects", "bpf.hostLegacyRouting=true", "kind:vxlan", "kind:ipip", "encrypted"} {
		if !strings.Contains(lines, part) {
			t.Errorf("no %q in\n%s", part, lines)
		}
	}
}

func TestReadNothing(t *testing.T) {
	for text, ok := range map[string]bool{"": true, "layertrace_requests_total 5\n": true, "no metrics {": false} {
		if all, err := Read(strings.NewReader(text)); len(all) != 0 || (err == nil) != ok {
			t.Errorf("%q: %v, %v", text, all, err)
		}
	}
}

func TestSince(t *testing.T) {
	sights := func(text string) []Sight {
		t.Helper()
		all, err := Read(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := sights(metrics)
	if added := Since(before, before); len(added) != 2 || !added[0].IsProgram() || IsNew(before, added[0]) {
		t.Errorf("added without a change: %v", added)
	}
	now := sights(strings.Replace(metrics, `"vxlan"} 120`, `"vxlan"} 125`, 1))
	if added := Since(before, now); len(added) != 3 || added[2].String() != "5 packets in VXLAN" {
		t.Errorf("added %v", added)
	}
	if added := Since(nil, now); len(added) != len(now) || !IsNew(nil, added[0]) {
		t.Errorf("added to nothing: %v", added)
	}
	restarted := sights(strings.Replace(metrics, `"vxlan"} 120`, `"vxlan"} 3`, 1))
	if added := Since(before, restarted); len(added) != 3 || added[2].Count != 3 {
		t.Errorf("added after a restart: %v", added)
	}
}

// TLS is advised about by what the agent does with it.
func TestAdviceOnTLS(t *testing.T) {
	const followed = "# TYPE layertrace_encrypted_connections_followed_total counter\nlayertrace_encrypted_connections_followed_total 0\n"
	for text, want := range map[string]string{metrics: "--mtls on", metrics + followed: "a proxy reports have spans"} {
		all, err := Read(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if s := all[len(all)-1]; s.Kind != "tls" || !strings.Contains(s.Advice, want) {
			t.Errorf("%+v, want advice with %q", s, want)
		}
	}
}
