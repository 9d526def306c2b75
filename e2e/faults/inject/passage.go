// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"errors"
	"sync"
	"time"

	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
)

// passage watches requests on their way through a pod's Envoy: to the pod's
// interface, and on to the application over loopback or, at the gateway, to the
// next pod.
type passage struct {
	pod  lab.Pod
	taps []*tap.Tap

	mu      sync.Mutex
	expects string // trace ID
	came    time.Time
	left    time.Time
	arrived chan struct{} // closed when it came
	gone    chan struct{} // closed when it left
}

func (b *Bench) openPassage(name string) (*passage, error) {
	pod, err := lab.PodByName(name)
	if err != nil {
		return nil, err
	}
	p := &passage{pod: pod}
	outside, err := tap.Open(b.lab.PodSpace(name), "eth0", p.atInterface)
	if err != nil {
		return nil, err
	}
	p.taps = append(p.taps, outside)
	inside, err := tap.Open(b.lab.PodSpace(name), "lo", p.atLoopback)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.taps = append(p.taps, inside)
	return p, nil
}

// Close ends the watching.
func (p *passage) Close() error { return closeAll(p.taps) }

// expect looks for the request of a trace from now on. The channel is closed when
// it has come.
func (p *passage) expect(traceID string) (arrived <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expects, p.came, p.left = traceID, time.Time{}, time.Time{}
	p.arrived, p.gone = make(chan struct{}), make(chan struct{})
	return p.arrived
}

func (p *passage) atInterface(s tap.Segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expects == "" || !bytes.Contains(s.Data, []byte(p.expects)) {
		return
	}
	to := s.Dst.Port()
	switch {
	case s.Dst.Addr().String() == p.pod.IP && (to == lab.AppPort || to == lab.GatewayPort):
		if p.came.IsZero() {
			p.came = s.Time
			close(p.arrived)
		}
	case p.pod.Gateway && s.Src.Addr().String() == p.pod.IP && to == lab.AppPort:
		p.leave(s.Time)
	}
}

func (p *passage) atLoopback(s tap.Segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expects != "" && !p.pod.Gateway && bytes.Contains(s.Data, []byte(p.expects)) {
		p.leave(s.Time)
	}
}

// leave takes the first time, as later ones are of requests that follow from it.
func (p *passage) leave(at time.Time) {
	if p.left.IsZero() {
		p.left = at
		close(p.gone)
	}
}

// seenWithin is how late a tap may tell what it saw.
const seenWithin = time.Second

// took is how long the request that is expected was on its way through Envoy; 0:
// it was not seen on both sides.
func (p *passage) took() time.Duration {
	select {
	case <-p.gone:
	case <-time.After(seenWithin):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.came.IsZero() || p.left.Before(p.came) {
		return 0
	}
	return p.left.Sub(p.came)
}
