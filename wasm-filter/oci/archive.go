// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"time"

	"github.com/klauspost/compress/gzip"
)

// fileName is the name under which Istio looks for the module in a layer.
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

// compress returns data gzipped. It is not the standard library's encoder, whose
// output may change with the Go version that happens to run the build: this one's
// version is pinned in go.mod.
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
