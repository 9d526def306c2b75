// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"fmt"
	"strconv"
	"strings"
)

// Setup is how a case differs from the usual: a GET request that is traced and
// sampled, answered with 200, one filter with its default configuration.
type Setup struct {
	// NoTracer: Envoy has no tracing configuration ("tracer: none").
	NoTracer bool
	// UntracedRoute: the route's sampling rates are all 0 ("route: untraced").
	UntracedRoute bool
	// Unsampled: traces begin unsampled ("sampling: 0").
	Unsampled bool
	// UpstreamSpans: the tracer begins a span for each attempt ("upstream spans: on").
	UpstreamSpans bool
	// OwnFormatOnly: the filter moves the tracer's own format only ("formats: own").
	OwnFormatOnly bool
	// Headers are names of further headers that the filter moves ("headers: X-Own").
	Headers []string
	// Refused gives the Wasm filter a configuration with an unknown key
	// ("configuration: refused").
	Refused bool
	// Filters is how often the filter stands in the chain ("filters: 2").
	Filters int
	// FirstAttempt is what the first attempt gets, if not 200: "503" or "reset".
	FirstAttempt string
	// Body is the length of a body in bytes ("body: 100000"), sent by POST.
	Body int
}

func (s *Setup) parse(text string) error {
	fields, err := parseFields(text)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if err := s.set(f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

func (s *Setup) set(key, value string) (err error) {
	switch setting := key + ": " + value; {
	case setting == "tracer: none":
		s.NoTracer = true
	case setting == "route: untraced":
		s.UntracedRoute = true
	case setting == "sampling: 0":
		s.Unsampled = true
	case setting == "upstream spans: on":
		s.UpstreamSpans = true
	case setting == "formats: own":
		s.OwnFormatOnly = true
	case setting == "configuration: refused":
		s.Refused = true
	case key == "headers":
		s.Headers = strings.Split(value, ", ")
	case setting == "first attempt: 503", setting == "first attempt: reset":
		s.FirstAttempt = value
	case key == "filters":
		s.Filters, err = strconv.Atoi(value)
	case key == "body":
		s.Body, err = strconv.Atoi(value)
	default:
		err = fmt.Errorf("unknown setting %q", setting)
	}
	return err
}

// String names the settings that a listener of Envoy depends on.
func (s Setup) String() string {
	var parts []string
	for _, p := range []struct {
		set  bool
		name string
	}{
		{s.NoTracer, "no-tracer"}, {s.UntracedRoute, "untraced-route"}, {s.Unsampled, "unsampled"}, {s.UpstreamSpans, "upstream-spans"},
		{s.OwnFormatOnly, "own-format"}, {len(s.Headers) > 0, "headers"}, {s.Refused, "refused"},
		{s.Filters != 1, fmt.Sprintf("%d-filters", s.Filters)},
	} {
		if p.set {
			parts = append(parts, p.name)
		}
	}
	return strings.Join(parts, ",")
}
