// SPDX-License-Identifier: Apache-2.0

package control

import (
	"maps"
	"sync"
	"time"
)

// State is the fault that is armed in an application, if any, and what came of
// it. The zero value is ready.
type State struct {
	mu     sync.Mutex
	fault  Fault
	report Report
	// holds are by the peer of the connection, for its next request.
	holds map[string]time.Duration
}

// Arm replaces what was armed; the report begins anew.
func (s *State) Arm(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.PadRequests = maps.Clone(f.PadRequests)
	s.fault, s.report, s.holds = f, Report{}, map[string]time.Duration{}
}

// Disarm ends the fault and tells what it did.
func (s *State) Disarm() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = Fault{}
	return s.report
}

// Begin counts a request of a trace that came from peer, and returns what to do
// to it; nothing when the fault is not for it.
func (s *State) Begin(traceID, peer string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.holds[peer]
	delete(s.holds, peer)
	if traceID == "" || s.fault.TraceID != traceID {
		return Fault{}
	}
	s.report.Requests++
	s.report.Held += held
	return s.fault
}

// Slept adds to the time that requests of a trace were made to wait.
func (s *State) Slept(traceID string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault.TraceID == traceID {
		s.report.Slept += d
	}
}

// hold is how long bytes that have come are left unread now.
func (s *State) hold() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault.Hold
}

// held notes how long the bytes of peer's next request were left unread.
func (s *State) held(peer string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault.Hold > 0 {
		s.holds[peer] += d
	}
}
