// SPDX-License-Identifier: Apache-2.0

// Package envoypatch holds the patches that make Envoy put the trace context
// in front of the other request headers, and tells which releases they fit.
package envoypatch

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Version is the content of the file ENVOY_VERSION.
type Version struct {
	// Istio is the release of istio/proxy that the image is built from: 1.29.0.
	Istio string
	// Envoy is the minor release of Envoy that it ships: 1.37.
	Envoy string
	// Supported are the minor releases of Envoy that the patches fit.
	Supported []string
}

var (
	release = regexp.MustCompile(`^[1-9]\d*\.\d+\.\d+$`)
	minor   = regexp.MustCompile(`^[1-9]\d*\.\d+$`)
)

// ReadVersion reads a file of KEY=VALUE lines, empty lines and # comments. All
// three keys have to be there, once.
func ReadVersion(path string) (Version, error) {
	file, err := os.Open(path)
	if err != nil {
		return Version{}, fmt.Errorf("read the Envoy version: %w", err)
	}
	defer file.Close()

	values := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains([]string{"ISTIO", "ENVOY", "SUPPORTED"}, key) || values[key] != "" {
			return Version{}, fmt.Errorf("%s: line %q: want ISTIO, ENVOY and SUPPORTED=VALUE, once each", path, line)
		}
		values[key] = value
	}
	if err := lines.Err(); err != nil {
		return Version{}, fmt.Errorf("read the Envoy version: %w", err)
	}
	v := Version{Istio: values["ISTIO"], Envoy: values["ENVOY"], Supported: strings.Fields(values["SUPPORTED"])}
	return v, v.check(path)
}

func (v Version) check(path string) error {
	if !release.MatchString(v.Istio) {
		return fmt.Errorf("%s: ISTIO=%s: want a release such as 1.29.0", path, v.Istio)
	}
	for _, envoy := range append([]string{v.Envoy}, v.Supported...) {
		if !minor.MatchString(envoy) {
			return fmt.Errorf("%s: Envoy release %q: want a minor release such as 1.37", path, envoy)
		}
	}
	if !slices.Contains(v.Supported, v.Envoy) {
		return fmt.Errorf("%s: ENVOY=%s is not among SUPPORTED", path, v.Envoy)
	}
	return nil
}
