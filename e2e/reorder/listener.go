// SPDX-License-Identifier: Apache-2.0

package reorder

import (
	"strings"

	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/reorder/golden"
	"github.com/layertrace/layertrace/e2e/reorder/proxy"
)

func listenerName(placement Placement, protocol proxy.Protocol, setup golden.Setup) string {
	return strings.Join([]string{string(placement), string(protocol), setup.String()}, " ")
}

func listener(tracer lab.Tracer, placement Placement, protocol proxy.Protocol, setup golden.Setup, module string) (proxy.Listener, error) {
	config := FilterConfig{Headers: setup.Headers, UnknownKey: setup.Refused}
	if setup.OwnFormatOnly {
		config.Formats = []string{format[tracer]}
	}
	l := proxy.Listener{
		Name:     listenerName(placement, protocol, setup),
		Protocol: protocol,
		NoTracer: setup.NoTracer, Unsampled: setup.Unsampled,
		UpstreamSpans: setup.UpstreamSpans, UntracedRoute: setup.UntracedRoute,
	}
	downstream, upstream, err := placement.Filter(tracer, module, config)
	for range setup.Filters {
		l.Downstream = appendFilter(l.Downstream, downstream, l.Name)
		l.Upstream = appendFilter(l.Upstream, upstream, l.Name)
	}
	return l, err
}

func appendFilter(list []proxy.Filter, filter *proxy.Filter, name string) []proxy.Filter {
	if filter == nil {
		return list
	}
	filter.Name = name
	return append(list, *filter)
}
