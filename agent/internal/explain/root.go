// SPDX-License-Identifier: Apache-2.0

package explain

import "github.com/layertrace/layertrace/agent/internal/backend"

// Root stub until render lands.
func Root(t backend.Trace) (service, operation string) {
	for _, s := range t.Spans {
		if !s.Parent.IsValid() || service == "" {
			service, operation = s.Service, s.Name
		}
	}
	return
}
