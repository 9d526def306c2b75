// SPDX-License-Identifier: Apache-2.0

// Package tilt interprets the Tiltfile without Tilt, with only the functions that Tilt
// declares.
package tilt

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.starlark.net/starlark"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/layertrace/layertrace/e2e/provision"
)

var program string // layertrace; not built with -short

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if flag.Parse(); testing.Short() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "layertrace-tilt-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "layertrace")
	build := exec.Command("go", "build", "-o", program, "github.com/layertrace/layertrace/agent/cmd/layertrace")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build layertrace: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// needsProgram skips a test for which layertrace has to be built.
func needsProgram(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("layertrace is built for it: not with -short")
	}
}

// interpret runs the Tiltfile.
func interpret(t *testing.T, subcommand string, settings map[string]string) *tiltfile {
	t.Helper()
	needsProgram(t)
	checkout, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	f := &tiltfile{checkout: checkout, subcommand: subcommand, settings: settings, program: program}
	if err := f.run(filepath.Join(checkout, "Tiltfile"), nil); err != nil {
		t.Fatal(err)
	}
	return f
}

// of returns the calls of one function.
func (t *tiltfile) of(name string) []call {
	return slices.DeleteFunc(slices.Clone(t.calls), func(c call) bool { return c.name != name })
}

func (t *tiltfile) object(kind, name string) *unstructured.Unstructured {
	for _, o := range t.objects {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	return nil
}

// resources returns the names of all Tilt resources: the declared ones and one per
// workload.
func (t *tiltfile) resources() map[string]bool {
	all := map[string]bool{}
	for _, c := range t.of("local_resource") {
		all[c.text("name")] = true
	}
	for _, c := range t.of("k8s_resource") {
		all[c.text("workload")+c.text("new_name")] = true
	}
	for _, o := range t.objects {
		if o.GetKind() == "Deployment" || o.GetKind() == "DaemonSet" {
			all[o.GetName()] = true
		}
	}
	return all
}

// The Tiltfile runs with every method, in tilt up and tilt ci, and its references exist.
func TestTiltfile(t *testing.T) {
	for _, subcommand := range []string{"up", "ci"} {
		for _, reorder := range []string{"", "wasmplugin", "envoyfilter", "lua", "none"} {
			t.Run(subcommand+" "+reorder, func(t *testing.T) {
				settings := map[string]string{}
				if reorder != "" {
					settings["reorder"] = reorder
				}
				f := interpret(t, subcommand, settings)
				checkReferences(t, f)
				checkImages(t, f)
				want := map[string][2]bool{ // EnvoyFilter, WasmPlugin
					"": {true, true}, "wasmplugin": {true, true}, "envoyfilter": {true, false}, "lua": {true, false}, "none": {false, false},
				}[reorder]
				got := [2]bool{f.object("EnvoyFilter", "layertrace") != nil, f.object("WasmPlugin", "layertrace") != nil}
				if got != want {
					t.Errorf("EnvoyFilter, WasmPlugin: %v, want %v", got, want)
				}
			})
		}
	}
}

func checkReferences(t *testing.T, f *tiltfile) {
	t.Helper()
	resources := f.resources()
	objects := map[string]bool{}
	for _, o := range f.objects {
		objects[o.GetName()+":"+strings.ToLower(o.GetKind())] = true
	}
	for _, c := range f.calls {
		for _, dep := range c.texts("resource_deps") {
			if !resources[dep] {
				t.Errorf("%s %s%s depends on %s, which does not exist", c.name, c.text("name"), c.text("workload"), dep)
			}
		}
		for _, o := range c.texts("objects") {
			if !objects[o] {
				t.Errorf("k8s_resource %s refers to %s, which does not exist", c.text("new_name"), o)
			}
		}
		if w := c.text("workload"); w != "" && !resources[w] {
			t.Errorf("k8s_resource for %s, which is not a workload", w)
		}
		if c.name != "local_resource" {
			continue
		}
		for _, dep := range c.texts("deps") {
			if _, err := os.Stat(filepath.Join(f.checkout, dep)); err != nil {
				t.Errorf("%s watches %v", c.text("name"), err)
			}
		}
	}
}

// checkImages checks that pods use every built image by its name, with live updates.
func checkImages(t *testing.T, f *tiltfile) {
	t.Helper()
	builds := f.of("docker_build")
	if len(builds) == 0 {
		t.Error("no image to build")
	}
	for _, b := range builds {
		used := false
		for _, o := range f.objects {
			containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range containers {
				image, _ := c.(map[string]any)["image"].(string)
				name, _, _ := strings.Cut(image, ":")
				used = used || name == b.text("ref")
			}
		}
		if !used {
			t.Errorf("no pod uses image %s", b.text("ref"))
		}
		if steps, ok := b.args["live_update"].(*starlark.List); !ok || steps.Len() == 0 {
			t.Errorf("no live update of %s", b.text("ref"))
		}
	}
}

// The parts of the development loop.
func TestResources(t *testing.T) {
	f := interpret(t, "up", nil)
	for _, name := range []string{"productpage-v1", "details-v1", "reviews-v1", "reviews-v2", "reviews-v3", "ratings-v1", "jaeger", "layertrace-agent"} {
		if !f.resources()[name] {
			t.Errorf("no %s", name)
		}
	}
	var forwards []string
	for _, c := range f.of("port_forward") {
		forwards = append(forwards, c.args["local_port"].String()+" "+c.text("name"))
	}
	if !slices.Contains(forwards, "16686 Jaeger") {
		t.Errorf("port forwards: %v", forwards)
	}
	if !slices.ContainsFunc(f.of("local_resource"), func(c call) bool { return strings.HasPrefix(c.text("cmd"), "istioctl install") }) {
		t.Error("nothing installs Istio")
	}
	var buttons []string
	for _, c := range f.of("v1alpha1.cmd") {
		buttons = append(buttons, strings.Join(c.texts("args"), " "))
	}
	if len(buttons) != 2 || !strings.Contains(buttons[0], "curl") || !strings.Contains(buttons[1], "layertrace status") {
		t.Errorf("buttons: %q", buttons)
	}
	plugin := f.object("WasmPlugin", "layertrace")
	url, _, err := unstructured.NestedString(plugin.Object, "spec", "url")
	if err != nil || !strings.Contains(url, "layertrace-filter.layertrace-system.svc:8080/") || f.object("Service", "layertrace-filter") == nil {
		t.Errorf("the module is at %q", url)
	}
	readOnly, _, err := unstructured.NestedSlice(f.object("DaemonSet", "layertrace-agent").Object, "spec", "template", "spec", "containers")
	if err != nil || readOnly[0].(map[string]any)["securityContext"].(map[string]any)["readOnlyRootFilesystem"] != false {
		t.Error("a live update cannot write the agent to a read-only file system")
	}
}

// tilt ci sends traffic and checks it; tilt up leaves that to the user.
func TestCIChecks(t *testing.T) {
	checks := func(c call) bool {
		return c.text("name") == "check" && strings.Contains(c.text("cmd"), "layertrace status")
	}
	if !slices.ContainsFunc(interpret(t, "ci", nil).of("local_resource"), checks) {
		t.Error("tilt ci checks nothing")
	}
	if slices.ContainsFunc(interpret(t, "up", nil).of("local_resource"), checks) {
		t.Error("tilt up checks")
	}
}

// Functions that Tilt does not have, and unknown methods, are errors.
func TestRefusals(t *testing.T) {
	needsProgram(t)
	for source, want := range map[string]string{
		"k8s_yml('x')":                             "undefined: k8s_yml",
		"k8s_resource('x', port_forward=1)":        "no parameter port_forward",
		"docker_build('x')":                        "context is missing",
		"sync('a', 'b', 'c')":                      "but it has 2 parameters",
		"sync('a', local_path='b')":                "given twice",
		"config.define_float('x')":                 "no .define_float",
		"v1alpha1.ui_knob(name='x')":               "no .ui_knob",
		"local('rm -rf build')":                    "unknown command",
		"fail('no')":                               "no",
		"k8s_yaml(blob('a: b'))\nk8s_yaml('c: :')": "",
	} {
		f := &tiltfile{program: program}
		if err := f.run("test", source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", source, err, want)
		}
	}
	checkout, err := provision.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	f := &tiltfile{checkout: checkout, settings: map[string]string{"reorder": "front"}, program: program}
	if err := f.run(filepath.Join(checkout, "Tiltfile"), nil); err == nil || !strings.Contains(err.Error(), "choose wasmplugin") {
		t.Errorf("--reorder=front: %v", err)
	}
}

// toStarlark converts decoded YAML to Starlark values.
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

// fromStarlark converts a Starlark value to a value for YAML.
func fromStarlark(v starlark.Value) (any, error) {
	switch v := v.(type) {
	case starlark.NoneType:
		return nil, nil
	case starlark.Bool:
		return bool(v), nil
	case starlark.Int:
		n, ok := v.Int64()
		if !ok {
			return nil, fmt.Errorf("%s is too large", v)
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
				return nil, fmt.Errorf("key %s is not a string", item[0])
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
