// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/internal/tracecontext/formats"
	"github.com/layertrace/layertrace/wasm-filter/reorder"
	"github.com/layertrace/layertrace/wasm-filter/reorder/reordertest"
)

// pair is the filter in C, and the order in Go that it must give (package reorder), with the
// same configuration.
type pair struct {
	host  fakeHost
	c     *instance
	order *reorder.List
	names *reorder.Names
}

func newPair(t testing.TB, formats, headers []string) *pair {
	t.Helper()
	names, err := reorder.NewNames(formats, headers)
	if err != nil {
		t.Fatal(err)
	}
	configuration, err := json.Marshal(map[string][]string{"formats": formats, "headers": headers})
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{host: fakeHost{json: string(configuration)}, order: reorder.NewList(names), names: names}
	p.c = start(t, &p.host)
	if len(p.host.warnings) > 0 {
		t.Fatalf("configuration %s: %q", configuration, p.host.warnings)
	}
	return p
}

var counterOf = map[reorder.Outcome]string{
	reorder.Malformed: counterErrors, reorder.NoContext: counterNoContext,
	reorder.AlreadyFirst: counterFirst, reorder.Reordered: counterReordered,
}

// check fails unless C sends the same bytes as Go, and counts the request in the counter of
// Go's outcome, which it returns.
func (p *pair) check(t testing.TB, pairs []byte) reorder.Outcome {
	t.Helper()
	want, outcome := p.order.Reorder(pairs)
	if outcome != reorder.Reordered {
		want = pairs
	}
	p.host.pairs, p.host.counted = slices.Clone(pairs), nil
	p.c.request(1)
	if !bytes.Equal(p.host.pairs, want) {
		t.Fatalf("%s: of %q\nC makes  %q\nGo makes %q", p.host.json, pairs, p.host.pairs, want)
	}
	if len(p.host.counted) != 1 || p.host.counted[counterOf[outcome]] != 1 {
		t.Fatalf("%s: C counts %q in %v, want 1 in %s", p.host.json, pairs, p.host.counted, counterOf[outcome])
	}
	return outcome
}

var pool = []string{
	":authority", ":path", ":method", "host", "Host", "x-request-id", "cookie", "accept", "",
	"traceparent", "TraceParent", "tracestate", "TraceState", "b3", "x-b3-traceid", "X-B3-SpanId", "x-b3-", "uber-trace-id",
	"x-datadog-trace-id", "x-datadog", "sw8", "x-amzn-trace-id", "x-cloud-trace-context", "x-envoy-peer-metadata", "x-own", "X-Own", "x-own2",
	"te", "TE", "grpc-timeout", "content-type", "Content-Type", "traceparent2", "b33",
}

var contentTypes = []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain", ""}

// TestSameOrderAsGo compares both on random header lists, and on the same lists cut, longer
// and with other numbers in them, for random choices of formats and headers.
func TestSameOrderAsGo(t *testing.T) {
	const seed, configurations, lists = 7, 40, 500
	random := rand.New(rand.NewPCG(seed, seed))
	seen := map[reorder.Outcome]int{}
	for range configurations {
		var chosen, extra []string // nil chosen: all
		for _, g := range formats.Groups() {
			if random.IntN(3) == 0 {
				chosen = append(chosen, g.Name)
			}
		}
		if random.IntN(2) == 0 {
			extra = []string{[]string{"X-Own", "TraceState", "traceparent", "te", "content-type"}[random.IntN(5)]}
		}
		p := newPair(t, chosen, extra)
		for range lists {
			in := reordertest.Encode(randomHeaders(random))
			seen[p.check(t, in)]++
			seen[p.check(t, bend(random, in))]++
		}
	}
	for outcome, counter := range counterOf {
		if seen[outcome] < 1000 {
			t.Errorf("%d lists count in %s: too few to compare", seen[outcome], counter)
		}
	}
}

func randomHeaders(random *rand.Rand) [][2]string {
	list := make([][2]string, random.IntN(12))
	for i := range list {
		name := pool[random.IntN(len(pool))]
		list[i] = [2]string{name, fmt.Sprint(i)}
		switch {
		case strings.EqualFold(name, "content-type"):
			list[i][1] = contentTypes[random.IntN(len(contentTypes))]
		case random.IntN(20) == 0:
			list[i][1] = strings.Repeat("v", random.IntN(30_000)) // also empty
		}
	}
	return list
}

// bend returns a list cut, longer, or with another number in it.
func bend(random *rand.Rand, list []byte) []byte {
	list = slices.Clone(list)
	switch sizes := 4 + 8*int(binary.LittleEndian.Uint32(list)); random.IntN(3) {
	case 0:
		return list[:random.IntN(len(list))]
	case 1:
		return append(list, 0)
	default:
		numbers := []uint32{0, 1, random.Uint32N(40), 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 29}
		binary.LittleEndian.PutUint32(list[4*random.IntN(sizes/4):], numbers[random.IntN(len(numbers))])
		return list
	}
}

// FuzzOrder compares both on any bytes.
func FuzzOrder(f *testing.F) {
	for _, text := range []string{
		"", ":path=/ x=1 b3=0", "x=1 traceparent=p tracestate= tracestate=s host=a",
		":authority=a x-request-id=1 x-envoy-decorator-operation=o",
		":path=/ content-type=application/grpc te=trailers b3=0 grpc-timeout=1S",
		":path=/ x=1 content-type=application/grpc+proto te=trailers",
	} {
		var list [][2]string
		for _, field := range strings.Fields(text) {
			name, value, _ := strings.Cut(field, "=")
			list = append(list, [2]string{name, value})
		}
		f.Add(reordertest.Encode(list))
	}
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	p := newPair(f, nil, []string{"x-own"})
	f.Fuzz(func(t *testing.T, pairs []byte) { p.check(t, pairs) })
}
