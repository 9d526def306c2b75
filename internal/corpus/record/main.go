// SPDX-License-Identifier: Apache-2.0

// Command record makes the corpus of request heads again: it runs real HTTP
// clients and a real Envoy against a TCP server that keeps what they send.
//
//	go run ./internal/corpus/record -out internal/corpus/testdata -envoy PATH
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "internal/corpus/testdata", "folder for the heads")
	envoy := flag.String("envoy", "", "Envoy's binary; without it its heads are left as they are")
	address := flag.String("listen", "127.0.0.1:18080", "where the recorder listens; it is seen in the heads")
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
