// SPDX-License-Identifier: Apache-2.0

package probe

import "testing"

func TestDropReasonIsNamedByTheKernel(t *testing.T) {
	// Its number is 1 in some kernels, 2 in others.
	if one, two := dropReason(1), dropReason(2); one != "not_specified" && two != "not_specified" {
		t.Errorf("reasons 1 and 2 are %q and %q, want one to be not_specified, as in every kernel that has reasons", one, two)
	}
	if got := dropReason(1 << 30); got != "1073741824" {
		t.Errorf("a reason that no kernel has is %q", got)
	}
}
