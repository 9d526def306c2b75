// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// Modules is a web server for Wasm modules, in the control plane's namespace.
type Modules struct {
	server *http.Server
	mu     sync.Mutex
	files  map[string]http.HandlerFunc
	counts map[string]int
	ended  chan error
}

// ServeModules starts the server. Close it.
func ServeModules(c *Cluster) (*Modules, error) {
	s := &Modules{files: map[string]http.HandlerFunc{}, counts: map[string]int{}, ended: make(chan error, 1)}
	s.server = &http.Server{Handler: s}
	err := c.Namespace.Do(func() error {
		listener, err := net.Listen("tcp4", modulesAddress)
		if err == nil {
			go func() { s.ended <- s.server.Serve(listener) }()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve modules: %w", err)
	}
	return s, nil
}

const modulesAddress = BridgeIP + ":8081"

// URL is where sidecars get the module that Put puts under name.
func (s *Modules) URL(name string) string { return "http://" + modulesAddress + "/" + name }

// Put answers requests for name with data.
func (s *Modules) Put(name string, data []byte) {
	s.Handle(name, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(data) // a client that hangs up is not ours to judge
	})
}

// Handle answers requests for name as told.
func (s *Modules) Handle(name string, handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = handler
}

// Requests is how often name was asked for.
func (s *Modules) Requests(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[name]
}

// ServeHTTP answers one request.
func (s *Modules) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[1:]
	s.mu.Lock()
	handler := s.files[name]
	s.counts[name]++
	s.mu.Unlock()
	if handler == nil {
		handler = http.NotFound
	}
	handler(w, r)
}

// Close ends the server. The error is also about having served.
func (s *Modules) Close() error {
	err := s.server.Close()
	if served := <-s.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve modules: %w", served))
	}
	return err
}
