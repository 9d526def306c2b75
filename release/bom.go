// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
)

// writeBOM writes a software bill of materials in the format of CycloneDX: the modules that
// the linker put into a program, as Go recorded them there. The agents' image has the same,
// and the certificates.
func (r *release) writeBOM(program, file string) (err error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	self := cyclonedx.Component{
		BOMRef: packageURL(info.Main.Path, r.version), Type: cyclonedx.ComponentTypeApplication,
		Name: filepath.Base(program), Version: r.version, PackageURL: packageURL(info.Main.Path, r.version),
		Licenses:           &cyclonedx.Licenses{{Expression: licenceExpression}},
		ExternalReferences: &[]cyclonedx.ExternalReference{{Type: cyclonedx.ERTypeVCS, URL: sourceURL, Comment: r.source.commit}},
	}
	components := []cyclonedx.Component{{
		BOMRef: "pkg:golang/std@" + info.GoVersion, Type: cyclonedx.ComponentTypeLibrary,
		Name: "std", Version: info.GoVersion, PackageURL: "pkg:golang/std@" + info.GoVersion,
	}}
	for _, module := range info.Deps {
		component, err := componentOf(module)
		if err != nil {
			return err
		}
		components = append(components, component)
	}
	var uses []string
	for _, component := range components {
		uses = append(uses, component.BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp:  r.source.date.Format(time.RFC3339),
		Lifecycles: &[]cyclonedx.Lifecycle{{Phase: cyclonedx.LifecyclePhaseBuild}},
		Component:  &self,
	}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: self.BOMRef, Dependencies: &uses}}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return cyclonedx.NewBOMEncoder(out, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// componentOf returns a module as a component, with the hash of go.sum.
func componentOf(module *debug.Module) (cyclonedx.Component, error) {
	if module.Replace != nil {
		module = module.Replace
	}
	sum, found := strings.CutPrefix(module.Sum, "h1:")
	digest, err := base64.StdEncoding.DecodeString(sum)
	if err != nil || !found {
		return cyclonedx.Component{}, fmt.Errorf("module %s has the sum %q, which is no hash of go.sum (h1:BASE64)", module.Path, module.Sum)
	}
	url := packageURL(module.Path, module.Version)
	return cyclonedx.Component{
		BOMRef: url, Type: cyclonedx.ComponentTypeLibrary, Scope: cyclonedx.ScopeRequired,
		Name: module.Path, Version: module.Version, PackageURL: url,
		Hashes: &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(digest)}},
	}, nil
}

// packageURL returns a module's package URL (purl). Of what versions have, only + is escaped.
func packageURL(path, version string) string {
	return "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
}
