package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sort"

	"github.com/layertrace/layertrace/agent/internal/backend"
	"github.com/layertrace/layertrace/agent/internal/explain"
)

func main() {
	src, _ := backend.NewJaeger("http://10.10.0.254:16686", http.DefaultClient)
	traces, err := src.Search(context.Background(), backend.Query{Service: "istio-ingressgateway", Limit: 600})
	if err != nil {
		panic(err)
	}
	fmt.Println("traces", len(traces))
	base := traces
	reps := explain.All(traces, base)
	if len(os.Args) > 1 {
		for _, i := range []int{0, 1, 2} {
			b, _ := json.MarshalIndent(reps[i], "", " ")
			fmt.Println(string(b))
		}
		return
	}
	keys := map[string][]int64{}
	var maxEx []int64
	kinds := map[string]int{}
	var unat []float64
	for _, r := range reps {
		kinds[fmt.Sprint(len(r.Hops), " hops, notes ", r.Notes)]++
		var m int64
		for _, l := range r.Layers {
			k := fmt.Sprint(l.Layer, " ", l.Place, l.Covers)
			keys[k] = append(keys[k], l.Time)
			if e := l.Time - l.Typical; e > m {
				m = e
			}
		}
		maxEx = append(maxEx, m)
		unat = append(unat, float64(r.Unattributed)/float64(r.Total))
	}
	sort.Float64s(unat)
	fmt.Println("unattributed median", unat[len(unat)/2], "max", unat[len(unat)-1], "min", unat[0])
	for k, v := range kinds {
		fmt.Println(v, k)
	}
	var names []string
	for k := range keys {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		v := keys[k]
		sort.Slice(v, func(i, j int) bool { return v[i] < v[j] })
		q := func(p float64) float64 { return float64(v[min(int(p*float64(len(v))), len(v)-1)]) / 1e3 }
		fmt.Printf("%-50s n=%4d p50 %8.0f p90 %8.0f p99 %8.0f max %8.0f us\n", k, len(v), q(.5), q(.9), q(.99), q(1))
	}
	// groups of n consecutive of same shape
	for _, n := range []int{1, 3, 5, 7} {
		byShape := map[string][]explain.Report{}
		for _, r := range reps {
			k := ""
			for _, h := range r.Hops {
				k += h.To
			}
			byShape[k] = append(byShape[k], r)
		}
		type ex struct {
			e int64
			k string
			t float64
		}
		var ms []ex
		for _, rs := range byShape {
			for i := 0; i+n <= len(rs); i += n {
				vals := map[string][]int64{}
				typ := map[string]int64{}
				for _, r := range rs[i : i+n] {
					for _, l := range r.Layers {
						k := fmt.Sprint(l.Layer, " ", l.Place)
						vals[k] = append(vals[k], l.Time)
						typ[k] = l.Typical
					}
				}
				m := ex{}
				for k, v := range vals {
					sort.Slice(v, func(i, j int) bool { return v[i] < v[j] })
					if e := v[len(v)/2] - typ[k]; e > m.e {
						m = ex{e: e, k: k}
					}
				}
				ms = append(ms, m)
			}
		}
		sort.Slice(ms, func(i, j int) bool { return ms[i].e < ms[j].e })
		fmt.Println("group", n, "of", len(ms))
		for _, p := range []float64{.5, .8, .9, .95, .98, .99, 1} {
			m := ms[min(int(p*float64(len(ms))), len(ms)-1)]
			fmt.Printf("   q%.2f %d us %s\n", p, m.e/1000, m.k)
		}
	}
	sort.Slice(maxEx, func(i, j int) bool { return maxEx[i] < maxEx[j] })
	for _, p := range []float64{.5, .8, .9, .95, .98, .99, 1} {
		fmt.Printf("max excess q%.2f %d us\n", p, maxEx[min(int(p*float64(len(maxEx))), len(maxEx)-1)]/1000)
	}
}
