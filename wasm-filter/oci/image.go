// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotations tell what the image is (annotations.md of the OCI image
// specification). There is no time of creation and no commit: both would make
// two builds of the same code differ.
func annotations(version string) map[string]string {
	return map[string]string{
		ocispec.AnnotationTitle:       "layertrace Wasm filter",
		ocispec.AnnotationDescription: "Puts the trace context in front of a request's other headers",
		ocispec.AnnotationSource:      "https://github.com/layertrace/layertrace",
		ocispec.AnnotationVersion:     version,
		ocispec.AnnotationLicenses:    "Apache-2.0 AND BSD-3-Clause", // the filter and its SDK; Go's runtime
	}
}

// imageConfig is the image's configuration; files is the digest of the layer's
// archive before compression. The labels say the same as the annotations, for
// tools that know Docker's labels only.
func imageConfig(files digest.Digest, version string) ocispec.Image {
	return ocispec.Image{
		// Of the platform of an image that docker build makes from the module, as
		// Istio documents it. A module runs anywhere, and Istio does not look here;
		// but some tools that copy images refuse an operating system that they do
		// not know.
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ocispec.ImageConfig{Labels: annotations(version)},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{files}},
	}
}
