// SPDX-License-Identifier: Apache-2.0

package inject

import "github.com/layertrace/layertrace/e2e/faults"

// plainBefore is how many requests without a fault are watched before each with
// one, where what a fault took is told by what others take.
const plainBefore = 2

// kin is what requests have in common that take as long at a pod.
type kin struct {
	pod, version string
	load         bool
}

func alike(c faults.Case) kin { return kin{c.Pod, c.Version, c.Load} }
