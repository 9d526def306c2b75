// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"

	"github.com/layertrace/layertrace/e2e/provision"
	"github.com/layertrace/layertrace/istio"
)

// chart packages the Helm chart, whose values name the release's images by digest.
func (r *release) chart(ctx context.Context, dir string, agent, filter image) error {
	source := filepath.Join(r.temporary, "chart")
	if err := os.CopyFS(source, os.DirFS(filepath.Join(r.checkout, "istio"))); err != nil {
		return err
	}
	err := setValues(filepath.Join(source, "values.yaml"), map[string]string{
		"image.repository": agent.repository, "image.digest": agent.digest,
		"wasm.url": "oci://" + filter.pinned(), "wasm.sha256": strings.TrimPrefix(filter.digest, "sha256:"),
	})
	if err != nil {
		return err
	}
	helm, err := provision.Helm(ctx, r.checkout, r.progress)
	if err != nil {
		return err
	}
	version := r.version
	if version == istio.Version {
		version = "0.0.0-" + version // a chart needs a semantic version
	}
	cmd := exec.CommandContext(ctx, helm, "package", source, "--version", version, "--app-version", r.version, "--destination", dir)
	home := filepath.Join(r.temporary, "helm") // not the user's repositories and plugins
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home,
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.source.date.Unix())}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// setValues sets texts in a YAML file by their paths, which exist. Comments stay.
func setValues(file string, values map[string]string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for path, value := range values {
		node := document.Content[0]
		for name := range strings.SplitSeq(path, ".") {
			if node = child(node, name); node == nil {
				return fmt.Errorf("%s has no %s", file, path)
			}
		}
		node.SetString(value)
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(&document), encoder.Close()); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// child returns the value of a key of a mapping, nil without one.
func child(node *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(node.Content) && node.Kind == yaml.MappingNode; i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// component is a component of kustomize that names the release's images by digest.
const component = `# The images of layertrace %[1]s by digest. In your kustomization:
#   components: [FOLDER OF THIS FILE]
# It sets the URL of the WasmPlugin, so it is not for overlays/envoyfilter: there, set
# the uri of the EnvoyFilter layertrace to oci://%[5]s yourself.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
images:
- {name: %[2]s, newName: %[3]s, digest: %[4]s}
patches:
- target: {kind: WasmPlugin, name: layertrace}
  patch: |
    - {op: replace, path: /spec/url, value: "oci://%[5]s"}
    - {op: add, path: /spec/sha256, value: %[6]s}
`

// names writes the images' names with their digests, as lines for programs (images.txt) and
// as a component of kustomize.
func (r *release) names(dir string, agent, filter image) error {
	lines := fmt.Sprintf("%s@%s agent.oci\n%s@%s filter.oci\n", agent.tagged(), agent.digest, filter.tagged(), filter.digest)
	if err := os.WriteFile(filepath.Join(dir, "images.txt"), []byte(lines), 0o644); err != nil {
		return err
	}
	text := fmt.Sprintf(component, r.version, istio.AgentRepository, agent.repository, agent.digest, filter.pinned(), strings.TrimPrefix(filter.digest, "sha256:"))
	return os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644)
}

// topDigest returns the digest of the only name in an image layout.
func topDigest(layout string) (string, error) {
	text, err := os.ReadFile(filepath.Join(layout, ocispec.ImageIndexFile))
	if err != nil {
		return "", err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return "", fmt.Errorf("%s: %w", layout, err)
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s has %d names, want 1", layout, len(index.Manifests))
	}
	return index.Manifests[0].Digest.String(), nil
}
