// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"
)

// Serve takes faults for s on a Unix socket until the listener is closed.
func (s *State) Serve(listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /fault", func(w http.ResponseWriter, r *http.Request) {
		var f Fault
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&f); err != nil {
			http.Error(w, fmt.Sprintf("read the fault: %v", err), http.StatusBadRequest)
			return
		}
		if f.TraceID == "" {
			http.Error(w, "the fault has no trace_id", http.StatusBadRequest)
			return
		}
		s.Arm(f)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /fault", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An error means that who asked has gone, and noticed it itself.
		_ = json.NewEncoder(w).Encode(s.Disarm())
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serve the control socket: %w", err)
	}
	return nil
}

// ListenUnix listens on a Unix socket; one that an earlier process left behind
// is replaced.
func ListenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace the control socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket (its path may have 107 bytes): %w", err)
	}
	return listener, nil
}
