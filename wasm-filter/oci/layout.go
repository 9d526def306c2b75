// SPDX-License-Identifier: Apache-2.0

// Package oci writes the Wasm filter as an OCI image layout, from where it is
// pushed to a registry and fetched by Istio (WasmPlugin, url: oci://...).
//
// The image is what Istio calls the compat variant: an ordinary OCI image whose
// last layer, a gzipped tar archive, has the module as plugin.wasm. README.md
// gives the reasons.
package oci

import (
	"archive/tar"
	"bytes"
	"context"
	_ "crypto/sha256" // go-digest finds it registered with crypto
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	store "oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
)

// Write writes an image layout (OCI image specification 1.1, image-layout.md) to
// the directory dir. It has one image, whose only file is the module, and whose name
// in the layout (org.opencontainers.image.ref.name) is the version. Write returns
// the digest of the image's manifest, which Istio compares with a WasmPlugin's
// sha256.
//
// The same module and version give the same bytes. Write replaces an existing
// layout, and fails if the directory has other files in it.
func Write(ctx context.Context, dir string, module []byte, version string) (digest.Digest, error) {
	if err := (registry.Reference{Reference: version}).ValidateReferenceAsTag(); err != nil {
		return "", fmt.Errorf("version %q cannot be a tag in a registry (letters, digits, _ . - only, 128 at most): %w", version, err)
	}
	dir = filepath.Clean(dir)
	if err := replaceable(dir); err != nil {
		return "", err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	next, err := os.MkdirTemp(parent, filepath.Base(dir)+".*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(next)
	manifest, err := write(ctx, next, module, version)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(next, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return manifest, os.Rename(next, dir)
}

// replaceable returns an error unless dir is absent, empty or an image layout.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
		return fmt.Errorf("%s has files in it and is not an image layout: choose another directory", dir)
	}
	return nil
}

func write(ctx context.Context, dir string, module []byte, version string) (digest.Digest, error) {
	layout, err := store.NewWithContext(ctx, dir)
	if err != nil {
		return "", err
	}
	push := func(mediaType string, blob []byte) (ocispec.Descriptor, error) {
		d := content.NewDescriptorFromBytes(mediaType, blob)
		return d, layout.Push(ctx, d, bytes.NewReader(blob))
	}
	files, err := archive(module)
	if err != nil {
		return "", err
	}
	compressed, err := compress(files)
	if err != nil {
		return "", err
	}
	layer, err := push(ocispec.MediaTypeImageLayerGzip, compressed)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(imageConfig(digest.FromBytes(files), version))
	if err != nil {
		return "", err
	}
	config, err := push(ocispec.MediaTypeImageConfig, text)
	if err != nil {
		return "", err
	}
	text, err = json.Marshal(ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      config,
		Layers:      []ocispec.Descriptor{layer},
		Annotations: annotations(version),
	})
	if err != nil {
		return "", err
	}
	manifest, err := push(ocispec.MediaTypeImageManifest, text)
	if err != nil {
		return "", err
	}
	if err := layout.Tag(ctx, manifest, version); err != nil {
		return "", err
	}
	// The store keeps incomplete blobs there.
	return manifest.Digest, os.RemoveAll(filepath.Join(dir, "ingest"))
}

// fileName is the name that Istio looks for in a layer.
const fileName = "plugin.wasm"

// archive returns a tar archive with the module in it.
func archive(module []byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{
		Name:    fileName,
		Mode:    0o644,
		Size:    int64(len(module)),
		ModTime: time.Unix(0, 0),
		Format:  tar.FormatUSTAR,
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(module); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// compress returns data gzipped. The encoder is not the standard library's, whose
// output may change with the Go version of the build: go.mod pins this one.
func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
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

// imageConfig is the image's configuration; files is the digest of the layer's
// archive before compression. The labels repeat the annotations for tools that
// only read Docker's labels.
func imageConfig(files digest.Digest, version string) ocispec.Image {
	return ocispec.Image{
		// The platform of an image that docker build makes from the module, as Istio
		// documents it. A module runs anywhere, and Istio ignores the platform, but
		// some tools that copy images reject an unknown operating system.
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ocispec.ImageConfig{Labels: annotations(version)},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{files}},
	}
}
