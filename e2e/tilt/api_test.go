// SPDX-License-Identifier: Apache-2.0

package tilt

import "strings"

// api are Tilt's functions that the Tiltfile may use, with their parameters in
// order (Tilt's API reference, internal/tiltfile/api of its sources). Those
// with ? may be left out.
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
