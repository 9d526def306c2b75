// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/observe"
)

func testRequest() Request {
	return Request{
		Time: began.Add(567 * time.Millisecond), Client: "curl", Server: "nginx", Method: "GET", Path: "/api/v1/slow",
		Status: 404, Duration: 293 * time.Millisecond, Flags: []string{},
		Layers: []LayerTime{
			{Layers: []observe.Layer{observe.Application}, Location: "nginx", Time: 258 * time.Millisecond, Share: 0.8805},
			{Layers: []observe.Layer{observe.ProtocolStack}, Location: "curl", Time: 35 * time.Millisecond, Share: 0.1195},
		},
	}
}

func TestFilter(t *testing.T) {
	unanswered := testRequest()
	unanswered.Status, unanswered.Layers, unanswered.NotKnown, unanswered.Duration = 0, nil, "no response was seen", 0
	merged := testRequest()
	merged.Layers = []LayerTime{{Layers: []observe.Layer{observe.ProtocolStack, observe.Application}, Share: 1}}
	for name, c := range map[string]struct {
		options                FilterOptions
		want, open, severalToo bool // of the three requests
	}{
		"none":                   {FilterOptions{}, true, true, true},
		"server":                 {FilterOptions{Services: []string{"nginx"}}, true, true, true},
		"client":                 {FilterOptions{Services: []string{"curl"}}, true, true, true},
		"part of a name":         {FilterOptions{Services: []string{"ngin"}}, false, false, false},
		"pattern of a name":      {FilterOptions{Services: []string{"x", "ng*"}}, true, true, true},
		"path":                   {FilterOptions{Paths: []string{"/api/v1/slow"}}, true, true, true},
		"path pattern":           {FilterOptions{Paths: []string{"/api/*"}}, true, true, true},
		"path pattern in front":  {FilterOptions{Paths: []string{"*slow"}}, true, true, true},
		"path one character":     {FilterOptions{Paths: []string{"/api/v?/slow"}}, true, true, true},
		"path dot is a dot":      {FilterOptions{Paths: []string{"/api.v1*"}}, false, false, false},
		"other path":             {FilterOptions{Paths: []string{"/api"}}, false, false, false},
		"status class":           {FilterOptions{Statuses: []string{"4xx"}}, true, false, true},
		"other class":            {FilterOptions{Statuses: []string{"5XX"}}, false, false, false},
		"status":                 {FilterOptions{Statuses: []string{"404"}}, true, false, true},
		"status equal":           {FilterOptions{Statuses: []string{"=404"}}, true, false, true},
		"at least":               {FilterOptions{Statuses: []string{">=404"}}, true, false, true},
		"above":                  {FilterOptions{Statuses: []string{">404"}}, false, false, false},
		"at most":                {FilterOptions{Statuses: []string{"<=404"}}, true, false, true},
		"below":                  {FilterOptions{Statuses: []string{"<404"}}, false, false, false},
		"range":                  {FilterOptions{Statuses: []string{"400-404"}}, true, false, true},
		"one of several":         {FilterOptions{Statuses: []string{"200", " 404"}}, true, false, true},
		"no status":              {FilterOptions{Statuses: []string{"none"}}, false, true, false},
		"duration":               {FilterOptions{MinDuration: 293 * time.Millisecond}, true, true, true},
		"longer":                 {FilterOptions{MinDuration: 294 * time.Millisecond}, false, true, false},
		"layer":                  {FilterOptions{Layers: []string{"application"}}, true, false, true},
		"not the longest layer":  {FilterOptions{Layers: []string{"protocol-stack"}}, false, false, true},
		"unknown layer":          {FilterOptions{Layers: []string{"unknown"}}, false, true, false},
		"all of several filters": {FilterOptions{Services: []string{"curl"}, Statuses: []string{"200"}}, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := NewFilter(c.options)
			if err != nil {
				t.Fatal(err)
			}
			one := testRequest()
			for i, r := range []*Request{&one, &unanswered, &merged} {
				if got, want := f.Matches(r), []bool{c.want, c.open, c.severalToo}[i]; got != want {
					t.Errorf("request %d: %t, want %t", i, got, want)
				}
			}
		})
	}
}

// Errors name the flag and what to write instead.
func TestFilterRefuses(t *testing.T) {
	for _, c := range []struct {
		options FilterOptions
		want    []string
	}{
		{FilterOptions{Services: []string{""}}, []string{"--service", "nginx"}},
		{FilterOptions{Paths: []string{"api"}}, []string{"--path", `"api"`, "/api/*"}},
		{FilterOptions{Statuses: []string{"abc"}}, []string{"--status", `"abc"`, "5xx"}},
		{FilterOptions{Statuses: []string{"40"}}, []string{"--status"}},
		{FilterOptions{Statuses: []string{"0xx"}}, []string{"--status"}},
		{FilterOptions{Statuses: []string{"500-400"}}, []string{"--status", "400-499"}},
		{FilterOptions{Statuses: []string{""}}, []string{"--status"}},
		{FilterOptions{MinDuration: -1}, []string{"--min-duration", "100ms"}},
		{FilterOptions{Layers: []string{"kernel"}}, []string{"--layer", "protocol-stack"}},
	} {
		_, err := NewFilter(c.options)
		if err == nil || slices.ContainsFunc(c.want, func(w string) bool { return !strings.Contains(err.Error(), w) }) {
			t.Errorf("%+v: %v, want an error with %q", c.options, err, c.want)
		}
	}
}
