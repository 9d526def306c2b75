// SPDX-License-Identifier: Apache-2.0

package formats

import "testing"

// TestTable checks that no two formats share a name, header or prefix, and that
// every part has the prefix of its format.
func TestTable(t *testing.T) {
	used := map[string]Format{}
	for _, f := range All() {
		info := f.Info()
		if got, ok := Parse(info.Name); !ok || got != f {
			t.Errorf("Parse(%q) = %v, %v", info.Name, got, ok)
		}
		if (info.Header == "") == (info.Prefix == "") {
			t.Errorf("%v: want a header or a prefix", f)
		}
		names := []string{"header " + info.Header + info.Prefix}
		for _, p := range info.Parts {
			names = append(names, "header "+p.Header)
			if len(p.Header) <= len(info.Prefix) || p.Header[:len(info.Prefix)] != info.Prefix {
				t.Errorf("%v: part %s has another prefix than %s", f, p.Header, info.Prefix)
			}
		}
		for _, name := range names {
			if other, ok := used[name]; ok {
				t.Errorf("%v and %v both use %s", f, other, name)
			}
			used[name] = f
		}
	}
	if _, ok := Parse("sw8"); ok {
		t.Error("sw8 is a header, not a format")
	}
}

func TestIsToken(t *testing.T) {
	for s, want := range map[string]bool{
		"x-trace": true, "X_y.z~1!#$%&'*+^`|": true,
		"": false, "a b": false, "a:": false, "a\n": false, "\u00e4": false, "a@b": false, "a[b": false, "a{b": false,
	} {
		if got := IsToken(s); got != want {
			t.Errorf("IsToken(%q) = %v, want %v", s, got, want)
		}
	}
}
