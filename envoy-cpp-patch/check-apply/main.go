// SPDX-License-Identifier: Apache-2.0

// Command check-apply checks that the patches fit the Envoy releases that
// ENVOY_VERSION names as supported:
//
//	go run ./envoy-cpp-patch/check-apply ENVOY-SOURCE-TREE...
//
// It takes one source tree (a checkout or an unpacked archive) per supported
// release, and further ones, such as that of a future release. It changes nothing,
// and fails if the patches do not fit a tree or a supported release is missing.
// Whether the changelog fits too is only reported: the image is built without it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	envoypatch "github.com/layertrace/layertrace/envoy-cpp-patch"
)

func main() {
	dir := flag.String("patches", "envoy-cpp-patch", "directory of the patches and of ENVOY_VERSION")
	flag.Parse()
	if err := run(os.Stdout, *dir, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "check-apply:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, dir string, trees []string) error {
	version, err := envoypatch.ReadVersion(dir + "/ENVOY_VERSION")
	if err != nil {
		return err
	}
	patches, err := envoypatch.Patches(dir)
	if err != nil {
		return err
	}
	changelogs, err := envoypatch.Changelogs(dir)
	if err != nil {
		return err
	}
	missing := slices.Clone(version.Supported)
	bad := 0
	for _, tree := range trees {
		release, err := envoypatch.TreeVersion(tree)
		if err != nil {
			return err
		}
		note := ""
		if at := slices.Index(missing, release); at >= 0 {
			missing = slices.Delete(missing, at, at+1)
		} else if !slices.Contains(version.Supported, release) {
			note = " (not among SUPPORTED in ENVOY_VERSION)"
		}
		if err := envoypatch.Check(tree, patches); err != nil {
			bad++
			fmt.Fprintf(out, "Envoy %s%s in %s: %v\n", release, note, tree, err)
			continue
		}
		changelog := "so does the changelog"
		if err := envoypatch.Check(tree, changelogs); errors.Is(err, envoypatch.ErrDoesNotApply) {
			changelog = "the changelog does not, which only a pull request needs"
		} else if err != nil {
			return err
		}
		fmt.Fprintf(out, "Envoy %s%s in %s: %d patches apply; %s\n", release, note, tree, len(patches), changelog)
	}
	switch {
	case bad > 0:
		return fmt.Errorf("%d of %d source trees: the patches do not apply", bad, len(trees))
	case len(missing) > 0:
		return fmt.Errorf("no source tree given for the supported releases %v", missing)
	}
	return nil
}
