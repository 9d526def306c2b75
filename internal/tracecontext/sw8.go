// SPDX-License-Identifier: Apache-2.0

package tracecontext

import (
	"hash/fnv"
	"strings"
)

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

// parseSW8 reads an sw8 value (SkyWalking Cross Process Propagation Headers
// Protocol, version 3). Its IDs are free text; hashes stand for them.
func parseSW8(value string) (Context, bool) {
	parts := strings.SplitN(value, "-", 5)
	if len(parts) < 4 {
		return Context{}, false
	}
	sampled, trace, segment, index := parts[0], parts[1], parts[2], parts[3]
	if !made(sampled, "01", 1, 1) || !made(trace, base64Alphabet, 1, 96) ||
		!made(segment, base64Alphabet, 1, 96) || !made(index, decimalDigits, 1, 8) {
		return Context{}, false
	}
	c := Context{Sampling: decision(sampled == "1")}
	copy(c.TraceID[:8], fnv1a(trace))
	copy(c.TraceID[8:], fnv1a("\x00"+trace))
	copy(c.SpanID[:], fnv1a(segment+"-"+index))
	if c.TraceID.IsZero() {
		c.TraceID[15] = 1
	}
	if c.SpanID.IsZero() {
		c.SpanID[7] = 1
	}
	return c, true
}

// fnv1a returns the 64-bit FNV-1a hash, big-endian.
func fnv1a(s string) []byte {
	h := fnv.New64a()
	h.Write([]byte(s)) // never fails: hash.Hash
	return h.Sum(nil)
}
