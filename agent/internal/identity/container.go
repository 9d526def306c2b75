// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxRuntimeFile bounds what is read of a container runtime's file.
const maxRuntimeFile = 8 << 20

// shortID is the length of a container's ID as the runtimes print it.
const shortID = 12

// containerName returns the name of a container from the files of the runtimes below
// root, else its short ID. No runtime's API is asked.
func containerName(root, id string) string {
	for _, find := range []func(root, id string) string{dockerName, nerdctlName, containerdName, podmanName} {
		if name := find(root, id); name != "" {
			return name
		}
	}
	return id[:min(len(id), shortID)]
}

// dockerName reads <data root>/containers/<id>/config.v2.json.
func dockerName(root, id string) string {
	data := "var/lib/docker"
	var daemon struct {
		DataRoot string `json:"data-root"`
	}
	if readJSON(filepath.Join(root, "etc/docker/daemon.json"), &daemon) && daemon.DataRoot != "" {
		data = daemon.DataRoot
	}
	var config struct{ Name string }
	if !readJSON(filepath.Join(root, data, "containers", id, "config.v2.json"), &config) {
		return ""
	}
	return strings.TrimPrefix(config.Name, "/")
}

// nerdctlName looks for the file of a name that has the ID as its text:
// /var/lib/nerdctl/<address>/names/<namespace>/<name>.
func nerdctlName(root, id string) string {
	files, err := filepath.Glob(filepath.Join(root, "var/lib/nerdctl/*/names/*/*"))
	if err != nil {
		return ""
	}
	for _, file := range files {
		if text, ok := readFile(file); ok && strings.TrimSpace(string(text)) == id {
			return filepath.Base(file)
		}
	}
	return ""
}

// nameAnnotations are those of an OCI configuration that have the container's name.
var nameAnnotations = []string{"nerdctl/name", "io.kubernetes.cri.container-name", "io.kubernetes.container.name"}

// containerdName reads the annotations in the OCI configuration of containerd's and
// CRI-O's containers.
func containerdName(root, id string) string {
	for _, pattern := range []string{
		"run/containerd/io.containerd.runtime.v2.task/*/" + id + "/config.json",
		"run/containers/storage/overlay-containers/" + id + "/userdata/config.json",
	} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			continue
		}
		for _, file := range files {
			var spec struct {
				Annotations map[string]string `json:"annotations"`
			}
			if !readJSON(file, &spec) {
				continue
			}
			for _, key := range nameAnnotations {
				if name := spec.Annotations[key]; name != "" {
					return name
				}
			}
		}
	}
	return ""
}

// podmanName reads the list of containers in Podman's storage, of the system and of
// users.
func podmanName(root, id string) string {
	for _, pattern := range []string{
		"var/lib/containers/storage", "root/.local/share/containers/storage", "home/*/.local/share/containers/storage",
	} {
		for _, list := range []string{"containers.json", "volatile-containers.json"} {
			files, err := filepath.Glob(filepath.Join(root, pattern, "*-containers", list))
			if err != nil {
				continue
			}
			for _, file := range files {
				var containers []struct {
					ID    string   `json:"id"`
					Names []string `json:"names"`
				}
				if !readJSON(file, &containers) {
					continue
				}
				for _, c := range containers {
					if c.ID == id && len(c.Names) > 0 {
						return c.Names[0]
					}
				}
			}
		}
	}
	return ""
}

// readJSON reports whether a file could be read.
func readJSON(file string, to any) bool {
	text, ok := readFile(file)
	return ok && json.Unmarshal(text, to) == nil
}

func readFile(name string) ([]byte, bool) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRuntimeFile))
	return text, err == nil
}

// interpreters run scripts: their own name says little. Some end in a
// version, such as python3.11.
var interpreters = []string{"python", "node", "ruby", "perl", "php", "java", "bash", "sh", "dash", "deno", "bun"}

// isInterpreter reports whether a program of this name is one.
func isInterpreter(program string) bool {
	return slices.Contains(interpreters, strings.TrimRight(program, "0123456789."))
}

// scriptOf returns what an interpreter runs by its arguments: a script's file name, or
// the module after -m or the archive after -jar; "" if it is unclear.
func scriptOf(arguments []string) string {
	for i, argument := range arguments {
		switch {
		case i == 0 || argument == "":
		case (argument == "-m" || argument == "-jar") && i+1 < len(arguments):
			return filepath.Base(arguments[i+1])
		case strings.HasPrefix(argument, "--"), argument == "-u", argument == "-B", argument == "-s", argument == "-I", argument == "-O":
		case strings.HasPrefix(argument, "-"): // may have a value
			return ""
		case strings.HasPrefix(filepath.Base(arguments[0]), "java"):
			return ""
		default:
			return filepath.Base(argument)
		}
	}
	return ""
}
