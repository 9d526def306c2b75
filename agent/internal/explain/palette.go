// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
)

// look is how a layer is shown: as a letter, so that no colour is needed.
type look struct {
	layer  observe.Layer
	letter byte
	ansi   string // SGR: dark letters on a colour
}

// looks are those of the layers, from the process outwards.
var looks = []look{
	{observe.Application, 'A', "30;42"},
	{observe.ProtocolStack, 'P', "30;43"},
	{observe.VirtualNetwork, 'V', "30;46"},
	{observe.NodeDriver, 'D', "30;45"},
	{observe.RelayNetwork, 'R', "30;44"},
}

func lookOf(l observe.Layer) look {
	for _, each := range looks {
		if each.layer == l {
			return each
		}
	}
	return look{l, '?', "7"}
}

// also names the layers that could not be told from the first, as "+V+D".
func also(first observe.Layer, covers []observe.Layer) string {
	var b strings.Builder
	for _, l := range covers {
		if l != first {
			b.WriteString("+" + string(lookOf(l).letter))
		}
	}
	return b.String()
}

// paint writes in colours, or not.
type paint bool

func (p paint) in(sgr, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

const (
	bold  = "1"
	faint = "2"
	alarm = "1;31"
)
