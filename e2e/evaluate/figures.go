// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/layertrace/layertrace/e2e/lab"
)

// theme has the colours of a figure.
type theme struct {
	back, front, grid color.Color
	// series are by case, in the order of Cases, distinct for the colour-blind
	// (Okabe and Ito's).
	series []color.Color
}

var (
	light = theme{
		back: rgb(0xffffff), front: rgb(0x1f2328), grid: rgb(0xd8dee4),
		series: []color.Color{rgb(0x57606a), rgb(0x0072b2), rgb(0xd55e00), rgb(0x009e73), rgb(0xcc79a7)},
	}
	dark = theme{
		back: rgb(0x15181c), front: rgb(0xe6edf3), grid: rgb(0x373e47),
		series: []color.Color{rgb(0xadbac7), rgb(0x56b4e9), rgb(0xf0883e), rgb(0x2ecc9a), rgb(0xe39bc4)},
	}
)

func rgb(v uint32) color.Color {
	return color.RGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 0xff}
}

// faded mixes a colour with the background's.
func (t theme) faded(c color.Color) color.Color {
	r1, g1, b1, _ := c.RGBA()
	r2, g2, b2, _ := t.back.RGBA()
	mix := func(a, b uint32) uint8 { return uint8((a*35 + b*65) / 100 >> 8) }
	return color.RGBA{R: mix(r1, r2), G: mix(g1, g2), B: mix(b1, b2), A: 0xff}
}

// figure draws one figure in a theme.
type figure struct {
	// Name is that of the files, Title the caption.
	Name, Title string
	// Alt describes the figure in words.
	Alt           string
	width, height vg.Length
	draw          func(theme) (*plot.Plot, error)
}

// figures returns Figures 4, 5 and 6.
func (r Results) figures(s Summary) []figure {
	all := []figure{{
		Name: "figure4", Title: "Figure 4. Acquisition rate of trace IDs at the ten capture points",
		Alt:   "Bars per capture point: Envoy's order in the paper and here, and reordered in the paper and here. The table below has the values.",
		width: 11 * vg.Inch, height: 3.8 * vg.Inch,
		draw: func(t theme) (*plot.Plot, error) { return drawRates(s, t) },
	}}
	for i, rate := range Rates {
		all = append(all, figure{
			Name:  fmt.Sprintf("figure%d", 5+i),
			Title: fmt.Sprintf("Figure %d. Distribution of mean response times at %g requests/s", 5+i, rate),
			Alt:   "One step curve per case: the share of runs whose mean response time is at most that of the horizontal axis. The table below has the ratios.",
			width: 9 * vg.Inch, height: 3.8 * vg.Inch,
			draw: func(t theme) (*plot.Plot, error) { return r.drawCDF(rate, t) },
		})
	}
	return all
}

// newPlot returns an empty plot in the theme's colours.
func newPlot(t theme) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = t.back
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = t.front, t.front
		t.write(&axis.Label.TextStyle, 11)
		t.write(&axis.Tick.Label, 10)
		axis.Padding = vg.Points(4)
	}
	t.write(&p.Legend.TextStyle, 10)
	p.Legend.Padding = vg.Points(3)
	return p
}

func (t theme) write(style *text.Style, size float64) {
	style.Color = t.front
	style.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
}

// save returns the figure as an SVG and as a PNG.
func (f figure) save(t theme) (svg, png []byte, err error) {
	p, err := f.draw(t)
	if err != nil {
		return nil, nil, fmt.Errorf("draw %s: %w", f.Name, err)
	}
	var vector, image bytes.Buffer
	canvas := vgsvg.New(f.width, f.height)
	place(p, draw.New(canvas), t)
	if _, err := canvas.WriteTo(&vector); err != nil {
		return nil, nil, fmt.Errorf("draw %s: %w", f.Name, err)
	}
	pixels := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(f.width, f.height), vgimg.UseDPI(144))}
	place(p, draw.New(pixels), t)
	if _, err := pixels.WriteTo(&image); err != nil {
		return nil, nil, fmt.Errorf("draw %s: %w", f.Name, err)
	}
	return vector.Bytes(), image.Bytes(), nil
}

// place draws a plot with its legend beside it, where it hides nothing.
func place(p *plot.Plot, canvas draw.Canvas, t theme) {
	canvas.SetColor(t.back)
	canvas.Fill(canvas.Path())
	const margin = 8 // points
	canvas = draw.Crop(canvas, margin, -margin, margin, -margin)
	legend := p.Legend
	legend.Top, legend.Left = true, true
	// An SVG's reader may have no Liberation fonts but wider ones.
	width := 1.2*legend.Rectangle(canvas).Size().X + vg.Points(2*margin)
	legend.Draw(draw.Crop(canvas, canvas.Size().X-width+vg.Points(margin), 0, 0, 0))
	shown := *p
	shown.Legend = plot.NewLegend()
	shown.Draw(draw.Crop(canvas, 0, -width, 0, 0))
}

// drawRates draws Figure 4: per capture point a bar of the paper and one of this
// evaluation, in Envoy's order and reordered.
func drawRates(s Summary, t theme) (*plot.Plot, error) {
	p := newPlot(t)
	p.Y.Label.Text = "trace IDs acquired, %"
	p.Y.Min, p.Y.Max = 0, 102
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 25, Label: "25"}, {Value: 50, Label: "50"}, {Value: 75, Label: "75"}, {Value: 100, Label: "100"}}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = nil, t.grid
	p.Add(grid)
	const width = 12
	bars := []struct {
		name  string
		value func(PointRates) float64
		color color.Color
	}{
		{"Envoy's order, paper", func(r PointRates) float64 { return r.Paper }, t.faded(t.series[0])},
		{"Envoy's order, here", func(r PointRates) float64 { return r.Stock }, t.series[0]},
		{"reordered, paper", func(PointRates) float64 { return 1 }, t.faded(t.series[1])},
		{"reordered, here", func(r PointRates) float64 { return r.Reordered }, t.series[1]},
	}
	for i, bar := range bars {
		var values plotter.Values
		for _, point := range s.Figure4 {
			values = append(values, 100*bar.value(point))
		}
		chart, err := plotter.NewBarChart(values, vg.Points(width))
		if err != nil {
			return nil, err
		}
		chart.Color, chart.LineStyle.Width = bar.color, 0
		chart.Offset = vg.Points(width * (float64(i) - 1.5))
		p.Add(chart)
		p.Legend.Add(bar.name, chart)
		if i > 1 {
			continue // all 100, as the axis shows
		}
		labels, err := barLabels(values, chart.Offset, t)
		if err != nil {
			return nil, err
		}
		p.Add(labels)
	}
	var names []string
	for i, point := range lab.Points() {
		name := strings.TrimPrefix(strings.TrimSuffix(point.Name, "_"+point.Interface), "istio-ingress")
		// The paper's name, or an empty line, so that all are at the same height.
		names = append(names, name+"\n"+cmp.Or(paperPoints[s.Figure4[i].Point].name, " "))
	}
	p.NominalX(names...)
	p.X.Tick.Label.YAlign = draw.YTop
	p.X.Min, p.X.Max = -0.6, float64(len(names))-0.4
	return p, nil
}

// barLabels writes the values below 100 over their bars.
func barLabels(values plotter.Values, offset vg.Length, t theme) (*plotter.Labels, error) {
	var at plotter.XYLabels
	for i, value := range values {
		if value < 99.995 {
			at.XYs = append(at.XYs, plotter.XY{X: float64(i), Y: value})
			at.Labels = append(at.Labels, fmt.Sprintf("%.0f", value))
		}
	}
	labels, err := plotter.NewLabels(at)
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		t.write(&labels.TextStyle[i], 9)
		labels.TextStyle[i].XAlign = draw.XCenter
	}
	labels.Offset = vg.Point{X: offset, Y: vg.Points(2)}
	return labels, nil
}

// drawCDF draws Figure 5 or 6: the distribution of the runs' mean response times.
func (r Results) drawCDF(rate float64, t theme) (*plot.Plot, error) {
	p := newPlot(t)
	p.X.Label.Text = fmt.Sprintf("mean response time of a run at %g requests/s, ms", rate)
	p.Y.Label.Text = "share of the runs"
	p.Y.Min, p.Y.Max = 0, 1.02
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 0.25, Label: "¼"}, {Value: 0.5, Label: "½"}, {Value: 0.75, Label: "¾"}, {Value: 1, Label: "1"}}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = t.grid, t.grid
	p.Add(grid)
	var curves []plotter.XYs
	lowest, highest := 0.0, 0.0
	for _, c := range r.Cases {
		curve, err := r.cdf(rate, c)
		if err != nil {
			return nil, err
		}
		curves = append(curves, curve)
		first, last := curve[0].X, curve[len(curve)-1].X
		if lowest == 0 || first < lowest {
			lowest = first
		}
		highest = max(highest, last)
	}
	margin := 0.03*(highest-lowest) + 0.01
	for i, c := range r.Cases {
		curve := curves[i]
		// From the left edge at 0 to the right edge at 1.
		curve = slices.Concat(plotter.XYs{{X: lowest - margin, Y: 0}}, curve, plotter.XYs{{X: highest + margin, Y: 1}})
		line, err := plotter.NewLine(curve)
		if err != nil {
			return nil, err
		}
		line.StepStyle = plotter.PostStep
		line.Color, line.Width = t.series[c.index()], vg.Points(1.8)
		if !c.InPaper {
			line.Dashes = []vg.Length{vg.Points(5), vg.Points(2.5)}
		}
		p.Add(line)
		p.Legend.Add(c.Title, line)
	}
	p.X.Min, p.X.Max = lowest-margin, highest+margin
	return p, nil
}

// cdf returns the share of a case's runs (0 to 1) whose mean response time, in ms, is at
// most that of the point.
func (r Results) cdf(rate float64, c Case) (points plotter.XYs, err error) {
	runs, err := r.runs(rate, c.Name)
	if err != nil {
		return nil, err
	}
	var means []float64
	for _, run := range runs {
		means = append(means, average(run)/1e3)
	}
	slices.Sort(means)
	for i, m := range means {
		points = append(points, plotter.XY{X: m, Y: float64(i+1) / float64(len(means))})
	}
	return points, nil
}

// index returns the case's place in Cases.
func (c Case) index() int {
	return slices.IndexFunc(Cases, func(other Case) bool { return other.Name == c.Name })
}
