// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"net/netip"
	"time"

	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// inside calls do and returns what passed between a pod's Envoy and its
// application meanwhile.
func (b *Bench) inside(pod string, do func() error) (seen *sight, err error) {
	seen = &sight{}
	t, err := tap.Open(b.lab.PodNamespace(pod), "lo", func(s tap.Segment) { seen.Record(redirectedBack(s)) })
	if err != nil {
		return nil, err
	}
	err = do()
	return seen, errors.Join(err, t.Close())
}

// redirectedBack gives the answer to a call the end that the call was redirected
// to, where it bears the address that the application had called.
func redirectedBack(s tap.Segment) tap.Segment {
	for _, service := range lab.Services {
		if s.Src.Port() == lab.AppPort && s.Src.Addr().String() == service.ClusterIP {
			s.Src = redirected
		}
	}
	return s
}

// redirected is where an Envoy takes what its application sends.
var redirected = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), lab.OutboundPort)

// stayed is how long the request of a trace was in the application behind this
// loopback interface, without the calls that were made for it; 0: it was not seen
// in whole.
func (s *sight) stayed(traceID string) (stayed time.Duration) {
	for _, e := range s.Exchanges(traceID, lab.AppPort, lab.OutboundPort) {
		if !e.Response.Src.IsValid() {
			return 0
		}
		isCall := e.Request.Dst == redirected
		answered := s.Began
		if isCall {
			answered = s.Passed
		}
		from, asked := s.Passed(e.Request)
		to, ok := answered(e.Response)
		if !asked || !ok {
			return 0
		}
		if isCall {
			stayed -= to.Sub(from)
		} else {
			stayed += to.Sub(from)
		}
	}
	return max(stayed, 0)
}
