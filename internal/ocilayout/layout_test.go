// SPDX-License-Identifier: Apache-2.0

package ocilayout

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Each directory comes once, before its files, all of root and of the image's time.
func TestFilesComeAfterTheirDirectories(t *testing.T) {
	created := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	data, err := Image{Created: created, Files: []File{
		{Name: "run", Data: []byte("#!"), Executable: true}, {Name: "etc/ssl/b"}, {Name: "etc/ssl/a", Data: []byte("x")}, {Name: "etc/c"},
	}}.archive()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for archive := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o %d:%d", header.Name, header.Mode, header.Uid, header.Gid))
		if !header.ModTime.Equal(created) {
			t.Errorf("%s is of %v", header.Name, header.ModTime)
		}
	}
	want := []string{"etc/ 755 0:0", "etc/c 644 0:0", "etc/ssl/ 755 0:0", "etc/ssl/a 644 0:0", "etc/ssl/b 644 0:0", "run 755 0:0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNamesThatLeaveTheImageAreRefused(t *testing.T) {
	for _, files := range [][]File{{{Name: "/etc"}}, {{Name: "../x"}}, {{Name: ""}}, {{Name: "a/"}}, {{Name: "a"}, {Name: "a"}}} {
		if _, err := (Image{Files: files}).archive(); err == nil {
			t.Errorf("%v: no error", files)
		}
	}
}

// A file in the place of another's directory would be lost.
func TestFileInThePlaceOfADirectory(t *testing.T) {
	_, err := Image{Files: []File{{Name: "a"}, {Name: "a/b"}}}.archive()
	if err == nil || !strings.Contains(err.Error(), `"a/b"`) {
		t.Errorf("got %v", err)
	}
}

// Two platforms may have the same layer. The library that reads the index did not write it.
func TestIndexOfPlatforms(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	var images []Image
	for _, arch := range []string{"amd64", "arm64"} {
		images = append(images, Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Files: []File{{Name: "same"}}})
	}
	digest, err := Layout{Tag: "1", Name: "example.org/a:1", Images: images}.Write(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(top); err != nil {
		t.Error(err)
	}
	list, err := top.IndexManifest()
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].Digest.String() != digest.String() {
		t.Fatalf("%v, %v: want one name with %s", list, err, digest)
	}
	index, err := top.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	platforms, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range platforms.Manifests {
		got = append(got, one.Platform.String())
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := (Layout{Tag: "1"}).Write(t.Context(), dir); err == nil {
		t.Error("a layout without images: no error")
	}
}
