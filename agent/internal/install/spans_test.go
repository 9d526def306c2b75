// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"

	"github.com/layertrace/layertrace/agent/internal/config"
)

// With --spans layers, what --dry-run prints is what kustomize builds from an
// overlay with the component istio/layers.
func TestLayersAreKustomizeBuild(t *testing.T) {
	disk := manifestFiles(t)
	const folder = "../../../istio/layers"
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(path.Join(folder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := disk.WriteFile("/layers/"+e.Name(), data); err != nil {
			t.Fatal(err)
		}
	}
	const overlay = "kind: Kustomization\nresources: [../overlays/lua]\ncomponents: [../layers]\n"
	if err := disk.WriteFile("/own/kustomization.yaml", []byte(overlay)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/own")
	if err != nil {
		t.Fatal(err)
	}
	want, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	o := defaults(ReorderLua)
	o.Spans = config.SpansLayers
	var out bytes.Buffer
	if err := Write(&out, render(t, o)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(documents(t, want), documents(t, out.Bytes())); diff != "" {
		t.Errorf("kustomize - install +\n%s", diff)
	}
}

// The agent takes the settings for layers; further ones win.
func TestAgentTakesLayers(t *testing.T) {
	o := defaults(ReorderNone)
	o.Spans = config.SpansLayers
	for setting, want := range map[string]string{"deep=true": config.SocketCgroupAuto, "socket-cgroup=/host/sys/fs/cgroup/pods": "/host/sys/fs/cgroup/pods"} {
		o.AgentSettings = []string{setting}
		text, _, err := unstructured.NestedString(find(render(t, o), "ConfigMap").Object, "data", configKey)
		if err != nil {
			t.Fatal(err)
		}
		file := path.Join(t.TempDir(), configKey)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		settings := config.Define(flags)
		if err := flags.Parse([]string{"--config", file}); err != nil {
			t.Fatal(err)
		}
		if err := config.Load(flags, settings, nil); err != nil {
			t.Fatal(err)
		}
		if !settings.Layers() || !slices.Equal(settings.SocketCgroups, []string{want}) {
			t.Errorf("%s: spans %s, cgroups %v", setting, settings.Spans, settings.SocketCgroups)
		}
	}
}

func TestSpansAreChecked(t *testing.T) {
	o := defaults(ReorderNone)
	o.Spans = "sockets"
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "--spans") {
		t.Errorf("got %v", err)
	}
}
