// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// arrival watches a pod's interface for the request of a trace.
type arrival struct {
	*tap.Tap
	pod     lab.Pod
	traceID []byte

	once    sync.Once
	arrived chan came
}

// came is a request that has come to a pod.
type came struct {
	at time.Time
	// local and remote are the ends of the connection, as the pod's Envoy has it.
	local, remote netip.AddrPort
}

// watchArrival watches until it is closed.
func (b *Bench) watchArrival(pod, traceID string) (*arrival, error) {
	p, err := lab.PodByName(pod)
	if err != nil {
		return nil, err
	}
	a := &arrival{pod: p, traceID: []byte(traceID), arrived: make(chan came, 1)}
	a.Tap, err = tap.Open(b.lab.PodNamespace(pod), "eth0", a.see)
	return a, err
}

func (a *arrival) see(s tap.Segment) {
	local := s.Dst
	switch {
	case local.Addr().String() != a.pod.IP:
		return
	case !a.pod.Gateway && local.Port() == lab.AppPort:
		local = netip.AddrPortFrom(local.Addr(), lab.InboundPort) // by REDIRECT
	case local.Port() != lab.GatewayPort:
		return
	}
	if bytes.Contains(s.Data, a.traceID) {
		a.once.Do(func() { a.arrived <- came{at: s.Time, local: local, remote: s.Src} })
	}
}
