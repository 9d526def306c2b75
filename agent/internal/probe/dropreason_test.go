// SPDX-License-Identifier: Apache-2.0

package probe

import "testing"

func TestDropReasonIsNamedByTheKernel(t *testing.T) {
	if got := dropReason(2); got != "not_specified" {
		t.Errorf("reason 2 is %q, want not_specified, as in every kernel that has reasons", got)
	}
	if got := dropReason(1 << 30); got != "1073741824" {
		t.Errorf("a reason that no kernel has is %q", got)
	}
}
