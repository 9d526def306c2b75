// SPDX-License-Identifier: Apache-2.0

// Command record records the corpus of request heads: it runs real HTTP clients
// and a real Envoy against a TCP server that keeps the bytes they send.
//
//	go run ./internal/corpus/record -out internal/corpus/testdata -envoy PATH
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "internal/corpus/testdata", "folder for the heads")
	envoy := flag.String("envoy", "", "Envoy's binary; without it, its heads are not recorded")
	address := flag.String("listen", "127.0.0.1:18080", "address of the recorder, which is part of the heads")
	flag.Parse()
	if err := run(*out, *envoy, *address); err != nil {
		log.Fatalf("record: %v", err)
	}
}

func run(out, envoy, address string) error {
	folder, err := os.MkdirTemp("", "layertrace-record-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	programs, err := unpack(folder)
	if err != nil {
		return err
	}
	r, err := listen(address)
	if err != nil {
		return err
	}
	defer func() { _ = r.listener.Close() }()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	save := func(name string, head []byte) error {
		log.Printf("%s: %d bytes", name, len(head))
		return os.WriteFile(filepath.Join(out, name+".head"), head, 0o644)
	}
	for _, recipe := range recipes() {
		if err := programs.run(recipe, "http://"+address+"/reviews/7"); err != nil {
			return fmt.Errorf("%s: %w", recipe.name(), err)
		}
		head, err := r.next()
		if err != nil {
			return fmt.Errorf("%s: %w", recipe.name(), err)
		}
		if err := save(recipe.name(), head); err != nil {
			return err
		}
	}
	if envoy == "" {
		return nil
	}
	for _, e := range envoyRuns() {
		root, further, err := e.record(envoy, folder, r)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name(), err)
		}
		if err := save(e.name()+"-root", root); err != nil {
			return err
		}
		if err := save(e.name()+"-continued", further); err != nil {
			return err
		}
	}
	return nil
}

// recorder is a TCP server that keeps the bytes of request heads as received,
// not as an HTTP library would write them.
type recorder struct {
	listener net.Listener
	heads    chan []byte
}

func listen(address string) (*recorder, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the clients: %w", err)
	}
	r := &recorder{listener: listener, heads: make(chan []byte, 16)}
	go r.accept()
	return r, nil
}

func (r *recorder) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		go r.serve(conn)
	}
}

// serve records the first request of a connection and responds to it. It does
// not record an incomplete head; the client then fails.
func (r *recorder) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	var seen bytes.Buffer
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &seen)))
	if err != nil {
		return
	}
	head, _, _ := bytes.Cut(seen.Bytes(), []byte("\r\n\r\n"))
	head = append(bytes.Clone(head), "\r\n\r\n"...)
	if request.Header.Get("Expect") != "" {
		_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	_, _ = io.Copy(io.Discard, request.Body)
	r.heads <- head
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}

// next returns the head of the request that a client just made.
func (r *recorder) next() ([]byte, error) {
	select {
	case head := <-r.heads:
		return head, nil
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("the client ended without a request")
	}
}
