// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// entry is one key of a YAML map with its value. Its errors name line and key.
type entry struct {
	key   string
	path  string // of the key in the file, such as addresses.10.0.0.1
	line  int
	value *yaml.Node
	depth int // of merged maps
}

// maxMerges bounds the depth of maps merged into maps, which can contain themselves.
const maxMerges = 8

// parseYAML returns the entries of a file that is a map, none of an empty file.
func parseYAML(data []byte) ([]entry, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, syntaxError(err)
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	return entry{line: 1, value: document.Content[0]}.entries()
}

// syntaxError removes the library's name. Its text has the line.
func syntaxError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if !strings.HasPrefix(text, "line ") {
		text = "line 1: " + text
	}
	return errors.New(text + "; correct the YAML")
}

// entries returns the keys of a map in their order, those of merged maps (<<) last.
func (e entry) entries() ([]entry, error) {
	node := resolve(e.value)
	if isNull(node) {
		return nil, nil
	}
	if node.Kind != yaml.MappingNode {
		return nil, e.errorf("is %s, not a map", describe(node))
	}
	var all, merged []entry
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Tag == "!!merge" {
			if e.depth == maxMerges {
				return nil, e.errorf("merges (<<) more than %d maps into one another", maxMerges)
			}
			below, err := entry{path: e.path, line: key.Line, value: value, depth: e.depth + 1}.mergedEntries()
			if err != nil {
				return nil, err
			}
			merged = append(merged, below...)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			return nil, e.errorf("has a key that is %s", describe(key))
		}
		next := entry{key: key.Value, path: join(e.path, key.Value), line: key.Line, value: value}
		if before, ok := seen[next.key]; ok {
			return nil, next.errorf("is already set in line %d: remove one", before)
		}
		seen[next.key] = next.line
		all = append(all, next)
	}
	for _, m := range merged {
		if _, ok := seen[m.key]; !ok {
			seen[m.key] = m.line
			all = append(all, m)
		}
	}
	return all, nil
}

// mergedEntries returns the entries of one map or of a list of them.
func (e entry) mergedEntries() ([]entry, error) {
	node := resolve(e.value)
	if node.Kind != yaml.SequenceNode {
		return e.entries()
	}
	var all []entry
	for _, one := range node.Content {
		below, err := entry{path: e.path, line: e.line, value: one, depth: e.depth}.entries()
		if err != nil {
			return nil, err
		}
		all = append(all, below...)
	}
	return all, nil
}

// each calls use with each entry of a map.
func (e entry) each(use func(entry) error) error {
	all, err := e.entries()
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := use(one); err != nil {
			return err
		}
	}
	return nil
}

// text returns a value that is one word or number, "" without a value.
func (e entry) text() (string, error) {
	node := resolve(e.value)
	switch {
	case isNull(node):
		return "", nil
	case node.Kind != yaml.ScalarNode:
		return "", e.errorf("is %s, not one value", describe(node))
	default:
		return node.Value, nil
	}
}

// errorf returns an error of this entry.
func (e entry) errorf(format string, arguments ...any) error {
	where := fmt.Sprintf("line %d: ", e.line)
	if e.path != "" {
		where += e.path + " "
	}
	return errors.New(where + fmt.Sprintf(format, arguments...))
}

// unknown returns an error for a key that is none of the known.
func (e entry) unknown(known string) error {
	return e.errorf("is an unknown key; the keys here are %s", known)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// resolve follows an alias to its anchor.
func resolve(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("the text %q", node.Value)
	}
}
