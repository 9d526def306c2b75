// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"net/netip"
	"testing"

	"github.com/layertrace/layertrace/e2e/lab"
)

// A time between the passings of the points before and after counts as that at the point, by
// the way of the message. Any other time stays as it is.
func TestTimesBetweenPointsCount(t *testing.T) {
	c := connection{client: netip.MustParseAddrPort("10.0.0.1:40000"), server: netip.MustParseAddrPort("10.0.0.2:80")}
	from, to := lab.Pods[0], lab.Pods[0]
	for _, to = range lab.Pods {
		if to.Node != from.Node {
			break
		}
	}
	path := lab.Path(from, to)
	if len(path) != 4 {
		t.Fatalf("the path is %v, want four points", path)
	}
	// A request of two segments reaches the points at 10, 20, 30, 40 and 5 later, its
	// response at 140, 130, 120, 110 and 5 later.
	truth := &Truth{points: map[string]passages{}}
	for i, point := range path {
		p, there := passages{}, int64(10*(i+1))
		for _, s := range []packet{
			{from: client, begin: 0, end: 100, at: there}, {from: client, begin: 100, end: 200, at: there + 5},
			{from: server, begin: 0, end: 100, at: 150 - there}, {from: server, begin: 100, end: 200, at: 155 - there},
		} {
			s.connection = c
			p.add(s)
		}
		p.sort()
		truth.points[point.Name] = p
	}
	a := &Attempt{connection: c, From: from, To: to, Request: Extent{0, 200}, Response: Extent{0, 200}}
	for _, test := range []struct {
		name       string
		point      lab.Point
		seen, want Times
	}{
		{"at the neighbours' times", path[1], Times{10, 35, 120, 145}, Times{20, 25, 130, 135}},
		{"outside of the neighbours' times", path[1], Times{9, 36, 119, 146}, Times{9, 36, 119, 146}},
		{"each by itself", path[2], Times{25, 46, 115, 104}, Times{30, 46, 120, 104}},
		{"the first point, on its open side", path[0], Times{9, 14, 141, 146}, Times{9, 14, 141, 146}},
		{"the first point, on the other", path[0], Times{20, 20, 130, 140}, Times{10, 15, 140, 145}},
		{"the last point, on its open side", path[3], Times{41, 46, 109, 114}, Times{41, 46, 109, 114}},
		{"the last point, on the other", path[3], Times{30, 40, 120, 120}, Times{40, 45, 110, 115}},
		{"a point that is not on the path", lab.Point{Name: "elsewhere"}, Times{20, 25, 130, 135}, Times{20, 25, 130, 135}},
	} {
		if got := truth.between(a, test.point, test.seen); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
	// What did not pass a neighbour, or the point itself, is no bound.
	truth.points[path[0].Name] = passages{}
	seen := Times{19, 24, 131, 136}
	if got := truth.between(a, path[1], seen); got != seen {
		t.Errorf("without passings at the point before: %v, want %v", got, seen)
	}
	if got := truth.between(a, path[0], seen); got != seen {
		t.Errorf("without passings at the point: %v, want %v", got, seen)
	}
}
