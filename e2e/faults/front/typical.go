// SPDX-License-Identifier: Apache-2.0

package front

import (
	"time"

	"github.com/layertrace/layertrace/internal/stats"
)

// Typical keeps how long requests without a fault took lately, by what they
// asked for. The zero value is ready.
type Typical struct{ recent map[any][]time.Duration }

// recently is how many of the latest count.
const recently = 15

// Add adds a request.
func (t *Typical) Add(of any, took time.Duration) {
	if t.recent == nil {
		t.recent = map[any][]time.Duration{}
	}
	all := append(t.recent[of], took)
	t.recent[of] = all[max(0, len(all)-recently):]
}

// Median is that of the latest requests, 0 without any.
func (t *Typical) Median(of any) time.Duration {
	return stats.Median(t.recent[of])
}
