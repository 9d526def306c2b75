// SPDX-License-Identifier: Apache-2.0

package tilt

import (
	"fmt"

	"go.starlark.net/starlark"
)

// toStarlark turns what a YAML reader returns into Starlark's values.
func toStarlark(v any) (starlark.Value, error) {
	switch v := v.(type) {
	case nil:
		return starlark.None, nil
	case bool:
		return starlark.Bool(v), nil
	case int64:
		return starlark.MakeInt64(v), nil
	case float64:
		return starlark.Float(v), nil
	case string:
		return starlark.String(v), nil
	case []any:
		list := make([]starlark.Value, len(v))
		for i, item := range v {
			var err error
			if list[i], err = toStarlark(item); err != nil {
				return nil, err
			}
		}
		return starlark.NewList(list), nil
	case map[string]any:
		dict := starlark.NewDict(len(v))
		for key, item := range v {
			value, err := toStarlark(item)
			if err != nil {
				return nil, err
			}
			if err := dict.SetKey(starlark.String(key), value); err != nil {
				return nil, err
			}
		}
		return dict, nil
	default:
		return nil, fmt.Errorf("%T has no counterpart in Starlark", v)
	}
}

// fromStarlark is the way back.
func fromStarlark(v starlark.Value) (any, error) {
	switch v := v.(type) {
	case starlark.NoneType:
		return nil, nil
	case starlark.Bool:
		return bool(v), nil
	case starlark.Int:
		n, ok := v.Int64()
		if !ok {
			return nil, fmt.Errorf("%s is too great", v)
		}
		return n, nil
	case starlark.Float:
		return float64(v), nil
	case starlark.String:
		return string(v), nil
	case *starlark.List:
		list := make([]any, v.Len())
		for i := range list {
			var err error
			if list[i], err = fromStarlark(v.Index(i)); err != nil {
				return nil, err
			}
		}
		return list, nil
	case *starlark.Dict:
		object := map[string]any{}
		for _, item := range v.Items() {
			key, ok := item[0].(starlark.String)
			if !ok {
				return nil, fmt.Errorf("key %s is no text", item[0])
			}
			var err error
			if object[string(key)], err = fromStarlark(item[1]); err != nil {
				return nil, err
			}
		}
		return object, nil
	default:
		return nil, fmt.Errorf("%s has no counterpart in YAML", v.Type())
	}
}
