// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"oras.land/oras-go/v2"
	store "oras.land/oras-go/v2/content/oci"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

// From layout to registry as oras cp does it, and from there by Istio's rules,
// with the library that Istio fetches with.
func TestFetchByIstiosRules(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	written := mustWrite(t, dir, module)
	repository := startRegistry(t) + "/layertrace/filter"
	pushLayout(t, dir, repository)

	for _, ref := range []string{repository + ":" + version, repository + "@" + written.String()} {
		t.Run(strings.TrimPrefix(ref, repository), func(t *testing.T) {
			parsed, err := name.ParseReference(ref, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			found, err := remote.Get(parsed, remote.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			image, err := found.Image()
			if err != nil {
				t.Fatal(err)
			}
			// A WasmPlugin's sha256 is compared with this one, and a digest in its
			// url must be the same: an index around the image would break that.
			if got, err := image.Digest(); err != nil || got.String() != written.String() || got != found.Digest {
				t.Errorf("digest of the image %v (%v), of what the reference names %v, want %v", got, err, found.Digest, written)
			}
			got, err := pluginOf(image)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, module) {
				t.Errorf("fetched %d bytes that are not the module of %d", len(got), len(module))
			}
		})
	}
}

// pluginOf finds the module in an image as Istio (pkg/wasm/imagefetcher.go, 1.12
// and later) does in the compat variant: the manifest is not Docker's, the last
// layer is OCI's gzipped tar, the file's base name is plugin.wasm.
func pluginOf(image v1.Image) ([]byte, error) {
	manifest, err := image.Manifest()
	if err != nil {
		return nil, err
	}
	if manifest.MediaType != types.OCIManifestSchema1 {
		return nil, fmt.Errorf("manifest of type %s", manifest.MediaType)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) == 0 {
		return nil, fmt.Errorf("%d layers: %w", len(layers), err)
	}
	last := layers[len(layers)-1]
	if mediaType, err := last.MediaType(); err != nil || mediaType != types.OCILayer {
		return nil, fmt.Errorf("last layer of type %s: %w", mediaType, err)
	}
	blob, err := last.Compressed()
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	unzipped, err := gzip.NewReader(blob)
	if err != nil {
		return nil, err
	}
	files := tar.NewReader(unzipped)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no plugin.wasm in the last layer")
		}
		if err != nil {
			return nil, err
		}
		if path.Base(header.Name) == "plugin.wasm" {
			return io.ReadAll(files)
		}
	}
}

// startRegistry serves the distribution API on a loopback port and returns
// host:port.
func startRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func pushLayout(t *testing.T, dir, repository string) {
	t.Helper()
	source, err := store.NewFromFS(t.Context(), os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	target, err := orasremote.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	target.PlainHTTP = true
	if _, err := oras.Copy(t.Context(), source, version, target, version, oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
}
