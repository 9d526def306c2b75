// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/layertrace/layertrace/internal/gobuild"
	"github.com/layertrace/layertrace/internal/ocilayout"
)

// agentImage returns the agents' image for a platform: one static program, the CA certificates
// for OTLP over TLS, and the licences of what is in it. Nothing else is needed, and nothing
// of the machine that builds it is in it.
//
// It runs as root with three capabilities (istio/agent/daemonset.yaml), as Kubernetes adds
// capabilities only for root.
func (r *release) agentImage(ctx context.Context, arch, program string) (ocilayout.Image, error) {
	data, err := os.ReadFile(program)
	if err != nil {
		return ocilayout.Image{}, err
	}
	licences, err := r.licences(ctx, program)
	if err != nil {
		return ocilayout.Image{}, fmt.Errorf("collect licences: %w", err)
	}
	return ocilayout.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		Config:   ocispec.ImageConfig{User: "0:0", Entrypoint: []string{"/layertrace"}, Cmd: []string{"agent"}, WorkingDir: "/"},
		Files: append(licences,
			ocilayout.File{Name: "layertrace", Data: data, Executable: true},
			ocilayout.File{Name: "etc/ssl/certs/ca-certificates.crt", Data: certificates()},
		),
		Annotations: r.annotations(),
		Created:     r.source.date,
	}, nil
}

// annotations describe the agents' image (annotations.md of the OCI image specification).
func (r *release) annotations() map[string]string {
	all := map[string]string{
		ocispec.AnnotationTitle:         "layertrace agent",
		ocispec.AnnotationDescription:   "Adds spans of sockets, interfaces and the network to the traces of Istio and Envoy",
		ocispec.AnnotationSource:        sourceURL,
		ocispec.AnnotationURL:           sourceURL,
		ocispec.AnnotationDocumentation: sourceURL + "/blob/main/docs/install.md",
		ocispec.AnnotationLicenses:      licenceExpression,
		ocispec.AnnotationVersion:       r.version,
		ocispec.AnnotationCreated:       r.source.date.Format(time.RFC3339),
	}
	if !r.source.modified { // else it is of no commit
		all[ocispec.AnnotationRevision] = r.source.commit
	}
	return all
}

// certificates returns the roots of Mozilla's store in the version of go.mod, in PEM. Those
// that Mozilla trusts for certificates before a date only are left out: the format has no
// place for the date.
func certificates() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return out.Bytes()
}

// licenceFile matches the names of files that have to go with a copy, anyFile those of a folder
// that has nothing else.
var (
	licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)`)
	anyFile     = regexp.MustCompile(``)
)

// licences returns the texts of the project's licences, as LICENSES/NAME, and of the modules
// in a program, as LICENSES/MODULE/NAME.
func (r *release) licences(ctx context.Context, program string) ([]ocilayout.File, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, err
	}
	files, err := readLicences(filepath.Join(r.checkout, "LICENSES"), "LICENSES", anyFile)
	if err != nil {
		return nil, err
	}
	args := []string{"list", "-m", "-json", "golang.org/x/crypto/x509roots/fallback"}
	for _, module := range info.Deps {
		args = append(args, module.Path)
	}
	out, err := r.goCommand(ctx, args...)
	if err != nil {
		return nil, err
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var module struct{ Path, Dir string }
		if err := decoder.Decode(&module); err != nil {
			return nil, err
		}
		more, err := readLicences(module.Dir, "LICENSES/"+module.Path, licenceFile)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", module.Path, err)
		}
		files = append(files, more...)
	}
	root, err := r.goCommand(ctx, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	library, err := readLicences(strings.TrimSpace(string(root)), "LICENSES/std", licenceFile)
	if err != nil {
		return nil, fmt.Errorf("the standard library (GOROOT; Go of go.dev/dl has its licence there): %w", err)
	}
	return append(files, library...), nil
}

// writeLicences writes the licences of a program, which have to go with it, into one file.
func (r *release) writeLicences(ctx context.Context, program, to string) error {
	files, err := r.licences(ctx, program)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, file := range files {
		fmt.Fprintf(&text, "==> %s <==\n%s\n", strings.TrimPrefix(file.Name, "LICENSES/"), file.Data)
	}
	return os.WriteFile(to, text.Bytes(), 0o644)
}

// readLicences returns the matching files of a directory, of which there has to be one.
func readLicences(dir, to string, names *regexp.Regexp) (files []ocilayout.File, err error) {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if err != nil || entry.IsDir() || entry.Type()&fs.ModeSymlink != 0 || !names.MatchString(entry.Name()) {
			continue
		}
		var data []byte
		data, err = os.ReadFile(filepath.Join(dir, entry.Name()))
		files = append(files, ocilayout.File{Name: path.Join(to, entry.Name()), Data: data})
	}
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no file with a licence in %q", dir)
	}
	return files, err
}

// goCommand runs a go command in the checkout, with the toolchain of the programs, and returns
// its output.
func (r *release) goCommand(ctx context.Context, args ...string) ([]byte, error) {
	return r.command(ctx, "go", args...)
}

// command runs a program in the checkout as goCommand does.
func (r *release) command(ctx context.Context, program string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = r.checkout, append(gobuild.Environment(runtime.GOOS, runtime.GOARCH), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.source.date.Unix()))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), args[0], err, stderr.String())
	}
	return stdout.Bytes(), nil
}
