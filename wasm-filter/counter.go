// SPDX-License-Identifier: Apache-2.0

package main

// counter is one of the proxy's, or nothing where the proxy refused to make it.
type counter struct {
	host host // nil: refused
	id   uint32
}

func newCounter(h host, name string) counter {
	id, err := h.defineCounter(name)
	if err != nil {
		h.warn("layertrace: define counter " + name + ": " + err.Error() + "; it will not be counted")
		return counter{}
	}
	return counter{host: h, id: id}
}

func (c counter) increment() {
	if c.host != nil {
		c.host.increment(c.id)
	}
}
