// SPDX-License-Identifier: Apache-2.0

package provision

import "context"

// Jaeger returns the path of a Jaeger v2 binary. When it is not in the cache
// it is built with the module versions of e2e/tools/jaeger in the checkout.
func Jaeger(ctx context.Context, checkout string, progress Progress) (string, error) {
	return module{
		name: "jaeger", version: "1.76.0", tools: "jaeger", minutes: "5",
		pkg: "github.com/jaegertracing/jaeger/cmd/jaeger",
	}.get(ctx, checkout, progress)
}
