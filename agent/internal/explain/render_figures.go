// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/layertrace/layertrace/internal/observe"
)

// This file has the figures of a report, formatted once for text and page.

// layerTable is the table of layers of a report or a comparison. All numbers in text
// and page are from here.
type layerTable struct {
	rows       []layerRow
	compared   bool            // with a baseline
	shareTitle string          // what a share is of
	longest    int64           // the full width of a bar, in ns
	merged     []observe.Layer // those after the first, of all rows and segments
}

// layerRow is a row of the table, formatted; BaselineText, ExcessText and ShareText are
// "" if unknown.
type layerRow struct {
	LayerTime
	Place                                                string
	TimeText, Exact, BaselineText, ExcessText, ShareText string
	Blamed                                               bool
}

// What a share is of: of the trace's time, or of what the slow traces took more.
const (
	shareOfTime   = "of time"
	shareOfExcess = "of excess"
)

func (r *Report) layerTable() layerTable {
	names := r.names()
	t := layerTable{compared: r.Baseline.Traces > 0, shareTitle: shareOfTime}
	for _, l := range r.Layers {
		t.add(l, names, &r.Verdict)
	}
	if r.Unattributed != 0 {
		t.add(remainder(r.Unattributed, r.Total), names, &r.Verdict)
	}
	shares := make([]float64, len(t.rows))
	for i := range t.rows {
		shares[i] = t.rows[i].Share
	}
	for i, text := range percents(shares) {
		t.rows[i].ShareText = text
	}
	for i := range r.Hops {
		for _, s := range r.Hops[i].Segments {
			t.merged = append(t.merged, others(s.Layer, s.MergedLayers)...)
		}
	}
	return t
}

func (c *Comparison) layerTable() layerTable {
	names := c.names()
	t := layerTable{compared: c.Baseline > 0, shareTitle: shareOfExcess}
	if !t.compared {
		t.shareTitle = shareOfTime
	}
	for _, d := range c.Layers {
		t.add(LayerTime{
			Layer: d.Layer, Location: d.Location, Namespace: d.Namespace, Time: d.Slow, Baseline: d.Baseline, MergedLayers: d.MergedLayers,
		}, names, &c.Verdict)
		// A layer that was faster has no share in the excess.
		if row := &t.rows[len(t.rows)-1]; d.Excess >= 0 {
			row.Share, row.ShareText = d.Share, percent(d.Share)
		}
	}
	if c.Unattributed != 0 {
		t.add(remainder(c.Unattributed, c.SlowTotal), names, &c.Verdict)
		// Its baseline is unknown, so it has no share in the excess.
		if row := &t.rows[len(t.rows)-1]; !t.compared && row.Share >= 0 {
			row.ShareText = percent(row.Share)
		}
	}
	return t
}

// remainder is the row of the time that no layer has, or that several have.
func remainder(ns, whole int64) LayerTime {
	l := LayerTime{Layer: unattributed, Time: ns, Baseline: -1, Share: share(ns, whole)}
	if ns < 0 {
		l.Layer = attributedTwice
	}
	return l
}

func (t *layerTable) add(l LayerTime, names names, v *Verdict) {
	row := layerRow{
		LayerTime: l, Place: names.place(l.Layer, l.Location, l.Namespace), TimeText: duration(l.Time), Exact: exact(l.Time),
		Blamed: v.blames() && l.Layer == v.Layer && l.Location == v.Location && l.Namespace == v.Namespace &&
			slices.Equal(l.MergedLayers, v.MergedLayers),
	}
	if l.Baseline >= 0 {
		row.BaselineText, row.ExcessText = duration(l.Baseline), signedDuration(l.Time-l.Baseline)
	}
	t.rows = append(t.rows, row)
	t.longest = max(t.longest, l.Time, l.Baseline)
	t.merged = append(t.merged, others(l.Layer, l.MergedLayers)...)
}

// excessText describes the excess that the verdict blames; "" without a blamed layer. It
// is that of the row, or of the layer's slow segments if these took more or less.
func (t *layerTable) excessText(v *Verdict) string {
	if !v.blames() || v.Excess == 0 {
		return ""
	}
	of := "of the trace's time"
	if t.shareTitle == shareOfExcess {
		of = "of what the slow traces took more"
	}
	text := duration(v.Excess) + ", " + percent(v.Share) + " " + of
	if !t.compared {
		return text
	}
	for i := range t.rows {
		if row := &t.rows[i]; row.Blamed && row.ExcessText != "" && row.ExcessText != signedDuration(v.Excess) {
			return "excess of its slow segments: " + text
		}
	}
	return "excess: " + text
}

// percent writes a share of 1. Only the whole is 100 %, and only nothing is 0 %.
func percent(share float64) string {
	share = min(max(share, 0), 1)
	switch {
	case share > 0 && share < 0.01:
		return "<1 %"
	case share > 0.99 && share < 1:
		return ">99 %"
	}
	return strconv.Itoa(int(math.Round(100*share))) + " %"
}

// percents writes the shares of a whole so that they do not add up to more than 100 %:
// then those that were rounded up the most are rounded down. A negative share is "".
func percents(shares []float64) []string {
	texts, up, sum := make([]string, len(shares)), []int{}, 0
	fraction := func(i int) float64 { return 100*shares[i] - math.Floor(100*shares[i]) }
	for i, s := range shares {
		if s < 0 {
			continue
		}
		texts[i] = percent(s)
		whole, err := strconv.Atoi(strings.TrimSuffix(texts[i], " %"))
		if err != nil { // "<1 %", ">99 %"
			continue
		}
		sum += whole
		if fraction(i) >= 0.5 && whole > 1 {
			up = append(up, i)
		}
	}
	slices.SortStableFunc(up, func(a, b int) int {
		return cmp.Or(cmp.Compare(math.Round(1e6*fraction(a)), math.Round(1e6*fraction(b))), cmp.Compare(shares[a], shares[b]), cmp.Compare(b, a))
	})
	for _, i := range up {
		if sum <= 100 {
			break
		}
		texts[i] = strconv.Itoa(int(math.Floor(100*shares[i]))) + " %"
		sum--
	}
	return texts
}
