// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCPUReadsTheUsage(t *testing.T) {
	g := &Group{Path: t.TempDir()}
	if _, err := g.CPU(); err == nil {
		t.Error("no error without cpu.stat")
	}
	for text, want := range map[string]time.Duration{
		"usage_usec 1500\nuser_usec 900\nsystem_usec 600\n": 1500 * time.Microsecond,
		"usage_usec x\n":  -1,
		"user_usec 900\n": -1,
	} {
		if err := os.WriteFile(filepath.Join(g.Path, "cpu.stat"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := g.CPU()
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("of %q: %v, %v; want %v", text, got, err, want)
		}
	}
}
