// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// attributes are those of a span or a resource: strings, integers as int64, and
// lists of strings. What a store makes of a type differs: Jaeger writes lists as
// JSON text, and integers of more than 53 bits as text too.
type attributes map[string]any

// text returns a string, "" when there is none.
func (a attributes) text(key string) string {
	s, _ := a[key].(string)
	return s
}

// integer returns an integer and whether there is one.
func (a attributes) integer(key string) (n int64, ok bool, err error) {
	value, ok := a[key]
	if !ok {
		return 0, false, nil
	}
	switch v := value.(type) {
	case int64:
		return v, true, nil
	case float64: // of a store without integers
		if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
			return int64(v), true, nil
		}
	case json.Number:
		n, err = v.Int64()
		if err == nil {
			return n, true, nil
		}
	case string:
		n, err = strconv.ParseInt(v, 10, 64)
		if err == nil {
			return n, true, nil
		}
	}
	return 0, false, fmt.Errorf("%s is %v, which is no integer", key, value)
}

// list returns a list of strings, nil when there is none.
func (a attributes) list(key string) []string {
	switch v := a[key].(type) {
	case []string:
		return v
	case string:
		var list []string
		if err := json.Unmarshal([]byte(v), &list); err == nil {
			return list
		}
		return []string{v} // a list of one, in a store without lists
	}
	return nil
}
