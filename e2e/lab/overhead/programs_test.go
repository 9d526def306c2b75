// SPDX-License-Identifier: Apache-2.0

package overhead

import (
	"reflect"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// Two agents with a program of the same name, one that did not run, and one of
// somebody else.
func TestProgramsPerRequest(t *testing.T) {
	others := map[ebpf.ProgramID]counted{1: {name: "other"}}
	before := map[ebpf.ProgramID]counted{1: {"other", 5, 5}, 2: {"read", 10, 1000}, 3: {"read", 0, 0}, 4: {"sweep", 3, 3}}
	after := map[ebpf.ProgramID]counted{1: {"other", 50, 50}, 2: {"read", 30, 5000}, 3: {"read", 20, 2000}, 4: {"sweep", 3, 3}}
	want := []Program{{Name: "read", Runs: 4, Time: 150 * time.Nanosecond}}
	if got := perRequest(10, others, before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("programs %+v, want %+v", got, want)
	}
}
