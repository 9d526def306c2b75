// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

const environmentPrefix = "LAYERTRACE_"

// serviceLink matches the variables that Kubernetes sets in every pod for a
// Service whose name begins with "layertrace": they are no settings, and must
// not stop the agent (Kubernetes documentation, "Environment variables" of
// Services).
var serviceLink = regexp.MustCompile(
	`^LAYERTRACE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)$`)

// readEnvironment takes the settings out of environ and refuses unknown ones.
func readEnvironment(fs *pflag.FlagSet, environ []string) (map[string]setting, error) {
	settings := map[string]setting{}
	for _, entry := range environ {
		variable, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(variable, environmentPrefix)
		if !ok {
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if known(fs, name) && EnvironmentName(name) == variable {
			settings[name] = setting{items: []string{value}, source: "environment variable " + variable}
			continue
		}
		if serviceLink.MatchString(variable) {
			continue
		}
		return nil, fmt.Errorf("unknown environment variable %s%s", variable, hint(name, names(fs), EnvironmentName))
	}
	return settings, nil
}
