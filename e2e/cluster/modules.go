// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
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

// ServeModules starts a server; close it.
func ServeModules(c *Cluster) (*Modules, error) {
	s := &Modules{files: map[string]http.HandlerFunc{}, counts: map[string]int{}, ended: make(chan error, 1)}
	s.server = &http.Server{Handler: s}
	listener, err := c.Namespace.Listen(modulesAddress)
	if err != nil {
		return nil, fmt.Errorf("serve modules: %w", err)
	}
	go func() { s.ended <- s.server.Serve(listener) }()
	return s, nil
}

const modulesAddress = BridgeIP + ":8081"

// URL returns the URL of the module with a name.
func (s *Modules) URL(name string) string { return "http://" + modulesAddress + "/" + name }

// Put sets the module with a name.
func (s *Modules) Put(name string, data []byte) {
	s.Handle(name, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(data) // a client that closes the connection is no failure here
	})
}

// Handle sets the handler of requests for a name.
func (s *Modules) Handle(name string, handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = handler
}

// Requests returns how often a name was requested.
func (s *Modules) Requests(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[name]
}

// ServeHTTP handles a request.
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

// Close ends the server. An earlier failure to serve is part of the error.
func (s *Modules) Close() error {
	err := s.server.Close()
	if served := <-s.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve modules: %w", served))
	}
	return err
}
