// SPDX-License-Identifier: Apache-2.0

// Package corpus holds request heads as real HTTP clients and Envoy wrote
// them, and makes mutations of those: what both parsers of trace contexts are
// compared on. The folder record makes the heads again.
package corpus

import (
	"embed"
	"fmt"
	"strings"
	"sync"
)

//go:embed testdata/*.head
var files embed.FS

// Head is a request head, from the method to the empty line.
type Head struct {
	// Name is the client, the trace header that it was given or made, and what
	// else is special.
	Name  string
	Bytes []byte
}

// Heads returns the recorded heads in the order of their names. The bytes are
// shared by all callers; change a copy.
var Heads = sync.OnceValue(func() []Head {
	entries, err := files.ReadDir("testdata")
	if err != nil {
		panic(fmt.Sprintf("corpus: read the embedded heads: %v", err))
	}
	var heads []Head
	for _, entry := range entries {
		content, err := files.ReadFile("testdata/" + entry.Name())
		if err != nil {
			panic(fmt.Sprintf("corpus: read the embedded heads: %v", err))
		}
		heads = append(heads, Head{strings.TrimSuffix(entry.Name(), ".head"), content})
	}
	return heads
})

// Mutation returns the n-th mutation of the corpus: of each head in turn, the
// same one for the same number.
func Mutation(n uint64) Head {
	heads := Heads()
	head := heads[n%uint64(len(heads))]
	return Head{fmt.Sprintf("%s~%d", head.Name, n), Mutate(n, head.Bytes)}
}
