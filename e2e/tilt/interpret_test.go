// SPDX-License-Identifier: Apache-2.0

package tilt

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/layertrace/layertrace/e2e/cluster"
)

// call is a call of a Tilt function with the given arguments.
type call struct {
	name string
	args map[string]starlark.Value
}

// text returns a string argument, "" without one.
func (c call) text(name string) string {
	switch v := c.args[name].(type) {
	case starlark.String:
		return string(v)
	default:
		return ""
	}
}

// texts returns an argument that is a string or a list of strings.
func (c call) texts(name string) []string {
	switch v := c.args[name].(type) {
	case starlark.String:
		return []string{string(v)}
	case *starlark.List:
		var all []string
		for i := range v.Len() {
			if s, ok := v.Index(i).(starlark.String); ok {
				all = append(all, string(s))
			}
		}
		return all
	default:
		return nil
	}
}

// tiltfile interprets Starlark as Tilt does, with only the functions of api: calling
// another one, or with other arguments, is an error.
type tiltfile struct {
	checkout   string
	subcommand string            // up or ci
	settings   map[string]string // the arguments after tilt up --
	program    string            // layertrace, to run for local()
	module     bool              // the Wasm module has been built

	calls   []call
	objects []*unstructured.Unstructured // of k8s_yaml
}

func (t *tiltfile) run(name string, source any) error {
	options := &syntax.FileOptions{TopLevelControl: true, GlobalReassign: true, Set: true}
	thread := &starlark.Thread{Name: name}
	_, err := starlark.ExecFileOptions(options, thread, name, source, t.predeclared())
	return err
}

// predeclared returns the functions of api, those with a dot as members of structs.
func (t *tiltfile) predeclared() starlark.StringDict {
	top := starlark.StringDict{}
	members := map[string]starlark.StringDict{
		"config":   {"tilt_subcommand": starlark.String(t.subcommand), "main_dir": starlark.String(t.checkout)},
		"os.path":  {},
		"v1alpha1": {},
	}
	for name := range api {
		builtin := starlark.NewBuiltin(name, t.call)
		i := strings.LastIndex(name, ".")
		if i < 0 {
			top[name] = builtin
			continue
		}
		members[name[:i]][name[i+1:]] = builtin
	}
	path := starlarkstruct.FromStringDict(starlarkstruct.Default, members["os.path"])
	top["os"] = starlarkstruct.FromStringDict(starlarkstruct.Default, starlark.StringDict{"path": path})
	top["config"] = starlarkstruct.FromStringDict(starlarkstruct.Default, members["config"])
	top["v1alpha1"] = starlarkstruct.FromStringDict(starlarkstruct.Default, members["v1alpha1"])
	top["fail"] = starlark.NewBuiltin("fail", func(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		return nil, fmt.Errorf("fail: %v", args)
	})
	return top
}

func (t *tiltfile) call(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	c := call{name: b.Name(), args: map[string]starlark.Value{}}
	names, required := parameters(api[b.Name()])
	if len(args) > len(names) {
		return nil, fmt.Errorf("%s: %d arguments, but it has %d parameters", b.Name(), len(args), len(names))
	}
	for i, v := range args {
		c.args[names[i]] = v
	}
	known := map[string]bool{}
	for _, n := range names {
		known[n] = true
	}
	for _, pair := range kwargs {
		name := string(pair[0].(starlark.String))
		if !known[name] {
			return nil, fmt.Errorf("%s: it has no parameter %s", b.Name(), name)
		}
		if c.args[name] != nil {
			return nil, fmt.Errorf("%s: %s is given twice", b.Name(), name)
		}
		c.args[name] = pair[1]
	}
	for _, n := range names[:required] {
		if c.args[n] == nil {
			return nil, fmt.Errorf("%s: %s is missing", b.Name(), n)
		}
	}
	t.calls = append(t.calls, c)
	return t.result(c)
}

// result implements the functions as far as the Tiltfile depends on them.
func (t *tiltfile) result(c call) (starlark.Value, error) {
	switch c.name {
	case "config.parse":
		settings := starlark.NewDict(len(t.settings))
		for k, v := range t.settings {
			if err := settings.SetKey(starlark.String(k), starlark.String(v)); err != nil {
				return nil, err
			}
		}
		return settings, nil
	case "os.path.exists":
		if strings.HasSuffix(c.text("path"), ".wasm") {
			return starlark.Bool(t.module), nil
		}
		_, err := os.Stat(filepath.Join(t.checkout, c.text("path")))
		return starlark.Bool(err == nil), nil
	case "local":
		return t.local(c)
	case "blob":
		return c.args["contents"], nil
	case "kustomize":
		return t.kustomize(c.text("pathToDir"))
	case "decode_yaml_stream":
		return decode(c.text("yaml"))
	case "encode_yaml_stream":
		return encode(c.args["objs"])
	case "k8s_yaml":
		objects, err := cluster.Objects([]byte(c.text("yaml")))
		t.objects = append(t.objects, objects...)
		return starlark.None, err
	default: // an opaque value, such as a step of a live update
		return starlark.String(c.name), nil
	}
}

// local runs the commands that the Tiltfile executes.
func (t *tiltfile) local(c call) (starlark.Value, error) {
	command := strings.Join(c.texts("command"), " ")
	switch arguments, ours := strings.CutPrefix(command, "go run ./agent/cmd/layertrace "); {
	case ours:
		var out, stderr bytes.Buffer
		cmd := exec.Command(t.program, strings.Fields(arguments)...)
		cmd.Stdout, cmd.Stderr = &out, &stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", command, err, stderr.String())
		}
		return starlark.String(out.String()), nil
	case command == "make wasm":
		t.module = true
		return starlark.String(""), nil
	case command == "sha256sum bin/layertrace.wasm" && t.module:
		return starlark.String(strings.Repeat("0", 64) + "  bin/layertrace.wasm\n"), nil
	default:
		return nil, fmt.Errorf("local(%q): unknown command", command)
	}
}

func (t *tiltfile) kustomize(dir string) (starlark.Value, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(t.checkout, dir))
	if err != nil {
		return nil, err
	}
	data, err := built.AsYaml()
	return starlark.String(data), err
}

func decode(text string) (starlark.Value, error) {
	objects, err := cluster.Objects([]byte(text))
	if err != nil {
		return nil, err
	}
	var all []starlark.Value
	for _, o := range objects {
		v, err := toStarlark(o.Object)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return starlark.NewList(all), nil
}

func encode(v starlark.Value) (starlark.Value, error) {
	list, ok := v.(*starlark.List)
	if !ok {
		return nil, fmt.Errorf("encode_yaml_stream: %s is not a list", v.Type())
	}
	var documents []string
	for i := range list.Len() {
		o, err := fromStarlark(list.Index(i))
		if err != nil {
			return nil, err
		}
		data, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		documents = append(documents, string(data))
	}
	return starlark.String(strings.Join(documents, "---\n")), nil
}

// api has Tilt's functions that the Tiltfile may use, with their parameters in order
// (Tilt's API reference, internal/tiltfile/api of its sources). Those with ? are
// optional.
var api = map[string]string{
	"allow_k8s_contexts": "contexts",
	"blob":               "contents",
	"ci_settings":        "k8s_grace_period? timeout? readiness_timeout?",
	"custom_build":       "ref command deps tag? disable_push? skips_local_docker? live_update? match_in_env_vars? ignore? entrypoint? command_bat_val? outputs_image_ref_to? command_bat? image_deps? env? dir?",
	"decode_yaml_stream": "yaml",
	"docker_build":       "ref context build_args? dockerfile? dockerfile_contents? live_update? match_in_env_vars? ignore? only? entrypoint? target? ssh? network? secret? extra_tag? container_args? cache_from? pull? platform? extra_hosts?",
	"encode_yaml_stream": "objs",
	"k8s_resource":       "workload? new_name? port_forwards? extra_pod_selectors? trigger_mode? resource_deps? objects? auto_init? pod_readiness? links? labels? discovery_strategy?",
	"k8s_yaml":           "yaml allow_duplicates?",
	"kustomize":          "pathToDir kustomize_bin? flags?",
	"link":               "url name",
	"local":              "command quiet? command_bat? echo_off? env? dir? stdin?",
	"local_resource":     "name cmd? deps? trigger_mode? resource_deps? ignore? auto_init? serve_cmd? cmd_bat? serve_cmd_bat? allow_parallel? links? labels? env? serve_env? readiness_probe? dir? serve_dir?",
	"port_forward":       "local_port container_port? name? link_path? host?",
	"probe":              "initial_delay_secs? timeout_secs? period_secs? success_threshold? failure_threshold? exec? http_get? tcp_socket?",
	"run":                "cmd trigger? echo_off?",
	"sync":               "local_path remote_path",
	"tcp_socket_action":  "port host?",
	"watch_file":         "file_path",

	"config.define_string": "name args? usage?",
	"config.parse":         "",
	"os.path.exists":       "path",

	"v1alpha1.cmd":                   "name labels? annotations? args? dir? env? readiness_probe? restart_on? start_on? disable_source?",
	"v1alpha1.start_on_spec":         "ui_buttons?",
	"v1alpha1.ui_button":             "name labels? annotations? location? text? icon_name? icon_svg? disabled? requires_confirmation? inputs?",
	"v1alpha1.ui_component_location": "component_id? component_type?",
}

// parameters splits a signature.
func parameters(signature string) (names []string, required int) {
	for _, p := range strings.Fields(signature) {
		name, optional := strings.CutSuffix(p, "?")
		if !optional {
			required++
		}
		names = append(names, name)
	}
	return names, required
}
