// SPDX-License-Identifier: Apache-2.0

// Package unseen has the words for traffic that the agent passes over because it
// cannot read it: the agent's log, `layertrace status` and `layertrace doctor` take
// them from the agent's metrics, and say the same.
package unseen

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Names of the metrics that this package reads.
const (
	connectionsMetric = "layertrace_connections_unreadable_total"
	packetsMetric     = "layertrace_packets_encapsulated_total"
	oneWayMetric      = "layertrace_exchanges_one_way_total"
	// followedMetric exists in an agent with --mtls.
	followedMetric = "layertrace_encrypted_connections_followed_total"
	// ProgramsMetric has a series with value 1 for each program of others that gets
	// packets before ours do.
	ProgramsMetric = "layertrace_programs_ahead"
)

// Sight is one kind of traffic that is not read.
type Sight struct {
	// Kind is tls, http2, the kind of an encapsulation (vxlan, ipip, ...), one_way, or
	// program_ahead.
	Kind string `json:"kind"`
	// Where is the interface of one_way and program_ahead, and the device of an
	// encapsulation that was found without traffic; "" for others.
	Where string `json:"where,omitempty"`
	// Program and Hook are those of program_ahead.
	Program string `json:"program,omitempty"`
	Hook    string `json:"hook,omitempty"`
	// Count is the number of connections (tls, http2), packets (encapsulations) or
	// exchanges (one_way), since the agent started or in a stated time.
	Count float64 `json:"count"`
	// Advice is what it means and what to do.
	Advice string `json:"advice"`
}

// Kinds other than those of the metrics' label.
const (
	oneWay       = "one_way"
	programAhead = "program_ahead"
)

// Read returns what metrics in Prometheus' text format say was not read, by kind.
func Read(text io.Reader) ([]Sight, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("parse metrics: %w", err)
	}
	all := make([]*dto.MetricFamily, 0, len(families))
	for _, f := range families {
		all = append(all, f)
	}
	return Of(all), nil
}

// Of returns what gathered metrics say was not read, in a fixed order: programs ahead,
// one-way interfaces, encapsulated packets, unreadable connections.
func Of(families []*dto.MetricFamily) []Sight {
	all := []Sight{} // JSON readers expect a list
	joins := slices.ContainsFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == followedMetric })
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			s := Sight{Count: m.GetCounter().GetValue() + m.GetGauge().GetValue()}
			switch f.GetName() {
			case connectionsMetric, packetsMetric:
				s.Kind = labels["kind"]
			case oneWayMetric:
				s.Kind, s.Where = oneWay, labels["interface"]
			case ProgramsMetric:
				s.Kind, s.Where, s.Program, s.Hook = programAhead, labels["interface"], labels["program"], labels["hook"]
			default:
				continue
			}
			if s.Count > 0 {
				s = s.advised()
				if s.Kind == "tls" && joins {
					s.Advice = joinedAdvice
				}
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(a, b Sight) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), -cmp.Compare(a.Count, b.Count),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Program, b.Program))
	})
	return all
}

// Ahead is the sight of a program that gets an interface's packets before ours.
func Ahead(where, hook, program string) Sight {
	return Sight{Kind: programAhead, Where: where, Hook: hook, Program: program, Count: 1}.advised()
}

// Device is the sight of a device of an encapsulation: what it carries passes the
// interface below inside of other packets.
func Device(kind, name string) Sight {
	return Sight{Kind: kind, Where: name, Advice: fmt.Sprintf("what it carries is not read at the interface below: add it with --pnic (such as %s), unless it is captured", name)}
}

// Since returns what came in addition to before. Programs ahead stay while they are
// there. The counters of an agent that has started again count from its start.
func Since(before, now []Sight) []Sight {
	added := []Sight{}
	counts := map[Sight]float64{}
	for _, s := range before {
		counts[s.key()] = s.Count
	}
	for _, s := range now {
		if then := counts[s.key()]; s.Kind != programAhead && then <= s.Count {
			s.Count -= then
		}
		if s.Count > 0 {
			added = append(added, s)
		}
	}
	return added
}

// IsNew reports whether s is not among before, whatever its count was.
func IsNew(before []Sight, s Sight) bool {
	return !slices.ContainsFunc(before, func(b Sight) bool { return b.key() == s.key() })
}

// IsProgram reports whether s is a program ahead, which is a state and no count.
func (s Sight) IsProgram() bool { return s.Kind == programAhead }

// IsBlocked reports whether packets that the agent could read probably do not reach it.
// An XDP program is named, but most pass nearly all packets on.
func (s Sight) IsBlocked() bool {
	return s.Kind == oneWay || s.Kind == programAhead && s.Hook != "xdp"
}

// key is s without its count.
func (s Sight) key() Sight {
	s.Count = 0
	return s
}

// String is what was seen, without the advice.
func (s Sight) String() string {
	switch s.Kind {
	case programAhead:
		return fmt.Sprintf("BPF program %s ahead at %s of %s", s.Program, s.Hook, s.Where)
	case oneWay:
		return fmt.Sprintf("%s without a response that passed elsewhere at %s", counted(s.Count, "exchange"), s.Where)
	case "tls", "http2":
		return fmt.Sprintf("%s with %s", counted(s.Count, "connection"), titles[s.Kind].title)
	}
	if s.Where != "" {
		return fmt.Sprintf("device %s of %s", s.Where, s.title())
	}
	return fmt.Sprintf("%s in %s", counted(s.Count, "packet"), s.title())
}

func counted(n float64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%.0f %ss", n, what)
}

func (s Sight) title() string {
	if t, ok := titles[s.Kind]; ok {
		return t.title
	}
	return s.Kind
}

// order puts what loses whole interfaces first.
func (s Sight) order() int {
	switch s.Kind {
	case programAhead:
		return 0
	case oneWay:
		return 1
	case "tls", "http2":
		return 3
	default:
		return 2
	}
}

// DeviceKinds are the link kinds of the devices at which the packets of an
// encapsulation come out; their own interfaces can be captured.
var DeviceKinds = map[string][]string{
	"vxlan": {"vxlan"}, "geneve": {"geneve"}, "gre": {"gre", "gretap", "ip6gre", "ip6gretap"}, "ipip": {"ipip"},
	"ip_in_ip6": {"sit", "ip6tnl"}, "wireguard": {"wireguard"},
}

var titles = map[string]struct{ title, advice string }{
	"tls":       {"TLS", "they are encrypted: in a mesh, layertrace install --mtls on (agents with --mtls) gives their requests spans by what the proxies report (docs/mtls.md); otherwise only hops where the traffic is plain can be read, such as those between a sidecar and its application"},
	"http2":     {"HTTP/2", "HTTP/2 and gRPC are not read: their requests have no spans of layertrace"},
	"vxlan":     {title: "VXLAN"},
	"geneve":    {title: "Geneve"},
	"gre":       {title: "GRE"},
	"ipip":      {title: "IPIP"},
	"ip_in_ip6": {title: "IPv6, or IPv6 in IP"},
	"wireguard": {title: "WireGuard"},
	"mpls":      {"MPLS", "requests inside are seen at the pods' interfaces only"},
	"pppoe":     {"PPPoE", "requests inside are seen at the pods' interfaces only"},
	"esp":       {"IPsec ESP", "they are encrypted: requests inside are seen at the pods' interfaces only"},
}

// joinedAdvice is that of tls if the agent follows encrypted connections.
const joinedAdvice = "they are encrypted: requests that a proxy reports have spans all the same (layertrace status counts them), others cannot be read"

func (s Sight) advised() Sight {
	switch {
	case s.Kind == oneWay:
		s.Advice = "a CNI redirects the packets of one direction past this interface: turn that off (Cilium: bpf.hostLegacyRouting=true), or rely on sockets (--spans=layers)"
	case s.Kind == programAhead && strings.HasPrefix(s.Hook, "tcx-"):
		s.Advice = "if it ends the chain or redirects, its packets are not seen: let it return TCX_NEXT, or restart the agent, which puts its programs first"
	case s.Kind == programAhead:
		s.Advice = "packets that it drops or redirects are not seen at this interface"
	case titles[s.Kind].advice != "":
		s.Advice = titles[s.Kind].advice
	case len(DeviceKinds[s.Kind]) > 0:
		s.Advice = fmt.Sprintf("packets inside of others are not read: add the device of the overlay, at which they come out, with --pnic (such as kind:%s)", DeviceKinds[s.Kind][0])
	default:
		s.Advice = "packets inside of others are not read"
	}
	return s
}

// Lines returns a line for each sight, with its advice.
func Lines(all []Sight) (lines []string) {
	for _, s := range all {
		lines = append(lines, s.String()+": "+s.Advice)
	}
	return lines
}
