// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

const (
	environmentPrefix = "LAYERTRACE_"

	configFlag   = "config"
	vnicFlag     = "vnic"
	deepFlag     = "deep"
	insecureFlag = "otlp-insecure"
	helpFlag     = "help" // added by cobra, not a setting
)

// Load completes a parsed flag set with the environment (from os.Environ), the YAML
// file and its parts, then validates c, which must be the Config of that set. Errors
// name the setting and its source.
func Load(fs *pflag.FlagSet, c *Config, environ []string) error {
	env, err := readEnvironment(fs, environ)
	if err != nil {
		return err
	}
	file := c.File
	if set, ok := env[configFlag]; ok && !fs.Changed(configFlag) {
		file = set.items[0]
		c.File = file
	}
	settings := map[string]setting{}
	if file != "" {
		parts, err := partsOf(file)
		if err != nil {
			return fmt.Errorf("read settings: %w; correct --config", err)
		}
		for _, name := range append(parts, file) { // the file overrides its parts
			data, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("read settings: %w; correct --config", err)
			}
			some, err := readFile(fs, name, data, environ)
			if err != nil {
				return err
			}
			maps.Copy(settings, some)
		}
	}
	maps.Copy(settings, env) // the environment overrides the file
	if err := apply(fs, settings); err != nil {
		return err
	}
	_, set := settings[vnicFlag]
	c.VNICDefault = !set && !fs.Changed(vnicFlag)
	if _, set := settings[insecureFlag]; !set && !fs.Changed(insecureFlag) {
		c.OTLPInsecure = isNear(c.OTLPEndpoint, c.Kubernetes)
	}
	return c.validate()
}

// isNear reports whether HOST:PORT is on this machine or a service of the cluster: spans leave
// neither in clear. In a cluster, a name without a dot is a service in the own namespace.
func isNear(endpoint string, cluster bool) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		host = endpoint
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsLoopback()
	}
	host = strings.TrimSuffix(host, ".")
	return host == "" || host == "localhost" || cluster && !strings.Contains(host, ".") || strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".svc.cluster.local")
}

// partsOf returns the parts of a file of settings, by name: FILE.d/*.yaml. So each
// component of a kustomize overlay can bring settings along without replacing others.
func partsOf(file string) (parts []string, err error) {
	entries, err := os.ReadDir(file + ".d")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // sorted
		if filepath.Ext(e.Name()) == ".yaml" {
			parts = append(parts, filepath.Join(file+".d", e.Name()))
		}
	}
	return parts, nil
}

// setting is the value of one key, with its source.
type setting struct {
	items  []string // one value, or those of a list
	list   bool     // items is a list, not text to split
	source string   // for error messages
}

// apply sets the flags that the command line does not set.
func apply(fs *pflag.FlagSet, settings map[string]setting) error {
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	sort.Strings(names) // for the same error every time
	for _, name := range names {
		s, flag := settings[name], fs.Lookup(name)
		if flag.Changed {
			continue
		}
		if err := setFlag(flag, s); err != nil {
			return fmt.Errorf("%s: %w", s.source, err)
		}
	}
	return nil
}

func setFlag(flag *pflag.Flag, s setting) error {
	if !s.list {
		if err := flag.Value.Set(s.items[0]); err != nil {
			return fmt.Errorf("set %s (%s): %w", flag.Name, flag.Value.Type(), err)
		}
		return nil
	}
	slice, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return fmt.Errorf("%s takes one value, not a list", flag.Name)
	}
	if err := slice.Replace(s.items); err != nil {
		return fmt.Errorf("set %s: %w", flag.Name, err)
	}
	return nil
}

// names returns the names of all settings.
func names(fs *pflag.FlagSet) []string {
	var all []string
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Name != helpFlag {
			all = append(all, f.Name)
		}
	})
	return all
}

func known(fs *pflag.FlagSet, name string) bool {
	return name != helpFlag && fs.Lookup(name) != nil
}

// environmentName returns the environment variable of a flag: LAYERTRACE_ and the
// name in upper case, with _ for -.
func environmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// serviceLink matches the variables that Kubernetes sets in pods for a Service whose
// name starts with "layertrace". They are not settings, and must not stop the agent
// (Kubernetes documentation, Service, "Environment variables").
var serviceLink = regexp.MustCompile(
	`^LAYERTRACE_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)$`)

// readEnvironment returns the settings in environ. It rejects unknown ones.
func readEnvironment(fs *pflag.FlagSet, environ []string) (map[string]setting, error) {
	settings := map[string]setting{}
	for _, entry := range environ {
		variable, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(variable, environmentPrefix)
		if !ok {
			continue
		}
		name := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if known(fs, name) && environmentName(name) == variable {
			settings[name] = setting{items: []string{value}, source: "environment variable " + variable}
			continue
		}
		if serviceLink.MatchString(variable) {
			continue
		}
		return nil, fmt.Errorf("unknown environment variable %s%s", variable, hint(name, names(fs), agentCommand, environmentName))
	}
	return settings, nil
}

// readFile parses YAML settings: one flat map from flag names to scalars or lists of
// scalars, in which $(NAME) is a variable of the environment. It rejects unknown and
// duplicate keys.
func readFile(fs *pflag.FlagSet, file string, data []byte, environ []string) (map[string]setting, error) {
	var raw map[string]any
	if err := yaml.UnmarshalStrict(data, &raw); err != nil {
		return nil, fmt.Errorf("%s is not a valid YAML map of settings: %w", file, err)
	}
	settings := map[string]setting{}
	for key, value := range raw {
		if key == configFlag {
			return nil, fmt.Errorf("%s: key %q is not allowed in the file itself; remove it", file, key)
		}
		if !known(fs, key) {
			return nil, fmt.Errorf("%s: unknown key %q%s", file, key, hint(key, names(fs), agentCommand, func(n string) string { return n }))
		}
		s := setting{source: file}
		if list, ok := value.([]any); ok {
			s.list = true
			for _, v := range list {
				text, err := scalar(v)
				if err != nil {
					return nil, fmt.Errorf("%s: key %q: %w", file, key, err)
				}
				s.items = append(s.items, text)
			}
		} else {
			text, err := scalar(value)
			if err != nil {
				return nil, fmt.Errorf("%s: key %q: %w", file, key, err)
			}
			s.items = []string{text}
		}
		for i := range s.items {
			var err error
			if s.items[i], err = expand(s.items[i], environ); err != nil {
				return nil, fmt.Errorf("%s: key %q: %w", file, key, err)
			}
		}
		settings[key] = s
	}
	return settings, nil
}

// reference matches $(NAME), as Kubernetes writes references to variables.
var reference = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// expand replaces references to variables of the environment.
func expand(text string, environ []string) (string, error) {
	var err error
	text = reference.ReplaceAllStringFunc(text, func(match string) string {
		name := reference.FindStringSubmatch(match)[1]
		for _, entry := range environ {
			if value, ok := strings.CutPrefix(entry, name+"="); ok {
				return value
			}
		}
		err = fmt.Errorf("the environment has no variable %s", name)
		return match
	})
	return text, err
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64: // any number, as sigs.k8s.io/yaml converts to JSON
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case nil:
		return "", fmt.Errorf("no value; set one or remove the key")
	default:
		return "", fmt.Errorf("a map, want one value or a list of values")
	}
}

// agentCommand is the command whose settings a file and the environment have.
const agentCommand = "layertrace agent"

// hint completes an error about an unknown name with similar names, formatted by
// show, or with the command whose help lists all names.
func hint(name string, all []string, command string, show func(string) string) string {
	if near := near(name, all); len(near) > 0 {
		for i, n := range near {
			near[i] = show(n)
		}
		return "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return "; see " + command + " --help"
}

// Hint completes the error "unknown flag --name" of a command, such as "layertrace
// agent".
func Hint(fs *pflag.FlagSet, name, command string) string {
	return hint(name, names(fs), command, func(n string) string { return "--" + n })
}

// near returns up to three similar names: those with an edit distance of up to a
// third of their length, and those that contain name or are contained in it.
func near(name string, all []string) []string {
	type candidate struct {
		name string
		d    int
	}
	var found []candidate
	for _, n := range all {
		d := distance(name, n)
		part := len(name) >= 4 && (strings.Contains(n, name) || strings.Contains(name, n))
		if d <= max(1, len(n)/3) || part {
			found = append(found, candidate{n, d})
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].d < found[j].d })
	var names []string
	for _, c := range found[:min(3, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// nearest returns the most similar name, "" without one.
func nearest(name string, all []string) string {
	if n := near(name, all); len(n) > 0 {
		return n[0]
	}
	return ""
}

// distance is the Levenshtein distance: the minimum number of inserted, removed and
// replaced bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
