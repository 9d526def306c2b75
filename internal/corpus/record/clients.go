// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed clients
var clientFiles embed.FS

// clients runs the client programs, whose sources it has put into a folder.
type clients struct{ folder string }

// unpack writes the clients' sources to the folder.
func unpack(folder string) (clients, error) {
	for _, name := range []string{"client.py", "client.mjs", "Client.java"} {
		source, err := clientFiles.ReadFile("clients/" + name)
		if err != nil {
			return clients{}, err
		}
		if err := os.WriteFile(filepath.Join(folder, name), source, 0o600); err != nil {
			return clients{}, fmt.Errorf("unpack the clients: %w", err)
		}
	}
	return clients{folder}, nil
}

// run makes the recipe's request to the URL with the real client.
func (c clients) run(r recipe, url string) error {
	if r.client == "go" {
		return runGo(r, url)
	}
	command := c.command(r, url)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "http_proxy=", "HTTP_PROXY=", "no_proxy=*")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", command[0], err, out)
	}
	return nil
}

func (c clients) command(r recipe, url string) []string {
	interpreter := map[string][]string{
		"python": {"python3", filepath.Join(c.folder, "client.py")},
		"node":   {"node", filepath.Join(c.folder, "client.mjs")},
		"java":   {"java", filepath.Join(c.folder, "Client.java")},
	}
	language, library, _ := strings.Cut(r.client, "-")
	if command := interpreter[language]; command != nil {
		command = append(command, library, r.method, url, fmt.Sprint(r.body))
		for _, h := range r.allHeaders() {
			command = append(command, h.name+"="+h.value)
		}
		return command
	}
	command, headerFlag := []string{"curl", "--silent", "--show-error", "--output", os.DevNull, "--request", r.method}, "--header="
	if r.client == "wget" {
		command, headerFlag = []string{"wget", "--quiet", "--output-document=" + os.DevNull}, "--header="
	}
	for _, h := range r.allHeaders() {
		line := h.name + ": " + h.value
		if r.client == "curl" {
			if h.value == "" {
				line = h.name + ";" // curl's way to send an empty value
			}
			command = append(command, "--header", line)
			continue
		}
		command = append(command, headerFlag+line)
	}
	if r.body > 0 {
		command = append(command, "--data", strings.Repeat("q", r.body))
	}
	return append(append(command, r.flags...), url)
}

// runGo makes the request with net/http.
func runGo(r recipe, url string) error {
	var body io.Reader
	if r.body > 0 {
		// Behind a MultiReader the length is not known: chunked.
		body = io.MultiReader(strings.NewReader(strings.Repeat("q", r.body)))
	}
	request, err := http.NewRequest(r.method, url, body)
	if err != nil {
		return err
	}
	for _, h := range r.allHeaders() {
		request.Header.Set(h.name, h.value)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
