// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"regexp"
	"strconv"
)

// majorMinor is how versions of Istio and of kernels begin.
var majorMinor = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

// parseVersion returns the first two numbers of a version.
func parseVersion(text string) (major, minor int, err error) {
	m := majorMinor.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("%q does not begin with a version such as 1.31", text)
	}
	if major, err = strconv.Atoi(m[1]); err == nil {
		minor, err = strconv.Atoi(m[2])
	}
	return major, minor, err
}

// olderThan reports whether a version is older than major.minor. The empty text
// stands for the newest.
func olderThan(version string, major, minor int) (bool, error) {
	if version == "" {
		return false, nil
	}
	m, n, err := parseVersion(version)
	return m < major || m == major && n < minor, err
}
