// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2"
	store "oras.land/oras-go/v2/content/oci"
	orasremote "oras.land/oras-go/v2/registry/remote"
)

const version = "1.2.3"

// module begins as every WebAssembly module does; the rest is long enough for
// more than one block of the encoder.
var module = []byte("\x00asm\x01\x00\x00\x00" + strings.Repeat("the quick brown fox ", 20_000))

func mustWrite(t *testing.T, dir string, module []byte) digest.Digest {
	t.Helper()
	d, err := Write(t.Context(), dir, module, version)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// readTree returns the content of each file under dir by its path.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			files[name+"/"] = ""
			return nil
		}
		data, err := os.ReadFile(path)
		files[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// theImage reads the layout's only image with a library that did not write it.
func theImage(t *testing.T, dir string) (v1.Image, v1.Descriptor) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Manifests) != 1 {
		t.Fatalf("%d images in the layout, want 1", len(list.Manifests))
	}
	image, err := index.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image, list.Manifests[0]
}

func TestLayoutHasWhatItsImageNeedsAndNoMore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	written := mustWrite(t, dir, module)
	image, entry := theImage(t, dir)

	if err := validate.Image(image); err != nil {
		t.Errorf("the image is not valid: %v", err)
	}
	if entry.Digest.String() != written.String() {
		t.Errorf("the index has %s, Write returned %s", entry.Digest, written)
	}
	if diff := cmp.Diff(map[string]string{"org.opencontainers.image.ref.name": version}, entry.Annotations); diff != "" {
		t.Errorf("annotations in the index (-want +got):\n%s", diff)
	}

	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	blobs := []v1.Hash{entry.Digest, manifest.Config.Digest}
	for _, layer := range manifest.Layers {
		blobs = append(blobs, layer.Digest)
	}
	files := readTree(t, dir)
	for _, blob := range blobs {
		name := filepath.Join("blobs", "sha256", blob.Hex)
		sum := sha256.Sum256([]byte(files[name]))
		if got := hex.EncodeToString(sum[:]); got != blob.Hex {
			t.Errorf("content of %s has the digest %s", name, got)
		}
		delete(files, name)
	}
	want := map[string]string{
		"./": "", "blobs/": "", "blobs/sha256/": "",
		"index.json": files["index.json"],
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`,
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files beside the blobs (-want +got):\n%s", diff)
	}
}

func TestAnnotationsAndLabels(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	mustWrite(t, dir, module)
	image, _ := theImage(t, dir)
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"org.opencontainers.image.source":   "https://github.com/layertrace/layertrace",
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "Apache-2.0 AND BSD-3-Clause",
	} {
		if got := manifest.Annotations[name]; got != want {
			t.Errorf("annotation %s: %q, want %q", name, got, want)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(manifest.Annotations, config.Config.Labels); diff != "" {
		t.Errorf("labels differ from the annotations (-annotations +labels):\n%s", diff)
	}
}

func TestSameModuleGivesSameBytes(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "deeper", "two")
	// Blobs of another module must not stay.
	mustWrite(t, second, []byte("\x00asm\x01\x00\x00\x00 an older one"))
	if a, b := mustWrite(t, first, module), mustWrite(t, second, module); a != b {
		t.Errorf("digests %s and %s", a, b)
	}
	if diff := cmp.Diff(readTree(t, first), readTree(t, second)); diff != "" {
		t.Errorf("two layouts of one module differ:\n%s", diff)
	}
	// The only other entry of the parent would be a leftover.
	entries, err := os.ReadDir(filepath.Dir(second))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left beside the layout: %v", entries)
	}
}

func TestWriteKeepsADirectoryOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "notes")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Write(t.Context(), dir, module, version)
	if err == nil || !strings.Contains(err.Error(), "not an image layout") {
		t.Errorf("Write into a directory with other files: %v, want an error about them", err)
	}
	if diff := cmp.Diff(map[string]string{"./": "", "notes": "mine"}, readTree(t, dir)); diff != "" {
		t.Errorf("the directory changed (-want +got):\n%s", diff)
	}
}

func TestWriteRefusesAVersionThatIsNoTag(t *testing.T) {
	for _, version := range []string{"", "1.2.3+dirty", "feature/x", "-1"} {
		dir := filepath.Join(t.TempDir(), "image")
		if _, err := Write(t.Context(), dir, module, version); err == nil {
			t.Errorf("Write with version %q: no error", version)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("Write with version %q left a directory (%v)", version, err)
		}
	}
}

// The layout goes to a registry as with oras cp, and from there by Istio's rules,
// with the library that Istio uses.
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
			// Istio compares a WasmPlugin's sha256, and a digest in its url, with this
			// one: an index around the image would break that.
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
