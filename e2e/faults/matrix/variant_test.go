// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"slices"
	"testing"

	"github.com/layertrace/layertrace/e2e/faults"
)

func TestVariants(t *testing.T) {
	for _, v := range Variants {
		parsed, err := ParseVariant(v.Name)
		if err != nil || parsed.Connections == 0 || parsed.Rate == 0 {
			t.Errorf("%s: %+v, %v", v.Name, parsed, err)
		}
		cases := parsed.Draw(1, 60)
		if len(cases) != 60 || !slices.ContainsFunc(cases, func(c faults.Case) bool { return c.Kind == faults.NoFault }) {
			t.Errorf("%s: %d cases", v.Name, len(cases))
		}
		for _, c := range cases {
			if v.Kinds != nil && !slices.Contains(v.Kinds, c.Kind) {
				t.Errorf("%s draws %v", v.Name, c)
			}
		}
	}
	if _, err := ParseVariant("other"); err == nil {
		t.Error("an unknown variant is taken")
	}
}
