// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/layertrace/layertrace/bpf"
	"github.com/layertrace/layertrace/internal/corpus"
	"github.com/layertrace/layertrace/internal/observe"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

const (
	mutations = 100_000
	// deepMutations take several packets each.
	deepMutations = 20_000
	// packetMax: BPF_PROG_TEST_RUN takes packets of up to a page, minus the
	// kernel's share of it.
	packetMax = 3300
	batchSize = 500
)

// outcomeCounters has the kernel's counter for each outcome.
var outcomeCounters = map[tracecontext.Outcome]string{
	tracecontext.None:       "contexts_none",
	tracecontext.Found:      "contexts_found",
	tracecontext.Unsampled:  "contexts_unsampled",
	tracecontext.Truncated:  "heads_truncated",
	tracecontext.Unparsable: "heads_unparsable",
}

// agreement compares the BPF parser with the Go parser.
type agreement struct {
	k     *kernel
	opts  tracecontext.Options
	split func(head []byte) [][]byte
	batch uint32
}

// The recorded heads and 100,000 mutations of them, in one segment each.
func TestParsersAgree(t *testing.T) {
	a := agreement{
		k:     newKernel(t, Options{Deep: DeepOff}),
		opts:  tracecontext.Options{Window: 1024},
		split: func(head []byte) [][]byte { return [][]byte{head[:min(len(head), packetMax)]} },
	}
	a.compare(t, corpus.Heads())
	a.compareMutations(t, mutations)
}

// With configured names, in a larger window.
func TestParsersAgreeOnConfiguredNames(t *testing.T) {
	a := agreement{
		k: newKernel(t, Options{Deep: DeepOff, PrefixWindow: 4096, ContextHeaders: []tracecontext.ContextHeader{
			{Name: "User-Agent", Format: tracecontext.FormatW3C}, {Name: "x-request-id", Format: tracecontext.FormatB3},
			{Name: "accept", Format: tracecontext.FormatJaeger}, {Name: "host", Format: tracecontext.FormatSkyWalking},
		}}),
		opts: tracecontext.Options{Window: 4096, Headers: []tracecontext.ContextHeader{
			{Name: "user-agent", Format: tracecontext.FormatW3C}, {Name: "x-request-id", Format: tracecontext.FormatB3},
			{Name: "accept", Format: tracecontext.FormatJaeger}, {Name: "host", Format: tracecontext.FormatSkyWalking},
		}},
		split: func(head []byte) [][]byte { return [][]byte{head[:min(len(head), packetMax)]} },
	}
	a.compare(t, corpus.Heads())
	a.compareMutations(t, deepMutations)
}

// The vectors of the standards, by which package corpus tests the Go parser.
func TestParsersAgreeOnVectors(t *testing.T) {
	byOrder := map[string][]corpus.Head{}
	for _, v := range corpus.Vectors() {
		order := strings.Join(v.Order, ",")
		byOrder[order] = append(byOrder[order], v.Head)
	}
	for order, heads := range byOrder {
		a := inOrder(t, order, DeepOff)
		a.compare(t, heads)
	}
}

// With an order of formats, in one segment and with the deep search.
func TestParsersAgreeInOrder(t *testing.T) {
	for order, deep := range map[string]DeepMode{
		"b3": DeepOff, "w3c,datadog": DeepOn, "jaeger,b3,gcp": DeepAuto, "xray,b3": DeepAuto,
		"datadog,xray,skywalking,w3c,b3,gcp,jaeger": DeepOn,
	} {
		a := inOrder(t, order, deep)
		a.compare(t, corpus.Heads())
		a.compareMutations(t, deepMutations)
	}
}

func inOrder(t *testing.T, order string, deep DeepMode) agreement {
	t.Helper()
	var preferred []tracecontext.Format
	for _, name := range strings.FieldsFunc(order, func(r rune) bool { return r == ',' }) {
		f, err := tracecontext.ParsePreference(name)
		must(t, err)
		preferred = append(preferred, f)
	}
	a := agreement{
		k:     newKernel(t, Options{ContextFormats: preferred, Deep: deep}),
		opts:  tracecontext.Options{Window: 1024, Preferred: preferred},
		split: func(head []byte) [][]byte { return [][]byte{head[:min(len(head), packetMax)]} },
	}
	if deep != DeepOff {
		a.split = randomParts(rand.New(rand.NewPCG(3, 4)))
	}
	return a
}

// randomParts splits heads into segments of random sizes, of which only the first may
// begin a request.
func randomParts(random *rand.Rand) func([]byte) [][]byte {
	return func(head []byte) [][]byte {
		var parts [][]byte
		for len(head) > 0 {
			n := min(len(head), 8+random.IntN(packetMax-8))
			for n < len(head) && tracecontext.BeginsRequest(head[n:]) {
				n++
			}
			parts = append(parts, head[:n])
			head = head[n:]
		}
		return parts
	}
}

// The deep search in heads that are split into segments of random sizes.
func TestParsersAgreeDeep(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	a := agreement{
		k:     newKernel(t, Options{Deep: DeepOn}),
		opts:  tracecontext.Options{Window: 1024},
		split: randomParts(random),
	}
	a.compare(t, corpus.Heads())
	a.compareMutations(t, deepMutations)
}

// By default heads are searched further only if the window has no context.
func TestParsersAgreeAuto(t *testing.T) {
	a := agreement{
		k:     newKernel(t, Options{}),
		opts:  tracecontext.Options{Window: 1024},
		split: randomParts(rand.New(rand.NewPCG(5, 6))),
	}
	a.compare(t, corpus.Heads())
	a.compareMutations(t, deepMutations)
	a.k.wantCount("searches_over_budget", 0)
}

// The Go side and the BPF side use the same numbers and defaults, where neither is
// generated from the other.
func TestConstantsAgree(t *testing.T) {
	capture, err := bpf.LoadCapture()
	must(t, err)
	var wakeup uint64
	must(t, capture.Variables[bpf.CaptureVarRingWakeupFill].Get(&wakeup))
	var budget uint64
	must(t, capture.Variables[bpf.CaptureVarDeepBudget].Get(&budget))
	var deep uint32
	must(t, capture.Variables[bpf.CaptureVarDeep].Get(&deep))
	for name, pair := range map[string][2]int{
		"flag no response":      {int(observe.FlagNoResponse), int(bpf.CaptureExchangeFlagFLAG_NO_RESPONSE)},
		"flag pipelined":        {int(observe.FlagPipelined), int(bpf.CaptureExchangeFlagFLAG_PIPELINED)},
		"flag out of order":     {int(observe.FlagOutOfOrder), int(bpf.CaptureExchangeFlagFLAG_OUT_OF_ORDER)},
		"flag interim":          {int(observe.FlagInterim), int(bpf.CaptureExchangeFlagFLAG_INTERIM)},
		"flag reset":            {int(observe.FlagReset), int(bpf.CaptureExchangeFlagFLAG_RESET)},
		"flag idle":             {int(observe.FlagIdle), int(bpf.CaptureExchangeFlagFLAG_IDLE)},
		"flag malformed":        {int(observe.FlagMalformed), int(bpf.CaptureExchangeFlagFLAG_MALFORMED)},
		"flag multi segment":    {int(observe.FlagMultiSegment), int(bpf.CaptureExchangeFlagFLAG_MULTI_SEGMENT)},
		"flag option lost":      {int(observe.FlagOptionLost), int(bpf.CaptureExchangeFlagFLAG_OPTION_LOST)},
		"flag upgraded":         {int(observe.FlagUpgraded), int(bpf.CaptureExchangeFlagFLAG_UPGRADED)},
		"flag incomplete":       {int(observe.FlagIncomplete), int(bpf.CaptureExchangeFlagFLAG_INCOMPLETE)},
		"flag evicted":          {int(observe.FlagEvicted), int(bpf.CaptureExchangeFlagFLAG_EVICTED)},
		"flag still open":       {int(observe.FlagStillOpen), int(bpf.CaptureExchangeFlagFLAG_STILL_OPEN)},
		"flag end guessed":      {int(observe.FlagEndGuessed), int(bpf.CaptureExchangeFlagFLAG_END_GUESSED)},
		"flag packets missing":  {int(observe.FlagPacketsMissing), int(bpf.CaptureExchangeFlagFLAG_PACKETS_MISSING)},
		"flag several contexts": {int(observe.FlagSeveralContexts), int(bpf.CaptureExchangeFlagFLAG_SEVERAL_CONTEXTS)},
		"flag outside window":   {int(observe.FlagOutsideWindow), int(bpf.CaptureExchangeFlagFLAG_OUTSIDE_WINDOW)},
		"direction ingress":     {int(observe.DirectionIngress), int(bpf.CaptureDirectionDIRECTION_INGRESS)},
		"direction egress":      {int(observe.DirectionEgress), int(bpf.CaptureDirectionDIRECTION_EGRESS)},
		"prefix window":         {tracecontext.DefaultPrefixWindow, int(bpf.CaptureWindowWINDOW_DEFAULT)},
		"deep budget":           {DefaultDeepBudget, int(budget)},
		"deep mode":             {int(deepModes[DeepAuto]), int(deep)},
		"deep window":           {tracecontext.DefaultDeepWindow, int(bpf.CaptureWindowDEEP_WINDOW_DEFAULT)},
		"connections":           {DefaultMaxConnections, int(capture.Maps[bpf.CaptureMapConnections].MaxEntries)},
		"ring":                  {DefaultRingBytes, int(capture.Maps[bpf.CaptureMapExchanges].MaxEntries)},
		"ring wakeup":           {DefaultRingBytes / 4, int(wakeup)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: Go has %d, BPF has %d", name, pair[0], pair[1])
		}
	}
	if last := observe.Flags(1) << (len(observe.Flags(^uint32(0)).Names()) - 1); last != observe.FlagTraceLimited || last>>1 != observe.FlagOutsideWindow {
		t.Errorf("the last flag is %d, the test has only those up to %d, and one of the agent", last, observe.FlagOutsideWindow)
	}
	if known := len(tracecontext.SingleHeaderFormats()); known != 6 {
		t.Errorf("%d formats with a single header, the programs know 6", known)
	}
}

func (a *agreement) compareMutations(t *testing.T, n uint64) {
	for from := uint64(0); from < n; from += batchSize {
		heads := make([]corpus.Head, 0, batchSize)
		for i := from; i < min(from+batchSize, n); i++ {
			heads = append(heads, corpus.Mutation(i))
		}
		a.compare(t, heads)
		if t.Failed() {
			return
		}
	}
}

// compare runs each head on a connection of its own.
func (a *agreement) compare(t *testing.T, heads []corpus.Head) {
	t.Helper()
	a.batch++
	a.forgetConnections(t)
	counted := a.counts()
	want := map[netip.AddrPort]tracecontext.Result{}
	wantCounts := map[string]uint64{}
	byClient := map[netip.AddrPort]corpus.Head{}
	for i, head := range heads {
		c := newConnection(uint16(20000 + i))
		var addr [4]byte
		binary.BigEndian.PutUint32(addr[:], 10<<24|a.batch<<4|1)
		c.client = netip.AddrPortFrom(netip.AddrFrom4(addr), uint16(20000+i))
		var seen, first int
		var r tracecontext.Result
		for _, part := range a.split(head.Bytes) {
			a.k.receive(c.request(string(part)))
			if seen == 0 {
				r = a.parseFirst(part)
			} else if r.BeginsRequest && !r.Final && !r.Settled {
				r = a.parseOn(head.Bytes[:seen+len(part)], first)
			}
			if seen == 0 {
				first = len(part)
			}
			seen += len(part)
		}
		if r.BeginsRequest && (r.Final || r.Settled) {
			wantCounts[outcomeCounters[r.Outcome]]++
			if r.Malformed > 0 {
				wantCounts["contexts_malformed"]++
			}
			if r.Several {
				wantCounts["contexts_several"]++
			}
		}
		if r.Outcome == tracecontext.Found && (r.Final || r.Settled) {
			want[c.client] = r
		}
		byClient[c.client] = head
	}
	for _, x := range a.k.exchanges() {
		r, ok := want[x.Client]
		delete(want, x.Client)
		if diff := difference(x, r, ok); diff != "" {
			t.Errorf("%s: %s\n%q", byClient[x.Client].Name, diff, byClient[x.Client].Bytes)
		}
	}
	for client, r := range want {
		t.Errorf("%s: Go found %+v, BPF nothing\n%q", byClient[client].Name, r.Context, byClient[client].Bytes)
	}
	for name, before := range counted {
		if got := a.k.count(name) - before; got != wantCounts[name] && len(heads) > 1 {
			t.Errorf("batch %d: BPF counts %d %s, Go %d", a.batch, got, name, wantCounts[name])
			for _, head := range heads { // which one?
				a.compare(t, []corpus.Head{head})
			}
			return
		} else if got != wantCounts[name] {
			t.Errorf("%s: BPF counts %d %s, Go %d\n%q", heads[0].Name, got, name, wantCounts[name], heads[0].Bytes)
		}
	}
}

// parseFirst is the Go parser's result for the first segment of a request, parseOn that for
// more of it, if neither a final nor a settled result came before. They have a final result
// where the kernel needs no more of the request.
func (a *agreement) parseFirst(part []byte) tracecontext.Result {
	if a.k.probe.opts.Deep == DeepOn {
		return a.parseOn(part, 0)
	}
	r := tracecontext.Parse(part, a.opts)
	if a.k.probe.opts.Deep == DeepAuto && r.BeginsRequest && r.Outcome == tracecontext.Truncated {
		return a.parseOn(part, len(part))
	}
	r.Final = true
	return r
}

func (a *agreement) parseOn(head []byte, first int) tracecontext.Result {
	opts := a.opts
	opts.Window, opts.MaxLine = tracecontext.DefaultDeepWindow, tracecontext.DeepMaxLine
	if a.k.probe.opts.Deep == DeepAuto {
		opts.MaxLineBehind = min(first, a.opts.Window)
	}
	return tracecontext.Parse(head, opts)
}

// forgetConnections empties the table, which keeps finished connections for a while
// and refuses new ones when it is full.
func (a *agreement) forgetConnections(t *testing.T) {
	t.Helper()
	must(t, deleteAll(a.k.probe.kernel.Connections))
	a.k.wantCount("connections_map_full", 0)
}

func (a *agreement) counts() map[string]uint64 {
	counts := map[string]uint64{"contexts_malformed": a.k.count("contexts_malformed"), "contexts_several": a.k.count("contexts_several")}
	for _, name := range outcomeCounters {
		counts[name] = a.k.count(name)
	}
	return counts
}

func difference(x observe.Observation, r tracecontext.Result, found bool) string {
	malformed := x.Flags&observe.FlagMalformed != 0
	several := x.Flags&observe.FlagSeveralContexts != 0
	switch {
	case !found:
		return fmt.Sprintf("BPF found %+v, Go nothing", x.Context)
	case x.Context.Context != r.Context:
		return fmt.Sprintf("BPF found %+v, Go %+v", x.Context, r.Context)
	case x.Context.HeaderOffset != r.Offset:
		return fmt.Sprintf("offset: BPF %d, Go %d", x.Context.HeaderOffset, r.Offset)
	case malformed != (r.Malformed > 0):
		return fmt.Sprintf("malformed: BPF %v, Go %d", malformed, r.Malformed)
	case several != r.Several:
		return fmt.Sprintf("several contexts: BPF %v, Go %v", several, r.Several)
	}
	return ""
}
