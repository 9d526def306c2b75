// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/layertrace/layertrace/bpf"
)

// TestFrontAgreesWithWalk runs heads that start with the context, or nearly so,
// through programs with the fast walk in place, and through ones without it, due to
// a configured header name. The results must be the same.
func TestFrontAgreesWithWalk(t *testing.T) {
	for mode, heads := range map[string][]string{"whole": fastHeads(8000, false), "cut": fastHeads(4000, true)} {
		for _, program := range []string{bpf.CaptureProgCaptureIn, bpf.CaptureProgCaptureSockL3} {
			t.Run(mode+"/"+program, func(t *testing.T) {
				fast, fastCounts := outcomes(t, program, heads, false)
				other, otherCounts := outcomes(t, program, heads, true)
				if !maps.Equal(fastCounts, otherCounts) {
					t.Errorf("counters: fast %v, other %v", fastCounts, otherCounts)
				}
				found := 0
				for i, head := range heads {
					if fast[i] != other[i] {
						t.Errorf("fast %s, other %s\n%q", fast[i], other[i], head)
					}
					if other[i] != "" {
						found++
					}
				}
				if found < len(heads)/10 || found > len(heads)*9/10 {
					t.Errorf("%d of %d heads have a context: not a fair mix", found, len(heads))
				}
			})
		}
	}
}

// outcomes returns the result for each head ("": no exchange) and the counters.
func outcomes(t *testing.T, program string, heads []string, named bool) ([]string, map[uint32]uint64) {
	t.Helper()
	// Kernels before 5.11 charge BPF memory to this limit.
	_ = rlimit.RemoveMemlock()
	spec, err := bpf.LoadCapture()
	if err != nil {
		t.Fatal(err)
	}
	if named {
		if err := spec.Variables[bpf.CaptureVarContextHeaders].Set(bpf.CaptureContextHeaders{Len: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for name := range spec.Programs {
		if name != program {
			delete(spec.Programs, name)
		}
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load %s (as root): %v", program, err)
	}
	t.Cleanup(coll.Close)
	for i, head := range heads {
		if _, err := coll.Programs[program].Run(&ebpf.RunOptions{Data: request(t, i, head)}); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]string, len(heads))
	var c bpf.CaptureConnection
	var key bpf.CaptureConnectionKey
	for all := coll.Maps[bpf.CaptureMapConnections].Iterate(); all.Next(&key, &c); {
		client := binary.BigEndian.Uint32(c.X.ClientAddr[12:])
		got[client&0xffffff] = fmt.Sprintf("%x-%x format %d sampling %d at %d flags %d",
			c.X.TraceId, c.X.SpanId, c.X.Format, c.X.Sampling, c.X.HeaderOffset, c.X.Flags)
	}
	counts := map[uint32]uint64{}
	for which := range uint32(bpf.CaptureCounterCOUNTERS) {
		var perCPU []uint64
		if err := coll.Maps[bpf.CaptureMapCounters].Lookup(which, &perCPU); err != nil {
			t.Fatal(err)
		}
		for _, n := range perCPU {
			counts[which] += n
		}
	}
	return got, counts
}

// request is a segment from client number i, whose address holds the number.
func request(t *testing.T, i int, payload string) []byte {
	t.Helper()
	ip := &layers.IPv4{
		Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: binary.BigEndian.AppendUint32(nil, 10<<24|uint32(i)), DstIP: []byte{192, 0, 2, 1},
	}
	// Distinct sequence numbers, by which the programs recognize segments.
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 9080, Seq: uint32(i), ACK: true, Window: 1000}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	// A test run takes packets with an Ethernet header, and passes the rest to a
	// socket filter.
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, eth, ip, tcp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

var headLines = []string{
	"host: productpage:9080\r\n",
	"user-agent: curl/8.5.0\r\n",
	"te: trailers\r\n",
	"cookie: " + string(bytes.Repeat([]byte("c"), 110)) + "\r\n",
	"x-request-id: 5f1a7f0e-7a0d-9a3b-b7d2-3a1b6a0c4c55\r\n",
	"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
	"Traceparent: 00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203332-00\r\n",
	"traceparent: 01-0af7651916cd43dd8448eb211c80319e-b7ad6b7169203333-01-more\r\n",
	"b3: 0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1\r\n",
	"x-b3-traceid: 0af7651916cd43dd8448eb211c80319c\r\n",
	"x-b3-traceid: 8448EB211c80319c\r\n",
	"X-B3-TraceId: 0000000000000000\r\n",
	"x-b3-spanid: b7ad6b7169203331\r\n",
	"X-B3-SpanId:b7ad6b7169203332\r\n",
	"x-b3-parentspanid: b7ad6b7169203330\r\n",
	"x-b3-sampled: 1\r\n",
	"x-b3-sampled: 0\r\n",
	"x-b3-sampled: true\r\n",
	"x-b3-flags: 1\r\n",
	"\r\n",
}

// The order of the most common formats after reordering.
var usualOrders = [][]int{{0, 5}, {0, 9, 12, 15}, {0, 9, 12, 14, 15}, {0, 10, 12, 16}, {0, 9, 12}, {0, 9, 13, 15}}

// fastHeads returns n heads, half of them with one byte changed; cut truncates them
// anywhere.
func fastHeads(n int, cut bool) []string {
	random := rand.New(rand.NewPCG(3, uint64(n)))
	heads := make([]string, n)
	for i := range heads {
		head := []byte("GET /productpage HTTP/1.1\r\n")
		if random.IntN(2) == 0 {
			for _, line := range usualOrders[random.IntN(len(usualOrders))] {
				head = append(head, headLines[line]...)
			}
		}
		for range random.IntN(8) {
			head = append(head, headLines[random.IntN(len(headLines))]...)
		}
		if random.IntN(2) == 0 {
			at := 4 + random.IntN(len(head)-4)
			switch random.IntN(3) {
			case 0:
				head[at] = "\r\n\t :-0fFg\x00\x80"[random.IntN(12)]
			case 1:
				head = append(head[:at], head[at+1:]...)
			case 2:
				head = append(head[:at+1], head[at:]...)
			}
		}
		if cut {
			head = head[:4+random.IntN(len(head)-4)]
		} else {
			head = append(head, "accept: */*\r\n\r\n"...)
		}
		heads[i] = string(head)
	}
	return heads
}
