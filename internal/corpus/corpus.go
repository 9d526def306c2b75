// SPDX-License-Identifier: Apache-2.0

// Package corpus holds request heads recorded from real HTTP clients and from
// Envoy, and mutates them. Both parsers of trace contexts are compared on them.
// The command in folder record records the heads.
package corpus

import (
	"embed"
	_ "embed"
	"fmt"
	"strings"
	"sync"
)

//go:embed testdata/*.head
var files embed.FS

// Head is a request head, from the method to the empty line.
type Head struct {
	// Name is made of the client, its trace header, and any variation.
	Name  string
	Bytes []byte
}

// Heads returns the recorded heads, sorted by name. Callers share the bytes and
// must not change them.
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

// Mutation returns the n-th mutation of the corpus, which cycles through the
// heads. It is deterministic.
func Mutation(n uint64) Head {
	heads := Heads()
	head := heads[n%uint64(len(heads))]
	return Head{fmt.Sprintf("%s~%d", head.Name, n), Mutate(n, head.Bytes)}
}

//go:embed testdata/vectors.txt
var vectorsText string

// Vector is a request head with one or more trace contexts, and what a standard or
// its reference implementation says of it.
type Vector struct {
	Head
	// Order is the value of --context-format.
	Order []string
	// Want is what is right, in the words of testdata/vectors.txt.
	Want string
}

// Vectors returns the vectors of testdata/vectors.txt.
func Vectors() []Vector {
	var vectors []Vector
	for _, line := range strings.Split(vectorsText, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.SplitN(line, " | ", 4)
		if len(fields) != 4 {
			panic(fmt.Sprintf("corpus: read the vectors: %q has not 4 fields", line))
		}
		lines := strings.NewReplacer(`\r\n`, "\r\n", `\t`, "\t").Replace(fields[3])
		vectors = append(vectors, Vector{
			Head:  Head{fields[0], []byte("GET /x HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n\r\n")},
			Order: strings.FieldsFunc(fields[1], func(r rune) bool { return r == ',' || r == ' ' }),
			Want:  fields[2],
		})
	}
	return vectors
}
