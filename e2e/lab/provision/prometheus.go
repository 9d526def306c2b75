// SPDX-License-Identifier: Apache-2.0

package provision

import "context"

// Prometheus returns the paths of Prometheus and its promtool. When they are not
// in the cache they are built with the module versions of e2e/tools/prometheus
// in the checkout: without service discovery, which is most of Prometheus, and
// without the pages of its user interface, which the module does not have.
func Prometheus(ctx context.Context, checkout string, progress Progress) (server, promtool string, err error) {
	program := module{version: "3.16.0", tools: "prometheus", tags: "remove_all_sd", minutes: "4"}
	program.name, program.pkg = "prometheus", "github.com/prometheus/prometheus/cmd/prometheus"
	if server, err = program.get(ctx, checkout, progress); err != nil {
		return "", "", err
	}
	program.name, program.pkg = "promtool", "github.com/prometheus/prometheus/cmd/promtool"
	promtool, err = program.get(ctx, checkout, progress)
	return server, promtool, err
}
