// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/layertrace/layertrace/e2e/faults/matrix"
	"github.com/layertrace/layertrace/e2e/lab"
)

// Case is a state of the mesh whose response times are measured.
type Case struct {
	// Name is the case's key in all files.
	Name string
	// Title names it in figures and tables.
	Title string
	// InPaper is set for the three cases of the paper.
	InPaper bool
	// Reordered selects a mesh with the trace context at the start.
	Reordered bool

	// agents sets up the agents; nil for none.
	agents func(*lab.Lab, *lab.Setup)
	// fromStart is set when the agents must precede the mesh's connections: TCP
	// options are written on connections that are opened later.
	fromStart bool
}

// Names of cases that others are compared with.
const (
	stock     = "stock"
	reordered = "reordered"
	withOpts  = "options"
)

// Cases are all cases: the paper's three, and what layertrace adds to them.
var Cases = []Case{
	{Name: stock, Title: "stock", InPaper: true},
	{Name: reordered, Title: "reordered", InPaper: true, Reordered: true},
	{Name: withOpts, Title: "reordered + TCP options", InPaper: true, Reordered: true, fromStart: true,
		agents: func(_ *lab.Lab, s *lab.Setup) { s.TCPOption, s.OptionOnly = "paper", true }},
	{Name: "agents", Title: "reordered + agents", Reordered: true,
		agents: func(*lab.Lab, *lab.Setup) {}},
	{Name: "layers", Title: "reordered + agents with layers", Reordered: true,
		agents: matrix.EnableLayers},
}

// CaseNames returns the names of all cases.
func CaseNames() (names []string) {
	for _, c := range Cases {
		names = append(names, c.Name)
	}
	return names
}

// ParseCases returns the cases with these names, in the order of Cases; all of them
// without names. Stock, which the others are compared with, is always among them.
func ParseCases(names []string) ([]Case, error) {
	if len(names) == 0 {
		return Cases, nil
	}
	for _, name := range names {
		if !slices.Contains(CaseNames(), name) {
			return nil, fmt.Errorf("unknown case %q: choose from %s", name, strings.Join(CaseNames(), ", "))
		}
	}
	var chosen []Case
	for _, c := range Cases {
		if c.Name == stock || slices.Contains(names, c.Name) {
			chosen = append(chosen, c)
		}
	}
	return chosen, nil
}

// mesh names the mesh in which a case is measured. Cases without agents from the start
// share one per header order.
func (c Case) mesh() string {
	switch {
	case c.fromStart:
		return c.Name
	case c.Reordered:
		return reordered
	default:
		return stock
	}
}

// setup returns the mesh and the agents of the case. All requests are traced, as in the
// paper.
func (c Case) setup(l *lab.Lab) lab.Setup {
	s := lab.Setup{
		Name: c.mesh(), Tracer: lab.Zipkin, Reordered: c.Reordered,
		NoAgents: !c.fromStart, Export: "otlp-grpc", AgentFlags: []string{"--prefix-window=1024", "--deep=false"},
	}
	if c.agents != nil {
		c.agents(l, &s)
	}
	return s
}

// Rates are the paper's rates, in requests per second.
var Rates = []float64{50, 80}
