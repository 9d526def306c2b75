// SPDX-License-Identifier: Apache-2.0

// Package oci writes the Wasm filter as an OCI image layout, from where it is
// pushed to a registry and fetched by Istio (WasmPlugin, url: oci://...).
//
// The image is what Istio calls the compat variant: an ordinary OCI image whose
// last layer, a gzipped tar archive, has the module as plugin.wasm. README.md
// tells why this one.
package oci

import (
	"bytes"
	"context"
	_ "crypto/sha256" // go-digest finds it registered with crypto
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	store "oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
)

// Write makes the directory dir an image layout (OCI image specification 1.1,
// image-layout.md) with one image, whose only file is the module, and whose name
// in the layout (org.opencontainers.image.ref.name) is the version. It returns the
// digest of the image's manifest: what Istio compares a WasmPlugin's sha256 with.
//
// The same module and version give the same bytes. A layout that is there
// already is replaced; a directory with anything else in it is an error.
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

// replaceable tells whether dir is absent, empty or an image layout.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
		return fmt.Errorf("%s has files in it and is no image layout: name another directory", dir)
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
	// Where the store keeps blobs that are not complete yet.
	return manifest.Digest, os.RemoveAll(filepath.Join(dir, "ingest"))
}
