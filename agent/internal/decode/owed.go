// SPDX-License-Identifier: Apache-2.0

package decode

// owed keeps the responses of pipelined requests apart. Responses come in the
// order of their requests (RFC 9112, section 9.3.2), so those to requests that
// were followed by another one come before the response to the last.
type owed struct {
	// waiting: nothing of the final response to the last request was seen.
	waiting bool
	// earlier is the number of responses to come before that one.
	earlier int
	// passing: what passes belongs to an earlier response, up to the next
	// start of one.
	passing bool
}

// request notes a further request and reports whether it was pipelined.
func (o *owed) request() bool {
	if o.waiting {
		o.earlier++
	}
	o.waiting = true
	return o.earlier > 0
}

// notRequest takes the last request back: it was data that looked like one.
func (o *owed) notRequest() { o.waiting = false }

// other reports whether server data belongs to an earlier request than the
// last one, and whether it is the start of such a response.
func (o *owed) other(startsFinal bool) (other, start bool) {
	switch {
	case o.earlier > 0:
		if startsFinal {
			o.earlier--
			o.passing = true
		}
		return true, startsFinal
	case o.passing && !startsFinal:
		return true, false
	}
	o.passing = false
	return false, false
}
