// SPDX-License-Identifier: Apache-2.0

package tap

import "bytes"

// talk is an exchange as it grows, with the head of its request.
type talk struct {
	Exchange
	head []byte
}

func begin(s Segment) *talk {
	return &talk{Exchange: Exchange{Request: message(s)}, head: bytes.Clone(s.Data)}
}

func message(s Segment) Message { return Message{Src: s.Src, Dst: s.Dst, From: s.Seq, To: s.end()} }

func (t *talk) answered() bool { return t.Response.Src.IsValid() }

// ask adds a segment to the request; one that was sent again adds nothing.
func (t *talk) ask(s Segment) {
	if !after(s.end(), t.Request.To) {
		return
	}
	t.Request.To = s.end()
	if len(t.head) < 2*keep {
		t.head = append(t.head, s.Data...)
	}
}

func (t *talk) answer(s Segment) {
	switch {
	case !t.answered():
		t.Response = message(s)
	case after(s.end(), t.Response.To):
		t.Response.To = s.end()
	}
}

// after tells whether sequence number a is behind b.
func after(a, b uint32) bool { return int32(a-b) > 0 }
