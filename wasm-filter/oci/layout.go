// SPDX-License-Identifier: Apache-2.0

// Package oci writes the Wasm filter as an OCI image layout, from where it is
// pushed to a registry and fetched by Istio (WasmPlugin, url: oci://...).
//
// The image is what Istio calls the compat variant: an ordinary OCI image whose
// last layer, a gzipped tar archive, has the module as plugin.wasm. README.md
// gives the reasons.
package oci

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layertrace/layertrace/internal/ocilayout"
)

// fileName is the name that Istio looks for in a layer.
const fileName = "plugin.wasm"

// Write writes an image layout to the directory dir. It has one image, whose only file is the
// module, and whose name in the layout is the version. Write returns the digest of the
// image's manifest, which Istio compares with a WasmPlugin's sha256.
//
// The same module and version give the same bytes. Write replaces an existing
// layout, and fails if the directory has other files in it.
func Write(ctx context.Context, dir string, module []byte, version string) (digest.Digest, error) {
	return ocilayout.Layout{Tag: version, Images: []ocilayout.Image{{
		// The platform of an image that docker build makes from the module, as Istio
		// documents it. A module runs anywhere, and Istio ignores the platform, but
		// some tools that copy images reject an unknown operating system.
		Platform:    ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Files:       []ocilayout.File{{Name: fileName, Data: module}},
		Annotations: annotations(version),
	}}}.Write(ctx, dir)
}

// annotations describe the image (annotations.md of the OCI image specification).
// A time of creation or a commit would make two builds of the same code differ.
func annotations(version string) map[string]string {
	return map[string]string{
		ocispec.AnnotationTitle:       "layertrace Wasm filter",
		ocispec.AnnotationDescription: "Moves the trace context to the start of a request's headers",
		ocispec.AnnotationSource:      "https://github.com/layertrace/layertrace",
		ocispec.AnnotationVersion:     version,
		ocispec.AnnotationLicenses:    "Apache-2.0 AND BSD-3-Clause", // the filter and its SDK; Go's runtime
	}
}
