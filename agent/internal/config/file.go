// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// readFile reads YAML settings: one flat map, keys named as the flags, values
// a scalar or a list of scalars. Unknown and duplicate keys are refused.
func readFile(fs *pflag.FlagSet, file string, data []byte) (map[string]setting, error) {
	var raw map[string]any
	if err := yaml.UnmarshalStrict(data, &raw); err != nil {
		return nil, fmt.Errorf("%s is no valid YAML map of settings: %w", file, err)
	}
	settings := map[string]setting{}
	for key, value := range raw {
		if key == configFlag {
			return nil, fmt.Errorf("%s: the key %q cannot stand in the file itself; remove it", file, key)
		}
		if !known(fs, key) {
			return nil, fmt.Errorf("%s: unknown key %q%s", file, key, hint(key, names(fs), func(n string) string { return n }))
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
		settings[key] = s
	}
	return settings, nil
}

func scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64: // every number, as sigs.k8s.io/yaml goes through JSON
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case nil:
		return "", fmt.Errorf("has no value; give one or remove the key")
	default:
		return "", fmt.Errorf("wants one value or a list of values, not a map")
	}
}
