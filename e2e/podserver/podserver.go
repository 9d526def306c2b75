// SPDX-License-Identifier: Apache-2.0

// Package podserver serves pods as an API server of Kubernetes does, as far as the agent asks:
// lists in protobuf, and watches. A real API server takes minutes to store 10,000 pods, and its
// own CPU time would be measured with the agent's.
package podserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

// maxEvents is how many changes a watch can be behind; later it has to list again.
const maxEvents = 1000

// Server has the pods.
type Server struct {
	encoder runtime.Encoder

	mu      sync.Mutex // guards the rest
	pods    map[types.UID]*core.Pod
	version int // of the latest change
	events  []event
	changed chan struct{} // closed at the next change
	server  *http.Server  // nil: away
}

type event struct {
	version int
	kind    string
	pod     *core.Pod
}

// New returns a server without pods that does not serve yet.
func New() (*Server, error) {
	scheme := runtime.NewScheme()
	if err := core.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register core/v1: %w", err)
	}
	return &Server{
		encoder: protobuf.NewSerializer(scheme, scheme), pods: map[types.UID]*core.Pod{}, version: 1, changed: make(chan struct{}),
	}, nil
}

// Put adds or replaces a pod.
func (s *Server) Put(pod *core.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind := "ADDED"
	if s.pods[pod.UID] != nil {
		kind = "MODIFIED"
	}
	s.pods[pod.UID] = pod
	s.record(kind, pod)
}

// Delete removes a pod.
func (s *Server) Delete(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod := s.pods[uid]; pod != nil {
		delete(s.pods, uid)
		s.record("DELETED", pod)
	}
}

func (s *Server) record(kind string, pod *core.Pod) {
	s.version++
	copied := pod.DeepCopy()
	copied.TypeMeta = meta.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	copied.ResourceVersion = strconv.Itoa(s.version)
	s.events = append(s.events, event{s.version, kind, copied})
	if len(s.events) > maxEvents {
		s.events = append([]event(nil), s.events[len(s.events)-maxEvents:]...)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Serve serves on a listener until Close. failed gets the error of an early end.
func (s *Server) Serve(listener net.Listener, failed func(error)) {
	server := &http.Server{Handler: s}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed(err)
		}
	}()
}

// Close ends serving, with all connections. The pods stay, and Serve may be called again.
func (s *Server) Close() error {
	s.mu.Lock()
	server := s.server
	s.server = nil
	s.mu.Unlock()
	if server == nil {
		return nil
	}
	return server.Close()
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	switch {
	case r.URL.Path != "/api/v1/pods":
		http.NotFound(w, r)
	case query.Get("sendInitialEvents") == "true":
		// As from a server without streaming lists.
		refuse(w, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is forbidden")
	case query.Get("watch") == "true":
		s.watch(w, r, selects(query.Get("fieldSelector")))
	default:
		s.list(w, selects(query.Get("fieldSelector")))
	}
}

// selects returns the pods that an agent's field selector is for: those of a node, or all others.
func selects(selector string) func(*core.Pod) bool {
	first, _, _ := strings.Cut(selector, ",")
	if node, others := strings.CutPrefix(first, "spec.nodeName!="); others {
		return func(p *core.Pod) bool { return p.Spec.NodeName != node }
	}
	node := strings.TrimPrefix(first, "spec.nodeName=")
	return func(p *core.Pod) bool { return p.Spec.NodeName == node }
}

func (s *Server) list(w http.ResponseWriter, selected func(*core.Pod) bool) {
	list := core.PodList{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	s.mu.Lock()
	list.ResourceVersion = strconv.Itoa(s.version)
	for _, pod := range s.pods {
		if selected(pod) {
			list.Items = append(list.Items, *pod)
		}
	}
	s.mu.Unlock()
	var body bytes.Buffer
	if err := s.encoder.Encode(&list, &body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	// Only the connection can fail; then the client asks again.
	_, _ = w.Write(body.Bytes())
}

// watch sends the changes after a version, until the client goes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, selected func(*core.Pod) bool) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", "resourceVersion is no number")
		return
	}
	flusher, ok := w.(http.Flusher)
	if !ok {
		refuse(w, http.StatusInternalServerError, "InternalError", "the connection cannot stream")
		return
	}
	if _, _, gone := s.since(from); gone {
		refuse(w, http.StatusGone, "Expired", "too old resource version")
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(http.StatusOK)
	out := json.NewEncoder(w)
	for {
		flusher.Flush()
		events, changed, gone := s.since(from)
		if gone {
			return // the client asks again, and is refused
		}
		for _, e := range events {
			from = e.version
			if !selected(e.pod) {
				continue
			}
			if out.Encode(map[string]any{"type": e.kind, "object": e.pod}) != nil {
				return // the client has gone
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// since returns the changes after a version, and what is closed at the next one. gone: some of
// them are no longer known.
func (s *Server) since(version int) (events []event, changed chan struct{}, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if oldest := s.version - len(s.events); version < oldest {
		return nil, nil, true
	}
	for _, e := range s.events {
		if e.version > version {
			events = append(events, e)
		}
	}
	return events, s.changed, false
}

// refuse responds with a Status, as an API server does.
func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{ // only the connection can fail
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message, "code": code,
	})
}

// kubeconfig reaches an API server without authentication.
const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s"}}]
contexts: [{name: c, context: {cluster: c}}]
current-context: c
`

// Kubeconfig returns the kubeconfig file for a server at an address.
func Kubeconfig(address string) []byte { return fmt.Appendf(nil, kubeconfig, address) }
