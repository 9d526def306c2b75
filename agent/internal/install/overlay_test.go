// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// The overlay in istio/README.md can be built, and does what it is for.
func TestOverlayOfTheReadme(t *testing.T) {
	text, err := os.ReadFile("../../../istio/README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("there is no overlay")
	}
	overlay := strings.ReplaceAll(string(block[1]), "github.com/layertrace/layertrace/istio/overlays/", "../../overlays/")
	disk := manifestFiles(t)
	if err := disk.WriteFile("/users/own/kustomization.yaml", []byte(overlay)); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/users/own")
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"image: registry.example/layertrace/agent:devel", "url: oci://registry.example/layertrace/filter:devel", "name: my-provider",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("it lacks %q", want)
		}
	}
}

// Kustomizations for trying it, which install does not have, can be built.
func TestDemo(t *testing.T) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../../istio/demo")
	if err != nil {
		t.Fatal(err)
	}
	data, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, o := range documents(t, data) {
		kinds[(&unstructured.Unstructured{Object: o}).GetKind()]++
	}
	if kinds["Deployment"] != 7 || kinds["PeerAuthentication"] != 1 || kinds["VirtualService"] != 1 {
		t.Errorf("objects: %v", kinds)
	}
}
