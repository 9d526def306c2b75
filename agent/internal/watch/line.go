// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/layertrace/layertrace/agent/internal/explain"
	"github.com/layertrace/layertrace/internal/observe"
)

// columns are the widths of a line's columns in characters; 0: as wide as its text.
type columns struct {
	time           string // format
	peers, request int
	layer          int
	wide           bool // with the words between
}

const (
	// minWidth is the least width of a line. In a narrower terminal lines are broken.
	minWidth = 60
	// wideWidth is the width from which on times have milliseconds.
	wideWidth = 100
	// fixedWidth is the width of status, duration and marks, with the spaces between all.
	fixedWidth = 1 + 1 + 1 + statusWidth + 1 + durationWidth + 1 + marksWidth

	statusWidth, durationWidth, marksWidth = 3, 7, 2
)

// columnsOf returns the columns for a width; 0: no limit.
func columnsOf(width int) columns {
	c := columns{time: "15:04:05", wide: width == 0 || width >= wideWidth}
	if c.wide {
		c.time = "15:04:05.000"
	}
	if width == 0 {
		return c
	}
	free := max(width, minWidth) - fixedWidth - len(c.time)
	c.layer = free * 2 / 5
	c.peers = (free - c.layer) / 2
	c.request = free - c.layer - c.peers
	return c
}

// minPeers and minRequest are the widths of columns without a limit for most texts.
const minPeers, minRequest = 24, 24

// text puts the cells of a line together.
func (c columns) text(at, peers, request, status, duration, marks, layer string) string {
	line := at + " " + padded(peers, cmp.Or(c.peers, minPeers)) + " " + padded(request, cmp.Or(c.request, minRequest)) + " " +
		leftPadded(status, statusWidth) + " " + leftPadded(duration, durationWidth) + " " + padded(marks, marksWidth) + shortened(layer, c.layer)
	return strings.TrimRight(line, " ")
}

// header is the line above all others.
func (c columns) header() string {
	return c.text(padded("TIME", len(c.time)), shortened("CLIENT → SERVER", c.peers), "REQUEST", "", "TOOK", "", "MOST OF IT")
}

// line is the line of a request.
func (c columns) line(r *Request) string {
	status := "-"
	if r.Status != 0 {
		status = strconv.Itoa(r.Status)
	}
	took := "-"
	if r.Duration > 0 {
		took = explain.Duration(r.Duration.Nanoseconds())
	}
	return c.text(r.Time.Format(c.time), between(r.Client, r.Server, c.peers),
		shortened(cmp.Or(r.Method, "?")+" "+cmp.Or(r.Path, "?"), c.request),
		status, took, r.Marks.String(), c.layerText(r))
}

// layerText is where most of the time went, or why that is not known. The share is in front,
// as the end may be cut.
func (c columns) layerText(r *Request) string {
	if len(r.Layers) == 0 {
		text := "not known, because " + r.NotKnown
		if c.layer > 0 && utf8.RuneCountInString(text) > c.layer {
			text = "not known: " + r.NotKnown
		}
		return text
	}
	l := &r.Layers[0]
	text := explain.Share(l.Share) + " " + l.Title()
	switch {
	case l.Location == "":
		return text
	case c.wide:
		return text + " of " + l.Location
	case l.Location == r.Server: // as usual
		return text
	default:
		return text + " " + l.Location
	}
}

// String is the marks as one character each.
func (m Marks) String() (text string) {
	for _, one := range marks {
		if m&one.mark != 0 {
			text += one.text
		}
	}
	if len(text) > marksWidth { // what was cut is more than what was guessed
		text = strings.Replace(text, "?", "", 1)
	}
	return text
}

// names are the marks as words.
func (m Marks) names() []string {
	names := []string{}
	for _, one := range marks {
		if m&one.mark != 0 {
			names = append(names, one.name)
		}
	}
	return names
}

const arrow = " → "

// between names both ends in a width (0: any). The longer name is cut first.
func between(client, server string, width int) string {
	room := width - utf8.RuneCountInString(arrow)
	c, s := utf8.RuneCountInString(client), utf8.RuneCountInString(server)
	if width == 0 || c+s <= room {
		return client + arrow + server
	}
	half := room / 2
	switch {
	case c <= half:
		s = room - c
	case s <= room-half:
		c = room - s
	default:
		c, s = half, room-half
	}
	return shortened(client, c) + arrow + shortened(server, s)
}

// shortened cuts a text to a width (0: any), and says so.
func shortened(text string, width int) string {
	if width == 0 || utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

// folded breaks a text between words into lines of a width (0: any).
func folded(text string, width int) string {
	var b strings.Builder
	at := 0
	for i, word := range strings.Split(text, " ") {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case width > 0 && at+1+n > width:
			b.WriteString("\n  ")
			at = 2
			fallthrough
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

func padded(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

func leftPadded(text string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text))) + text
}

// jsonLayer and jsonRequest are the form of a line with --output json. docs/plain-machine.md
// describes it.
type jsonLayer struct {
	Layer    observe.Layer   `json:"layer"`
	Merged   []observe.Layer `json:"merged_layers,omitempty"`
	Location string          `json:"location,omitempty"`
	Time     int64           `json:"time_ns"`
	Share    float64         `json:"share"`
}

type jsonRequest struct {
	Time     string      `json:"time"`
	Client   string      `json:"client"`
	Server   string      `json:"server"`
	Method   string      `json:"method"`
	Path     string      `json:"path"`
	Status   int         `json:"status,omitempty"`      // no response: none
	Duration int64       `json:"duration_ns,omitempty"` // not known: none
	TraceID  string      `json:"trace_id,omitempty"`
	Layers   []jsonLayer `json:"layers"`
	NotKnown string      `json:"not_known,omitempty"`
	Marks    []string    `json:"marks"`
	Flags    []string    `json:"flags"`
}

// jsonLine is the request as one JSON object.
func jsonLine(r *Request) ([]byte, error) {
	j := jsonRequest{
		Time: r.Time.Format(time.RFC3339Nano), Client: r.Client, Server: r.Server, Method: r.Method, Path: r.Path,
		Status: r.Status, Duration: r.Duration.Nanoseconds(), TraceID: r.TraceID, Layers: []jsonLayer{},
		NotKnown: r.NotKnown, Marks: r.Marks.names(), Flags: r.Flags,
	}
	for _, l := range r.Layers {
		one := jsonLayer{Layer: l.Layers[0], Location: l.Location, Time: l.Time.Nanoseconds(), Share: l.Share}
		if len(l.Layers) > 1 {
			one.Merged = l.Layers
		}
		j.Layers = append(j.Layers, one)
	}
	return json.Marshal(j)
}
