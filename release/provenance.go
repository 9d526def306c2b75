// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/layertrace/layertrace/internal/gobuild"
)

const (
	checksumFile   = "SHA256SUMS"
	provenanceFile = "provenance.intoto.json"
)

// statement is an in-toto statement, version 1, with the predicate of SLSA provenance,
// version 1. It is not signed: it says how a release was built, and who believes it has to
// know where it comes from. A build of the same commit that gives the same digests proves more.
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     struct {
		BuildDefinition struct {
			BuildType            string            `json:"buildType"`
			ExternalParameters   map[string]string `json:"externalParameters"`
			InternalParameters   map[string]string `json:"internalParameters"`
			ResolvedDependencies []resource        `json:"resolvedDependencies"`
		} `json:"buildDefinition"`
		RunDetails struct {
			Builder struct {
				ID string `json:"id"`
			} `json:"builder"`
		} `json:"runDetails"`
	} `json:"predicate"`
}

// resource is a resource descriptor.
type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// provenance writes how the files in a directory and the images were built. It has no times:
// the same commit gives the same provenance.
func (r *release) provenance(ctx context.Context, dir string, images ...image) error {
	var s statement
	s.Type, s.PredicateType = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
	for _, i := range images {
		s.Subject = append(s.Subject, resource{Name: i.tagged(), Digest: map[string]string{"sha256": strings.TrimPrefix(i.digest, "sha256:")}})
	}
	sums, err := checksums(dir)
	if err != nil {
		return err
	}
	for _, file := range sums {
		s.Subject = append(s.Subject, resource{Name: file.name, Digest: map[string]string{"sha256": file.sha256}})
	}
	helm, err := r.goCommand(ctx, "list", "-modfile=e2e/tools/helm/go.mod", "-m", "-f={{.Version}}", "helm.sh/helm/v4")
	if err != nil {
		return err
	}
	build := &s.Predicate.BuildDefinition
	build.BuildType = sourceURL + "/blob/main/docs/release.md#how-it-is-built"
	build.ExternalParameters = map[string]string{"version": r.version, "repository": r.repository}
	build.InternalParameters = map[string]string{"go": gobuild.Toolchain, "helm": strings.TrimSpace(string(helm))}
	build.ResolvedDependencies = []resource{{URI: "git+" + sourceURL, Digest: map[string]string{"gitCommit": r.source.commit}}}
	s.Predicate.RunDetails.Builder.ID = r.builder
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, provenanceFile), append(text, '\n'), 0o644)
}

// checksum is that of a file, whose name has slashes.
type checksum struct{ name, sha256 string }

// checksums returns those of all files in a directory, in the order of their names.
func checksums(dir string) (sums []checksum, err error) {
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		file, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer file.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, file); err != nil {
			return err
		}
		sums = append(sums, checksum{name, hex.EncodeToString(hash.Sum(nil))})
		return nil
	})
	return sums, err
}

// writeChecksums writes the checksums of all files in a directory, for sha256sum --check.
func writeChecksums(dir string) error {
	sums, err := checksums(dir)
	if err != nil {
		return fmt.Errorf("compute checksums: %w", err)
	}
	var text strings.Builder
	for _, file := range sums {
		fmt.Fprintf(&text, "%s  %s\n", file.sha256, file.name)
	}
	return os.WriteFile(filepath.Join(dir, checksumFile), []byte(text.String()), 0o644)
}
