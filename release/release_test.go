// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/e2e/testrun"
	"github.com/layertrace/layertrace/internal/gobuild"
	"github.com/layertrace/layertrace/istio"
)

const (
	testVersion    = "1.2.3-rc.1"
	testRepository = "registry.example:5000/team"
)

// commitDate is the date of the test's commit.
var commitDate = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// commitCheckout copies the files of this checkout, as they are, into a new repository with one
// commit.
func commitCheckout(t *testing.T) string {
	t.Helper()
	dir, checkout := t.TempDir(), testrun.Checkout(t)
	for file := range strings.SplitSeq(strings.TrimRight(run(t, checkout, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(checkout, file))
		if errors.Is(err, os.ErrNotExist) { // removed, and not yet from the index
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	date := commitDate.Format(time.RFC3339)
	t.Setenv("SOURCE_DATE_EPOCH", "")
	t.Setenv("GIT_COMMITTER_DATE", date)
	t.Setenv("GIT_AUTHOR_DATE", date)
	run(t, dir, "git", "init", "--quiet")
	run(t, dir, "git", "add", "--all")
	run(t, dir, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=test")
	return dir
}

// run runs a program in a directory and returns its output; it must succeed.
func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd.Args, err, stderr.String())
	}
	return stdout.String()
}

// makeRelease builds a release of the repository in a directory, and returns where it is.
func makeRelease(t *testing.T, checkout string) (*release, string) {
	t.Helper()
	t.Chdir(checkout)
	r := &release{version: testVersion, repository: testRepository, builder: "https://example.org/builder", progress: t.Logf}
	if err := r.prepare(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(r.temporary); err != nil {
			t.Error(err)
		}
	})
	out := filepath.Join(checkout, "out", "release")
	if err := r.all(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	return r, out
}

// One release, built in two clones, and everything that is in it.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles layertrace for two architectures, and Helm")
	}
	checkout := commitCheckout(t)
	r, dir := makeRelease(t, checkout)
	second := filepath.Join(t.TempDir(), "a", "clone")
	run(t, checkout, "git", "clone", "--quiet", checkout, second)

	t.Run("the same in another folder", func(t *testing.T) {
		_, other := makeRelease(t, second)
		if diff := cmp.Diff(read(t, dir, checksumFile), read(t, other, checksumFile)); diff != "" {
			t.Errorf("here - there +\n%s", diff)
		}
	})
	t.Run("checksums", func(t *testing.T) { testChecksums(t, dir) })
	t.Run("image", func(t *testing.T) { testImage(t, r, dir) })
	t.Run("archive", func(t *testing.T) { testArchive(t, dir) })
	t.Run("registry", func(t *testing.T) { testRegistry(t, dir) })
	t.Run("bill of materials", func(t *testing.T) { testBOM(t, checkout, dir) })
	t.Run("provenance", func(t *testing.T) { testProvenance(t, r, dir) })
	t.Run("names by digest", func(t *testing.T) { testNames(t, checkout, dir) })
	t.Run("version", func(t *testing.T) {
		var got map[string]any
		if err := json.Unmarshal([]byte(run(t, dir, "./layertrace-linux-amd64", "version", "--json")), &got); err != nil {
			t.Fatal(err)
		}
		if got["version"] != "v"+testVersion || got["commit"] != r.source.commit || got["date"] != commitDate.Format(time.RFC3339) || got["go"] != gobuild.Toolchain {
			t.Errorf("it is %v", got)
		}
	})
	t.Run("not from changed files", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(second, "new"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Chdir(second)
		for _, c := range []struct {
			version    string
			onlyImages bool
		}{{testVersion, false}, {testVersion, true}, {istio.Version, false}} {
			changed := &release{version: c.version}
			if err := changed.prepare(t.Context(), c.onlyImages); err == nil || !strings.Contains(err.Error(), "files differ from commit "+r.source.commit) {
				t.Errorf("%+v: got %v", c, err)
			}
		}
		changed := &release{version: istio.Version}
		if err := changed.prepare(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(changed.temporary)
		if revision, found := changed.annotations()["org.opencontainers.image.revision"]; found {
			t.Errorf("the image of changed files is of commit %s", revision)
		}
	})
}

func read(t *testing.T, dir, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// sha256sum agrees, and no file is left out.
func testChecksums(t *testing.T, dir string) {
	run(t, dir, "sha256sum", "--check", "--strict", "--quiet", checksumFile)
	listed := []string{checksumFile}
	for line := range strings.Lines(read(t, dir, checksumFile)) {
		_, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed = append(listed, file)
	}
	there := strings.Fields(run(t, dir, "find", ".", "-type", "f", "-printf", "%P\n"))
	slices.Sort(there)
	slices.Sort(listed)
	if diff := cmp.Diff(there, listed); diff != "" {
		t.Errorf("there - listed +\n%s", diff)
	}
	for _, want := range []string{"layertrace-linux-amd64", "layertrace-linux-arm64", "agent.tar", "filter.tar", "layertrace.wasm", "layertrace-man.tar", "layertrace-" + testVersion + ".tgz", provenanceFile} {
		if !slices.Contains(there, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

// theIndex reads the index of the agents' image with a library that did not write it.
func theIndex(t *testing.T, dir string) (v1.ImageIndex, v1.Descriptor) {
	t.Helper()
	top, err := layout.ImageIndexFromPath(filepath.Join(dir, "agent.oci"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := top.IndexManifest()
	if err != nil || len(list.Manifests) != 1 {
		t.Fatalf("%v names, %v", list, err)
	}
	index, err := top.ImageIndex(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index, list.Manifests[0]
}

func testImage(t *testing.T, r *release, dir string) {
	index, entry := theIndex(t, dir)
	if err := validate.Index(index); err != nil {
		t.Errorf("the image is not valid: %v", err)
	}
	want := map[string]string{"org.opencontainers.image.ref.name": testVersion, "io.containerd.image.name": testRepository + "/agent:" + testVersion}
	if diff := cmp.Diff(want, entry.Annotations); diff != "" {
		t.Errorf("annotations of the name (-want +got):\n%s", diff)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, one := range manifest.Manifests {
		platforms = append(platforms, one.Platform.String())
		image, err := index.Image(one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		testPlatform(t, r, dir, image, one.Platform.Architecture)
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %v", platforms)
	}
}

// testPlatform checks the image of one platform: its configuration, owners, modes and times of
// its files, and what they are.
func testPlatform(t *testing.T, r *release, dir string, image v1.Image, arch string) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != arch || config.OS != "linux" || !config.Created.Equal(commitDate) {
		t.Errorf("%s: configuration for %s/%s of %v", arch, config.OS, config.Architecture, config.Created)
	}
	if c := config.Config; c.User != "0:0" || !slices.Equal(c.Entrypoint, []string{"/layertrace"}) || !slices.Equal(c.Cmd, []string{"agent"}) {
		t.Errorf("%s: user %s, %v %v", arch, c.User, c.Entrypoint, c.Cmd)
	}
	labels := config.Config.Labels
	for label, want := range map[string]string{
		"version": testVersion, "revision": r.source.commit, "source": "https://github.com/layertrace/layertrace", "created": commitDate.Format(time.RFC3339),
		"licenses": "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)", "title": "layertrace agent",
	} {
		if got := labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("%s: %s is %q, want %q", arch, label, got, want)
		}
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(manifest.Annotations, labels); diff != "" {
		t.Errorf("%s: annotations - labels +\n%s", arch, diff)
	}

	content := mutate.Extract(image)
	defer content.Close()
	files := map[string][]byte{}
	for archive := tar.NewReader(content); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		mode := int64(0o644)
		if header.Typeflag == tar.TypeDir || header.Name == "layertrace" {
			mode = 0o755
		}
		if header.Uid != 0 || header.Gid != 0 || header.Uname+header.Gname != "" || header.Mode != mode || !header.ModTime.Equal(commitDate) {
			t.Errorf("%s: %s is of %d:%d %q, mode %o, %v", arch, header.Name, header.Uid, header.Gid, header.Uname, header.Mode, header.ModTime)
		}
		if files[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
	testProgram(t, arch, files)
	if _, filter := pinnedNames(t, dir); !bytes.Contains(files["layertrace"], []byte(filter)) {
		t.Errorf("%s: the program does not name the filter's image %s", arch, filter)
	}
	testCertificates(t, files["etc/ssl/certs/ca-certificates.crt"])
}

// testProgram checks that the image's program is a static one for the architecture, and that
// all its modules have their licence with them.
func testProgram(t *testing.T, arch string, files map[string][]byte) {
	t.Helper()
	program, err := elf.NewFile(bytes.NewReader(files["layertrace"]))
	if err != nil {
		t.Fatal(err)
	}
	if machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; program.Machine != machine {
		t.Errorf("%s: the program is for %v", arch, program.Machine)
	}
	if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 || program.Section(".interp") != nil {
		t.Errorf("%s: the program is not static: %v, %v", arch, libraries, err)
	}
	info, err := buildinfo.Read(bytes.NewReader(files["layertrace"]))
	if err != nil {
		t.Fatal(err)
	}
	licensed := map[string]bool{}
	for file := range files {
		licensed[filepath.Dir(file)] = true
	}
	for _, module := range info.Deps {
		if !licensed["LICENSES/"+module.Path] {
			t.Errorf("%s: module %s is without its licence", arch, module.Path)
		}
	}
	if !licensed["LICENSES/std"] || len(files["LICENSES/GPL-2.0-only.txt"]) == 0 {
		t.Errorf("%s: the licences of Go or of the project are missing", arch)
	}
}

func testCertificates(t *testing.T, text []byte) {
	t.Helper()
	count := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !certificate.IsCA {
			t.Errorf("certificate %d is none of an authority: %v", count, err)
		}
		count++
	}
	if count < 50 || !x509.NewCertPool().AppendCertsFromPEM(text) {
		t.Errorf("%d certificates of authorities", count)
	}
}

// The archives have the layouts' files, and man pages of all commands, which name the release's image.
func testArchive(t *testing.T, dir string) {
	pages := strings.Fields(run(t, dir, "tar", "--list", "--file=layertrace-man.tar"))
	for _, want := range []string{"layertrace.1", "layertrace-install.1", "layertrace-explain.1"} {
		if !slices.Contains(pages, want) {
			t.Errorf("the man pages %v lack %s", pages, want)
		}
	}
	agent, _ := pinnedNames(t, dir)
	page := strings.ReplaceAll(run(t, dir, "tar", "--extract", "--to-stdout", "--file=layertrace-man.tar", "layertrace-install.1"), `\-`, "-")
	if !strings.Contains(page, agent) || strings.Contains(page, istio.AgentRepository) {
		t.Errorf("the man page of install does not name the image %s, or names another one", agent)
	}
	for _, image := range []string{"agent", "filter"} {
		unpacked := t.TempDir()
		run(t, dir, "tar", "--extract", "--file="+image+".tar", "--directory="+unpacked)
		run(t, dir, "diff", "--recursive", image+".oci", unpacked)
	}
}

// Pushed to a registry, the image has the digest that the release names.
func testRegistry(t *testing.T, dir string) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	index, _ := theIndex(t, dir)
	tag, err := name.NewTag(strings.TrimPrefix(server.URL, "http://") + "/layertrace/agent:" + testVersion)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	found, err := remote.Head(tag)
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(read(t, dir, "images.txt"), "\n"); first != testRepository+"/agent:"+testVersion+"@"+found.Digest.String()+" agent.oci" {
		t.Errorf("images.txt has %s, the registry %s", first, found.Digest)
	}
}

// The bill of materials has the modules of the program and no others, in the versions of go.mod.
func testBOM(t *testing.T, checkout, dir string) {
	required := map[string]bool{}
	for line := range strings.Lines(read(t, checkout, "go.mod")) {
		if fields := strings.Fields(strings.TrimPrefix(line, "require ")); len(fields) > 1 {
			required[fields[0]+"@"+fields[1]] = true
		}
	}
	for _, arch := range architectures {
		program := "layertrace-linux-" + arch
		info, err := buildinfo.ReadFile(filepath.Join(dir, program))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"std@" + gobuild.Toolchain}
		for _, module := range info.Deps {
			want = append(want, module.Path+"@"+module.Version)
		}
		var bom cyclonedx.BOM
		if err := cyclonedx.NewBOMDecoder(strings.NewReader(read(t, dir, program+".cdx.json")), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
			t.Fatal(err)
		}
		licences := read(t, dir, program+".licenses.txt")
		var got []string
		for _, component := range *bom.Components {
			module := component.Name + "@" + component.Version
			got = append(got, module)
			if component.PackageURL != "pkg:golang/"+strings.ReplaceAll(module, "+", "%2B") || component.BOMRef != component.PackageURL {
				t.Errorf("%s has the package URL %s, the reference %s", module, component.PackageURL, component.BOMRef)
			}
			if !strings.Contains(licences, "==> "+component.Name+"/") {
				t.Errorf("%s is without its licence", module)
			}
			if component.Name != "std" && (!required[module] || component.Hashes == nil || len((*component.Hashes)[0].Value) != 64) {
				t.Errorf("%s is not in go.mod, or has no hash: %v", module, component.Hashes)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("program - bill +\n%s", diff)
		}
		for _, direct := range []string{"github.com/cilium/ebpf", "go.opentelemetry.io/proto/otlp", "k8s.io/client-go"} {
			if !slices.ContainsFunc(got, func(m string) bool { return strings.HasPrefix(m, direct+"@") }) {
				t.Errorf("%s is missing", direct)
			}
		}
		if bom.Metadata.Component.Name != program || bom.Metadata.Component.Version != testVersion || bom.Metadata.Timestamp != commitDate.Format(time.RFC3339) {
			t.Errorf("it is of %s %s, %s", bom.Metadata.Component.Name, bom.Metadata.Component.Version, bom.Metadata.Timestamp)
		}
	}
}

// The provenance has every file and image with its digest, and the commit.
func testProvenance(t *testing.T, r *release, dir string) {
	var s statement
	decoder := json.NewDecoder(strings.NewReader(read(t, dir, provenanceFile)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, subject := range s.Subject {
		got[subject.Name] = subject.Digest["sha256"]
	}
	want := map[string]string{}
	for line := range strings.Lines(read(t, dir, "images.txt")) {
		pinned, _, _ := strings.Cut(line, " ")
		image, digest, _ := strings.Cut(pinned, "@sha256:")
		want[image] = digest
	}
	for line := range strings.Lines(read(t, dir, checksumFile)) {
		sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if file != provenanceFile {
			want[file] = sum
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	if s.Type != "https://in-toto.io/Statement/v1" || s.PredicateType != "https://slsa.dev/provenance/v1" {
		t.Errorf("it is %s about %s", s.Type, s.PredicateType)
	}
	build := s.Predicate.BuildDefinition
	if build.ResolvedDependencies[0].Digest["gitCommit"] != r.source.commit || build.ExternalParameters["version"] != testVersion || s.Predicate.RunDetails.Builder.ID != "https://example.org/builder" {
		t.Errorf("it was built of %v, with %v, by %s", build.ResolvedDependencies, build.ExternalParameters, s.Predicate.RunDetails.Builder.ID)
	}
}

// pinnedNames returns the names of both images with their digests, without tags.
func pinnedNames(t *testing.T, dir string) (agent, filter string) {
	t.Helper()
	lines := strings.Split(read(t, dir, "images.txt"), "\n")
	_, agentDigest, _ := strings.Cut(strings.Fields(lines[0])[0], "@")
	_, filterDigest, _ := strings.Cut(strings.Fields(lines[1])[0], "@")
	return testRepository + "/agent@" + agentDigest, testRepository + "/filter@" + filterDigest
}

// The released program, chart and component name the same images, by digest.
func testNames(t *testing.T, checkout, dir string) {
	agent, filter := pinnedNames(t, dir)
	_, filterDigest, _ := strings.Cut(filter, "@sha256:")
	want := []string{agent, "oci://" + filter, filterDigest}

	program := run(t, dir, "./layertrace-linux-amd64", "install", "--dry-run")
	if diff := cmp.Diff(want, imagesOf(t, program)); diff != "" {
		t.Errorf("install (-want +got):\n%s", diff)
	}
	run(t, dir, "./layertrace-linux-amd64", "install", "--dry-run", "--reorder=lua") // takes no module

	helm, err := provision.Helm(t.Context(), checkout, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir() // not the user's repositories and plugins
	for _, variable := range []string{"HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"} {
		t.Setenv(variable, home)
	}
	chart := filepath.Join(dir, "layertrace-"+testVersion+".tgz")
	run(t, dir, helm, "lint", "--strict", chart)
	if diff := cmp.Diff(want, imagesOf(t, run(t, dir, helm, "template", "layertrace", chart))); diff != "" {
		t.Errorf("chart (-want +got):\n%s", diff)
	}

	disk := filesys.MakeFsOnDisk()
	own := t.TempDir()
	for folder, text := range map[string]string{
		"component": read(t, dir, "kustomization.yaml"),
		"overlay":   "resources: [../istio/overlays/wasmplugin]\ncomponents: [../component]\n",
	} {
		if err := os.Mkdir(filepath.Join(own, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := disk.WriteFile(filepath.Join(own, folder, "kustomization.yaml"), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(own, "istio"), os.DirFS(filepath.Join(checkout, "istio"))); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, filepath.Join(own, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, imagesOf(t, string(text))); diff != "" {
		t.Errorf("kustomize (-want +got):\n%s", diff)
	}
}

// imagesOf returns the agents' image, and URL and digest of the WasmPlugin's module.
func imagesOf(t *testing.T, documents string) []string {
	t.Helper()
	found := make([]string, 3)
	for document := range strings.SplitSeq("\n"+documents, "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatal(err)
		}
		var err error
		switch o.GetKind() {
		case "DaemonSet":
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			found[0], _, err = unstructured.NestedString(containers[0].(map[string]any), "image")
		case "WasmPlugin":
			found[1], _, err = unstructured.NestedString(o.Object, "spec", "url")
			if err == nil {
				found[2], _, err = unstructured.NestedString(o.Object, "spec", "sha256")
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestVersions(t *testing.T) {
	for version, good := range map[string]bool{
		"1.2.3": true, "0.1.0": true, "1.2.3-rc.1": true, "10.20.30-alpha-1": true,
		"v1.2.3": false, "1.2": false, "1.2.3.4": false, "01.2.3": false, "1.2.3+build": false, "1.2.3-": false, "1.2.3 -X": false, "": false, "latest": false,
	} {
		if versionText.MatchString(version) != good {
			t.Errorf("%q: accepted %v, want %v", version, !good, good)
		}
	}
}

// SOURCE_DATE_EPOCH takes the place of the commit's date.
func TestSourceDateEpoch(t *testing.T) {
	for seconds, want := range map[string]int64{"1700000000": 1700000000, "soon": 0} {
		t.Setenv("SOURCE_DATE_EPOCH", seconds)
		found, err := findSource(t.Context(), testrun.Checkout(t))
		if (err == nil) != (want != 0) || err == nil && found.date.Unix() != want {
			t.Errorf("%s: %v, %v", seconds, found.date, err)
		}
	}
}

// A folder without a licence is an error: nothing is given away without its licence.
func TestLicences(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if files, err := readLicences(dir, "LICENSES/std", licenceFile); err == nil || !strings.Contains(err.Error(), "no file with a licence in") {
		t.Errorf("got %v, %v", files, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if files, err := readLicences(dir, "LICENSES/std", licenceFile); err != nil || len(files) != 1 || files[0].Name != "LICENSES/std/LICENSE" {
		t.Errorf("got %v, %v", files, err)
	}
}

// A release replaces a release, and nothing else.
func TestReplaceable(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(replaceable(dir), replaceable(filepath.Join(dir, "absent"))); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceable(dir); err == nil || !strings.Contains(err.Error(), "is not a release") {
		t.Errorf("a folder with other files: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, checksumFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replaceable(dir); err != nil {
		t.Error(err)
	}
}
