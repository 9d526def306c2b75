// SPDX-License-Identifier: Apache-2.0

// Package identity tells which workload is behind an interface or an address.
// Its first source is a static file; whoever asks owns the interface, so that
// another source can take its place.
package identity

// Workload is what a user would call "the service".
type Workload struct {
	// Service is the workload's name, such as reviews-v2.
	Service string `json:"service"`
	// Namespace and Pod are the Kubernetes names, "" outside of it.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	// Node is the name of the node that the workload runs on.
	Node string `json:"node,omitempty"`
}
