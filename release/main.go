// SPDX-License-Identifier: Apache-2.0

// Command release builds what a release publishes into a folder, without a container daemon
// and without a registry (make release, RELEASING.md):
//
//	go run ./release -version 1.2.3 -o out/release
//	go run ./release -images -o bin        # only the agents' image, for make images
//
// The same commit gives the same bytes, on each machine and in each folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/internal/gobuild"
	"github.com/layertrace/layertrace/internal/ocilayout"
	"github.com/layertrace/layertrace/istio"
)

const (
	sourceURL = "https://github.com/layertrace/layertrace"
	// licenceExpression is that of the program: the BPF objects have a choice of two.
	licenceExpression = "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
)

// architectures are those of programs and images: little-endian, as the BPF objects are.
var architectures = []string{"amd64", "arm64"}

// release is what is being built.
type release struct {
	checkout string
	// version is X.Y.Z, or devel.
	version string
	// repository is the registry and owner of the images.
	repository string
	// builder is a URI for the provenance: who built it.
	builder string
	source  source
	// temporary is a directory for programs that only go into images.
	temporary string
	progress  provision.Progress
}

// source is the commit that is built.
type source struct {
	commit string
	// date of the commit, or SOURCE_DATE_EPOCH.
	date     time.Time
	modified bool // files differ from the commit
}

func main() {
	r := release{progress: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	flag.StringVar(&r.version, "version", istio.Version, "version to release, X.Y.Z")
	flag.StringVar(&r.repository, "repository", istio.Repository, "registry and owner of the images, HOST/OWNER")
	flag.StringVar(&r.builder, "builder", sourceURL+"/blob/main/docs/release.md#own-builds", "URI of who builds, for the provenance")
	out := flag.String("o", filepath.Join("out", "release"), "directory to write")
	images := flag.Bool("images", false, "write only the agents' image, agent.oci and agent.tar")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := r.run(ctx, *out, *images)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func (r *release) run(ctx context.Context, out string, onlyImages bool) (err error) {
	if err := r.prepare(ctx, onlyImages); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.temporary)) }()
	if onlyImages {
		_, err := r.agent(ctx, out, "")
		return err
	}
	return r.all(ctx, out)
}

// versionText is what semantic versioning allows and a tag of an image can have: no build
// metadata.
var versionText = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// prepare checks the options and finds the source. Only an image without a version may be of
// files that are in no commit.
func (r *release) prepare(ctx context.Context, onlyImages bool) (err error) {
	if r.version != istio.Version && !versionText.MatchString(r.version) {
		return fmt.Errorf("version %q: write X.Y.Z or X.Y.Z-PRERELEASE, such as 1.2.3", r.version)
	}
	if r.checkout, err = provision.Checkout(); err != nil {
		return err
	}
	if r.source, err = findSource(ctx, r.checkout); err != nil {
		return fmt.Errorf("find the commit: %w", err)
	}
	if r.source.modified && (r.version != istio.Version || !onlyImages) {
		return fmt.Errorf("files differ from commit %s: commit them, or release from a clean clone", r.source.commit)
	}
	r.temporary, err = os.MkdirTemp("", "layertrace-release-")
	return err
}

// findSource asks git for the commit of a checkout.
func findSource(ctx context.Context, checkout string) (source, error) {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir, cmd.Stderr = checkout, os.Stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return source{}, err
	}
	changes, err := git("status", "--porcelain")
	if err != nil {
		return source{}, err
	}
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if seconds == "" {
		if seconds, err = git("log", "-1", "--format=%ct"); err != nil {
			return source{}, err
		}
	}
	date, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return source{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return source{commit: commit, date: time.Unix(date, 0).UTC(), modified: changes != ""}, nil
}

// variables of the linker for a program: its version, and the images that its install uses.
func (r *release) variables(agentImage, filterImage string) map[string]string {
	const cli = "github.com/layertrace/layertrace/agent/internal/cli."
	const names = "github.com/layertrace/layertrace/istio."
	all := map[string]string{names + "agentImage": agentImage}
	if filterImage != "" {
		all[names+"filterImage"] = filterImage
	}
	if !r.source.modified { // else it is of no commit
		all[cli+"commit"], all[cli+"date"] = r.source.commit, r.source.date.Format(time.RFC3339)
	}
	if r.version != istio.Version {
		all[cli+"version"] = "v" + r.version
	}
	return all
}

// program compiles layertrace.
func (r *release) program(ctx context.Context, arch, out string, variables map[string]string) error {
	r.progress("compiling layertrace for linux/%s", arch)
	return gobuild.Build(ctx, r.checkout, gobuild.Program{
		Package: "./agent/cmd/layertrace", Out: out, OS: "linux", Arch: arch, Variables: variables,
	})
}

// image is a name with a digest.
type image struct{ repository, tag, digest string }

func (i image) tagged() string { return i.repository + ":" + i.tag }
func (i image) pinned() string { return i.repository + "@" + i.digest }

// agent writes the agents' image into a directory, for all architectures, as a layout
// (agent.oci) and as its archive (agent.tar). The programs in it name the filter's image, "" for
// none.
func (r *release) agent(ctx context.Context, dir, filterImage string) (image, error) {
	made := image{repository: r.repository + "/agent", tag: r.version}
	layout := ocilayout.Layout{Tag: made.tag, Name: made.tagged()}
	for _, arch := range architectures {
		// By tag: a program cannot have the digest of its own image in it.
		program := filepath.Join(r.temporary, "agent-"+arch)
		if err := r.program(ctx, arch, program, r.variables(made.tagged(), filterImage)); err != nil {
			return image{}, err
		}
		one, err := r.agentImage(ctx, arch, program)
		if err != nil {
			return image{}, err
		}
		layout.Images = append(layout.Images, one)
	}
	layers := filepath.Join(dir, "agent.oci")
	digest, err := layout.Write(ctx, layers)
	if err != nil {
		return image{}, fmt.Errorf("write the agents' image: %w", err)
	}
	made.digest = digest.String()
	r.progress("%s %s", made.tagged(), made.digest)
	return made, ocilayout.Archive(layers, filepath.Join(dir, "agent.tar"))
}

// all writes the whole release into a directory, replacing an earlier one.
func (r *release) all(ctx context.Context, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := replaceable(out); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	next, err := os.MkdirTemp(filepath.Dir(out), filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(next)
	if err := r.write(ctx, next); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(next, 0o755), os.RemoveAll(out)); err != nil {
		return err
	}
	return os.Rename(next, out)
}

// replaceable returns an error unless a directory is absent, empty or an earlier release.
func replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, checksumFile))
	}
	if err != nil {
		return fmt.Errorf("%s has files in it and is not a release: choose another directory: %w", dir, err)
	}
	return nil
}

// write writes the files of a release. Each uses the digests of those before it.
func (r *release) write(ctx context.Context, dir string) error {
	filter, err := r.filter(ctx, dir)
	if err != nil {
		return err
	}
	agent, err := r.agent(ctx, dir, filter.pinned())
	if err != nil {
		return err
	}
	variables := r.variables(agent.pinned(), filter.pinned())
	for _, arch := range architectures {
		program := filepath.Join(dir, "layertrace-linux-"+arch)
		if err := r.program(ctx, arch, program, variables); err != nil {
			return err
		}
		if err := r.writeBOM(program, program+".cdx.json"); err != nil {
			return fmt.Errorf("write the bill of materials: %w", err)
		}
		if err := r.writeLicences(ctx, program, program+".licenses.txt"); err != nil {
			return fmt.Errorf("collect licences: %w", err)
		}
	}
	if err := r.manual(ctx, dir, variables); err != nil {
		return fmt.Errorf("write the man pages: %w", err)
	}
	if err := r.chart(ctx, dir, agent, filter); err != nil {
		return fmt.Errorf("package the chart: %w", err)
	}
	if err := r.names(dir, agent, filter); err != nil {
		return err
	}
	if err := r.provenance(ctx, dir, agent, filter); err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	return writeChecksums(dir)
}

// manual writes an archive of the man pages, with the names and the version of the programs.
func (r *release) manual(ctx context.Context, dir string, variables map[string]string) error {
	program, pages := filepath.Join(r.temporary, "manual"), filepath.Join(r.temporary, "man")
	err := gobuild.Build(ctx, r.checkout, gobuild.Program{
		Package: "./agent/internal/cli/manual", Out: program, OS: runtime.GOOS, Arch: runtime.GOARCH, Variables: variables,
	})
	if err != nil {
		return err
	}
	if _, err := r.command(ctx, program, pages); err != nil {
		return err
	}
	return ocilayout.Archive(pages, filepath.Join(dir, "layertrace-man.tar"))
}

// filter writes the Wasm filter, its image as a layout (filter.oci) and as the layout's archive.
func (r *release) filter(ctx context.Context, dir string) (image, error) {
	r.progress("compiling the Wasm filter")
	layers := filepath.Join(dir, "filter.oci")
	_, err := r.goCommand(ctx, "run", "./wasm-filter/build", "-o", filepath.Join(dir, "layertrace.wasm"), "-oci", layers, "-version", r.version)
	if err != nil {
		return image{}, err
	}
	digest, err := topDigest(layers)
	if err != nil {
		return image{}, err
	}
	return image{r.repository + "/filter", r.version, digest}, ocilayout.Archive(layers, filepath.Join(dir, "filter.tar"))
}
