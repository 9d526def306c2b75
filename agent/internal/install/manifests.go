// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// kustomization is what the manifests use of kustomize. That is so little that
// the binary does without kustomize itself (some 5 MB); a test compares.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources"`
}

// readKustomization returns the objects of the kustomization in dir, in order.
func readKustomization(files fs.FS, dir string) ([]*unstructured.Unstructured, error) {
	data, err := fs.ReadFile(files, path.Join(dir, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	var k kustomization
	if err := yaml.UnmarshalStrict(data, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	var all []*unstructured.Unstructured
	for _, resource := range k.Resources {
		name := path.Join(dir, resource)
		read := readObjects
		if info, err := fs.Stat(files, name); err == nil && info.IsDir() {
			read = readKustomization
		}
		objects, err := read(files, name)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

// readObjects returns the objects of one YAML file.
func readObjects(files fs.FS, name string) ([]*unstructured.Unstructured, error) {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		o := &unstructured.Unstructured{}
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case len(o.Object) > 0:
			all = append(all, o)
		}
	}
}
