// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"maps"
	"slices"
	"testing"
)

// The testbed's topology produces the paper's rates: the share of a point's
// requests that the gateway did not send.
func TestPathsGiveThePapersRates(t *testing.T) {
	pods := map[string]Pod{}
	for _, pod := range Pods {
		if len(pod.VNIC) > 15 {
			t.Errorf("%s: an interface name has at most 15 bytes", pod.VNIC)
		}
		pods[pod.Name] = pod
	}
	// Three front pages, one through each version of reviews.
	calls := [][2]string{
		{"productpage", "reviews-v1"}, {"productpage", "reviews-v2"}, {"productpage", "reviews-v3"},
		{"reviews-v2", "ratings"}, {"reviews-v3", "ratings"},
	}
	for range 3 {
		calls = append(calls, [2]string{"gateway", "productpage"}, [2]string{"productpage", "details"})
	}
	passed, missed := map[string]float64{}, map[string]float64{}
	for _, call := range calls {
		for _, point := range Path(pods[call[0]], pods[call[1]]) {
			passed[point.Name]++
			if call[0] == "gateway" {
				missed[point.Name]++
			}
		}
	}
	var names []string
	for _, point := range Points() {
		names = append(names, point.Name)
	}
	slices.Sort(names)
	if got := slices.Sorted(maps.Keys(passed)); !slices.Equal(got, names) || len(names) != 10 {
		t.Fatalf("points on the paths %v, of the testbed %v", got, names)
	}
	want := map[string]float64{
		"istio-ingressgateway_vethgateway": 3.0 / 3, "node2_eth0": 3.0 / 5,
		"node4_eth0": 3.0 / 9, "productpage_vethproductpage": 3.0 / 9,
	}
	for _, name := range names {
		if rate := missed[name] / passed[name]; rate != want[name] {
			t.Errorf("%s: %.3f of the requests come from the gateway, want %.3f", name, rate, want[name])
		}
	}
}

func TestPathWithinANodePassesNoPhysicalInterface(t *testing.T) {
	from, err := PodByName("reviews-v3")
	if err != nil {
		t.Fatal(err)
	}
	to, err := PodByName("ratings")
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range Path(from, to) {
		if point.Interface == PNIC {
			t.Errorf("%s is on the path from %s to %s", point.Name, from.Name, to.Name)
		}
	}
}
