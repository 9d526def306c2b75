// SPDX-License-Identifier: Apache-2.0

package corpus

import (
	_ "embed"
	"fmt"
	"strings"
)

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
