// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"errors"
	"fmt"

	"github.com/layertrace/layertrace/e2e/faults"
	"github.com/layertrace/layertrace/e2e/faults/tap"
	"github.com/layertrace/layertrace/e2e/lab"
	"github.com/layertrace/layertrace/e2e/sandbox"
)

// spot is an interface to watch.
type spot struct {
	space *sandbox.Namespace
	nic   string
}

// sight is what passed a spot.
type sight struct{ tap.Recorder }

// watched calls do and returns what passed the spots meanwhile.
func watched(spots []spot, do func(seen []*sight) error) (seen []*sight, err error) {
	var taps []*tap.Tap
	for _, s := range spots {
		one := &sight{}
		t, err := tap.Open(s.space, s.nic, one.Record)
		if err != nil {
			return nil, errors.Join(err, closeAll(taps))
		}
		taps, seen = append(taps, t), append(seen, one)
	}
	err = do(seen)
	return seen, errors.Join(err, closeAll(taps))
}

func closeAll(taps []*tap.Tap) error {
	var errs []error
	for _, t := range taps {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// exchanges are those of a trace between pods.
func (s *sight) exchanges(traceID string) []tap.Exchange { return s.Exchanges(traceID, lab.AppPort) }

// message finds the message on a leg.
func (s *sight) message(traceID string, leg faults.Leg) (tap.Message, error) {
	for _, e := range s.exchanges(traceID) {
		if e.Request.Src.Addr().String() != podIP(leg.Caller) || e.Request.Dst.Addr().String() != podIP(leg.Callee) {
			continue
		}
		if !leg.Response {
			return e.Request, nil
		}
		if e.Response.Src.IsValid() {
			return e.Response, nil
		}
	}
	return tap.Message{}, fmt.Errorf("%w: the message was not seen", ErrMissed)
}
