// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

// FilterOptions choose the requests that are shown. Empty ones choose all; of a list any one
// has to match.
type FilterOptions struct {
	// Services and Paths are patterns: * is any text, ? any character.
	Services, Paths []string
	// Statuses are classes (5xx), codes (404), comparisons (>=400), ranges (400-499) or none.
	Statuses []string
	// MinDuration is the least duration. Requests whose duration is not known match: they may
	// wait for very long.
	MinDuration time.Duration
	// Layers are some of LayerNames.
	Layers []string
}

// unknownLayer is the filter for requests whose layer is not known.
const unknownLayer = "unknown"

// LayerNames are the layers to filter by.
func LayerNames() []string {
	return []string{
		string(observe.Application), string(observe.ProtocolStack), string(observe.VirtualNetwork),
		string(observe.NodeDriver), string(observe.RelayNetwork), unknownLayer,
	}
}

// Filter chooses requests. The zero Filter chooses all.
type Filter struct {
	services, paths []*regexp.Regexp
	statuses        []statusRange
	minDuration     time.Duration
	layers          []string
}

// NewFilter returns a filter. The error names the flag of the command line.
func NewFilter(o FilterOptions) (f Filter, err error) {
	f.minDuration, f.layers = o.MinDuration, o.Layers
	for _, s := range o.Services {
		if s == "" {
			return f, fmt.Errorf("--service is empty: name a service, such as nginx or web-*")
		}
		f.services = append(f.services, pattern(s))
	}
	for _, p := range o.Paths {
		if !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "*") {
			return f, fmt.Errorf("--path %q: a path begins with /, or with * for any text, such as /api/*", p)
		}
		f.paths = append(f.paths, pattern(p))
	}
	for _, s := range o.Statuses {
		one, err := parseStatus(s)
		if err != nil {
			return f, err
		}
		f.statuses = append(f.statuses, one)
	}
	if o.MinDuration < 0 {
		return f, fmt.Errorf("--min-duration %v: use a duration above 0, such as 100ms", o.MinDuration)
	}
	for _, l := range o.Layers {
		if !slices.Contains(LayerNames(), l) {
			return f, fmt.Errorf("--layer %q: use one of %s", l, strings.Join(LayerNames(), ", "))
		}
	}
	return f, nil
}

// pattern compiles a pattern for a whole text.
func pattern(p string) *regexp.Regexp {
	p = strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(p))
	return regexp.MustCompile("^(?s:" + p + ")$") // all else is quoted
}

// statusRange is a range of status codes; 0 is no response.
type statusRange struct{ from, to int }

const minStatus, maxStatus = 100, 999

var (
	statusClass   = regexp.MustCompile(`^([1-9])xx$`)
	statusNumber  = regexp.MustCompile(`^(>=|<=|>|<|=)?([1-9][0-9]{2})$`)
	statusBetween = regexp.MustCompile(`^([1-9][0-9]{2})-([1-9][0-9]{2})$`)
)

func parseStatus(text string) (statusRange, error) {
	number := func(digits string) int {
		n, _ := strconv.Atoi(digits) // the expressions match digits only
		return n
	}
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "none" {
		return statusRange{}, nil
	}
	if m := statusClass.FindStringSubmatch(text); m != nil {
		return statusRange{number(m[1]) * 100, number(m[1])*100 + 99}, nil
	}
	if m := statusBetween.FindStringSubmatch(text); m != nil && number(m[1]) <= number(m[2]) {
		return statusRange{number(m[1]), number(m[2])}, nil
	}
	if m := statusNumber.FindStringSubmatch(text); m != nil {
		n := number(m[2])
		switch m[1] {
		case ">=":
			return statusRange{n, maxStatus}, nil
		case "<=":
			return statusRange{minStatus, n}, nil
		case ">":
			return statusRange{n + 1, maxStatus}, nil
		case "<":
			return statusRange{minStatus, n - 1}, nil
		}
		return statusRange{n, n}, nil
	}
	return statusRange{}, fmt.Errorf("--status %q: use a class (5xx), a code (404), a comparison (>=400), a range (400-499) or none", text)
}

// Matches reports whether a request is to be shown. A time in layers that no capture point
// separates matches each of them.
func (f *Filter) Matches(r *Request) bool {
	anyPattern := func(patterns []*regexp.Regexp, texts ...string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool {
			return slices.ContainsFunc(texts, p.MatchString)
		})
	}
	return anyPattern(f.services, r.Client, r.Server) &&
		anyPattern(f.paths, r.Path) &&
		(len(f.statuses) == 0 || slices.ContainsFunc(f.statuses, func(s statusRange) bool { return s.from <= r.Status && r.Status <= s.to })) &&
		(r.Duration == 0 || r.Duration >= f.minDuration) &&
		(len(f.layers) == 0 || slices.ContainsFunc(f.layers, r.isIn))
}

// isIn reports whether most of the request's time went to a layer.
func (r *Request) isIn(layer string) bool {
	if len(r.Layers) == 0 {
		return layer == unknownLayer
	}
	return slices.Contains(r.Layers[0].Layers, observe.Layer(layer))
}
