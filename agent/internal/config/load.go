// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/spf13/pflag"
)

const (
	configFlag = "config"
	helpFlag   = "help" // added by cobra, no setting
)

// Load completes a parsed flag set with the environment (as of os.Environ) and
// the YAML file, then validates c, which must be the Config of that set.
// Errors name the setting and where it came from.
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
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read settings: %w; correct --config", err)
		}
		if settings, err = readFile(fs, file, data); err != nil {
			return err
		}
	}
	for name, s := range env { // the environment wins over the file
		settings[name] = s
	}
	if err := apply(fs, settings); err != nil {
		return err
	}
	return c.validate()
}

// setting is a value of one key and its source.
type setting struct {
	items  []string // one, or those of a list
	list   bool     // items is a list, not text to be split
	source string   // for error messages
}

// apply sets the flags that the command line left alone.
func apply(fs *pflag.FlagSet, settings map[string]setting) error {
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	sort.Strings(names) // the same error every time
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
			return fmt.Errorf("bad value for %s (%s): %w", flag.Name, flag.Value.Type(), err)
		}
		return nil
	}
	slice, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return fmt.Errorf("%s takes one value, not a list", flag.Name)
	}
	if err := slice.Replace(s.items); err != nil {
		return fmt.Errorf("bad value for %s: %w", flag.Name, err)
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

// EnvironmentName returns the variable of a flag: LAYERTRACE_ and the name in
// upper case with _ for -.
func EnvironmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
