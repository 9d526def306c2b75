// SPDX-License-Identifier: Apache-2.0

package decode

import (
	"bytes"
	"testing"

	"github.com/layertrace/layertrace/internal/observe"
)

// FuzzReadFile checks what holds for every file, broken ones included.
func FuzzReadFile(f *testing.F) {
	f.Add(pcapFile(f, true), false)
	f.Add(pcapngFile(f), true)
	two := pcapFile(f, false)
	f.Add(append(two, two[24:]...), true)
	f.Fuzz(func(t *testing.T, file []byte, deep bool) {
		emitted := uint64(0)
		d := New(Options{Deep: deep}, func(x observe.Observation) {
			emitted++
			if x.Context.TraceID.IsZero() || x.Request.Packets == 0 || x.Request.First == 0 && x.Request.Last != 0 {
				t.Errorf("half an exchange: %+v", x)
			}
			if unanswered := x.Flags&observe.FlagNoResponse != 0; unanswered != (x.Response.Packets == 0) {
				t.Errorf("response %+v, flags %v", x.Response, x.Flags.Names())
			}
		})
		err := ReadFile(bytes.NewReader(file), d.Packet)
		d.Flush()
		for _, c := range d.Counters() {
			if c.Name == "found" && c.Value != emitted {
				t.Errorf("%d contexts found, %d exchanges (%v)", c.Value, emitted, err)
			}
		}
	})
}
