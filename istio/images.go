// SPDX-License-Identifier: Apache-2.0

package istio

import "strings"

// Names of the images of this checkout: the only place. go generate ./istio writes them into
// the manifests and the chart. A release links its own names into the programs and writes
// them into its chart (make release).
const (
	// Repository is the registry and owner. Nothing is published yet, and nobody can
	// publish under the reserved domain example (RFC 2606): with a name that a registry
	// could have, nodes would run what a stranger put there.
	Repository = "registry.example/layertrace"
	// Version is the images' tag.
	Version = "devel"

	// AgentRepository and FilterRepository are the images' names without tag.
	AgentRepository  = Repository + "/agent"
	FilterRepository = Repository + "/filter"
)

// Set by a release (-ldflags "-X ...istio.agentImage=... -X ...istio.filterImage=...").
var (
	agentImage  = AgentRepository + ":" + Version
	filterImage string
)

// AgentImage returns the agents' image: of a release by digest.
func AgentImage() string { return agentImage }

// FilterModule returns the location of the Wasm filter and the digest of its image, 64
// hexadecimal digits; "" if this is not a release: nothing is published then.
func FilterModule() (url, sha256 string) {
	if filterImage == "" {
		return "", ""
	}
	_, sha256, _ = strings.Cut(filterImage, "@sha256:")
	return "oci://" + filterImage, sha256
}
