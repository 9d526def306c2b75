// SPDX-License-Identifier: Apache-2.0

// Package ocilayout writes container images as OCI image layouts, without a daemon. The same
// files give the same bytes: owners are root, times are those of the image, and go.mod pins
// the encoder.
package ocilayout

import (
	"archive/tar"
	"bytes"
	"context"
	_ "crypto/sha256" // go-digest finds it registered with crypto
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	store "oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry"
)

// Layout has the images of one name.
type Layout struct {
	// Tag is the name in the layout (org.opencontainers.image.ref.name).
	Tag string
	// Name is the whole name, REGISTRY/REPOSITORY:TAG, under which containerd imports the
	// layout's archive (io.containerd.image.name). May be empty.
	Name string
	// Images has one image, or one for each platform: then an index has the name.
	Images []Image
}

// Image is the image of one platform.
type Image struct {
	Platform ocispec.Platform
	Config   ocispec.ImageConfig // without labels
	Files    []File
	// Annotations describe the image (annotations.md of the OCI image specification). They
	// are its labels too, for tools that only read those.
	Annotations map[string]string
	// Created is recorded, and is the time of the files. If it is zero, none is recorded,
	// and the files are of 1970.
	Created time.Time
}

// File is a file of an image. It belongs to root.
type File struct {
	// Name is the path in the image, without a slash at its start.
	Name       string
	Data       []byte
	Executable bool
}

// containerdName is the annotation of containerd (images.AnnotationImageName).
const containerdName = "io.containerd.image.name"

// Write writes an image layout (OCI image specification 1.1, image-layout.md) to the directory
// dir and returns the digest of what has the name: the manifest of the only image, or the
// index. It replaces an existing layout, and fails if the directory has other files in it.
func (l Layout) Write(ctx context.Context, dir string) (digest.Digest, error) {
	if err := (registry.Reference{Reference: l.Tag}).ValidateReferenceAsTag(); err != nil {
		return "", fmt.Errorf("version %q cannot be a tag in a registry (letters, digits, _ . - only, 128 at most): %w", l.Tag, err)
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
	top, err := l.write(ctx, next)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(next, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return top, os.Rename(next, dir)
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

func (l Layout) write(ctx context.Context, dir string) (digest.Digest, error) {
	layout, err := store.NewWithContext(ctx, dir)
	if err != nil {
		return "", err
	}
	layout.AutoSaveIndex = false // it would list the manifest of each platform too
	var manifests []ocispec.Descriptor
	for _, image := range l.Images {
		manifest, err := image.push(ctx, layout)
		if err != nil {
			return "", err
		}
		manifests = append(manifests, manifest)
	}
	if len(manifests) == 0 {
		return "", errors.New("no images")
	}
	top := manifests[0]
	if len(manifests) > 1 {
		for i := range manifests {
			manifests[i].Platform = &l.Images[i].Platform
		}
		top, err = pushJSON(ctx, layout, ocispec.MediaTypeImageIndex, ocispec.Index{
			Versioned:   specs.Versioned{SchemaVersion: 2},
			MediaType:   ocispec.MediaTypeImageIndex,
			Manifests:   manifests,
			Annotations: l.Images[0].Annotations,
		})
		if err != nil {
			return "", err
		}
	}
	top.Annotations = map[string]string{ocispec.AnnotationRefName: l.Tag}
	if l.Name != "" {
		top.Annotations[containerdName] = l.Name
	}
	text, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{top}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), text, 0o644); err != nil {
		return "", err
	}
	// The store keeps incomplete blobs there.
	return top.Digest, os.RemoveAll(filepath.Join(dir, "ingest"))
}

// push writes the image's blobs and returns the descriptor of its manifest.
func (i Image) push(ctx context.Context, layout *store.Store) (ocispec.Descriptor, error) {
	files, err := i.archive()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	compressed, err := compress(files)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := push(ctx, layout, ocispec.MediaTypeImageLayerGzip, compressed)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	text := ocispec.Image{
		Platform: i.Platform,
		Config:   i.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(files)}},
	}
	text.Config.Labels = i.Annotations
	if !i.Created.IsZero() {
		text.Created = &i.Created
	}
	config, err := pushJSON(ctx, layout, ocispec.MediaTypeImageConfig, text)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return pushJSON(ctx, layout, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      config,
		Layers:      []ocispec.Descriptor{layer},
		Annotations: i.Annotations,
	})
}

// push writes a blob, unless another image has the same.
func push(ctx context.Context, layout *store.Store, mediaType string, blob []byte) (ocispec.Descriptor, error) {
	d := content.NewDescriptorFromBytes(mediaType, blob)
	if there, err := layout.Exists(ctx, d); there || err != nil {
		return d, err
	}
	return d, layout.Push(ctx, d, bytes.NewReader(blob))
}

func pushJSON(ctx context.Context, layout *store.Store, mediaType string, value any) (ocispec.Descriptor, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return push(ctx, layout, mediaType, text)
}

// archive returns a tar archive of the files, in the order of their names, each after its
// directories: those that a runtime adds would be of the time of the import.
func (i Image) archive() ([]byte, error) {
	files := slices.Clone(i.Files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	modified := i.Created
	if modified.IsZero() {
		modified = time.Unix(0, 0)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	written := map[string]byte{".": tar.TypeDir}
	for _, file := range files {
		if !fs.ValidPath(file.Name) || written[file.Name] != 0 {
			return nil, fmt.Errorf("file %q: want a path without a slash at its start, once", file.Name)
		}
		for _, dir := range parents(file.Name) {
			switch written[dir] {
			case tar.TypeDir:
				continue
			case tar.TypeReg:
				return nil, fmt.Errorf("file %q: %s is a file, not a directory", file.Name, dir)
			}
			written[dir] = tar.TypeDir
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: modified}); err != nil {
				return nil, err
			}
		}
		written[file.Name] = tar.TypeReg
		header := &tar.Header{Name: file.Name, Mode: 0o644, Size: int64(len(file.Data)), ModTime: modified}
		if file.Executable {
			header.Mode = 0o755
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(file.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// parents returns the directories of a file, the outermost first.
func parents(name string) (dirs []string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

// compress returns data gzipped. The encoder is not the standard library's, whose output may
// change with the Go version of the build: go.mod pins this one. Level 9 takes several
// times as long as 7 and saves 1 % of the agents' image.
func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, 7)
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

// Archive writes the files in a directory as one file, a tar archive: a layout, as `ctr images import`, `kind load
// image-archive` and `skopeo copy oci-archive:` read it.
func Archive(dir, file string) error {
	temporary, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	if err := errors.Join(archive(temporary, dir), temporary.Chmod(0o644), temporary.Close()); err != nil {
		return errors.Join(fmt.Errorf("archive %s: %w", dir, err), os.Remove(temporary.Name()))
	}
	return os.Rename(temporary.Name(), file)
}

// archive writes the files of a directory, in the order of their names.
func archive(out io.Writer, dir string) error {
	w := tar.NewWriter(out)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	return errors.Join(err, w.Close())
}
