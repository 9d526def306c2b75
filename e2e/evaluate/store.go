// SPDX-License-Identifier: Apache-2.0

package evaluate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Settings are what must not change during an evaluation: measurements with different
// settings are not comparable.
type Settings struct {
	Requests    int      `json:"requests"`
	Acquisition int      `json:"acquisition_requests"`
	Cases       []string `json:"cases"`
	Kernel      string   `json:"kernel"`
	CPUs        int      `json:"cpus"`
	// Programs are the SHA-256 sums of what is measured.
	Programs map[string]string `json:"programs"`
}

func currentSettings(o Options) (s Settings, err error) {
	s = Settings{Requests: o.Requests, Acquisition: o.Acquisition, CPUs: runtime.NumCPU(), Programs: map[string]string{}}
	for _, c := range o.Cases {
		s.Cases = append(s.Cases, c.Name)
	}
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return s, fmt.Errorf("read the kernel's release: %w", err)
	}
	s.Kernel = unix.ByteSliceToString(uname.Release[:])
	for name, path := range map[string]string{
		"agent": o.Tools.Agent, "bookinfo": o.Tools.Bookinfo, "envoy": o.Tools.Envoy, "wasm": o.Tools.Wasm,
	} {
		if s.Programs[name], err = sum(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// sum returns the SHA-256 sum of a file.
func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("identify a program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("identify %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// difference names the settings in which two differ.
func (s Settings) difference(other Settings) (names []string) {
	a, b := reflect.ValueOf(s), reflect.ValueOf(other)
	for i := range a.NumField() {
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, a.Type().Field(i).Tag.Get("json"))
		}
	}
	return names
}

// store is a directory with one file per step that is done. A file appears at once with
// its whole content.
type store struct{ dir string }

const settingsFile = "settings.json"

// ErrDifferent is the error of an evaluation that was begun with other settings.
var ErrDifferent = errors.New("it was begun with other settings")

// openStore opens the store in a directory, and returns the settings with which what it
// has was measured. It fails when these are others than what is wanted now. Once the
// store has all of the files, other programs make no difference: nothing is measured,
// only the report is written again.
func openStore(dir string, wanted Settings, files []string) (*store, Settings, error) {
	s := &store{filepath.Join(dir, "steps")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, Settings{}, fmt.Errorf("create the directory for measurements: %w", err)
	}
	if !s.has(settingsFile) {
		return s, wanted, s.write(settingsFile, wanted)
	}
	var begun Settings
	if err := s.read(settingsFile, &begun); err != nil {
		return nil, Settings{}, err
	}
	names := wanted.difference(begun)
	if !slices.ContainsFunc(files, func(file string) bool { return !s.has(file) }) {
		names = slices.DeleteFunc(names, func(name string) bool { return name == "programs" || name == "kernel" || name == "cpus" })
	}
	if len(names) > 0 {
		return nil, Settings{}, fmt.Errorf("go on with the evaluation in %s: %w (%s): repeat it with those, or start anew with --fresh",
			dir, ErrDifferent, strings.Join(names, ", "))
	}
	return s, begun, nil
}

func (s *store) has(file string) bool {
	_, err := os.Stat(filepath.Join(s.dir, file))
	return err == nil
}

func (s *store) read(file string, value any) error {
	data, err := os.ReadFile(filepath.Join(s.dir, file))
	if err == nil {
		err = json.Unmarshal(data, value)
	}
	if err != nil {
		return fmt.Errorf("read what was measured (start anew with --fresh): %s: %w", file, err)
	}
	return nil
}

func (s *store) write(file string, value any) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = writeFile(filepath.Join(s.dir, file), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("store what was measured: %w", err)
	}
	return nil
}

// writeFile replaces a file: it has its old content or the new one, also when the
// program or the machine ends meanwhile. It leaves a file alone that has the content.
func writeFile(path string, data []byte) (err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name()) // the error that matters is there already
		}
	}()
	_, err = temp.Write(data)
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// Discard removes an evaluation from a directory; it is no error when there is none.
func Discard(dir string) error {
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start anew: %w", err)
	}
	return nil
}

// remaining estimates the time of the steps that are left, from their own estimates and
// from how far those of the steps so far were off.
type remaining struct {
	order     []string
	estimates map[string]time.Duration
	current   string
	began     time.Time
	// planned and took are the sums over the steps that were done.
	planned, took time.Duration
}

func (r *remaining) add(name string, estimate time.Duration) {
	if r.estimates == nil {
		r.estimates = map[string]time.Duration{}
	}
	r.order = append(r.order, name)
	r.estimates[name] = estimate
}

func (r *remaining) steps() []string { return slices.Clone(r.order) }

func (r *remaining) drop(name string) {
	r.order = slices.DeleteFunc(r.order, func(n string) bool { return n == name })
}

func (r *remaining) begin(name string) { r.current, r.began = name, time.Now() }

func (r *remaining) done(name string) {
	r.planned += r.estimates[name]
	r.took += time.Since(r.began)
	r.current = ""
	r.drop(name)
}

// trusted is how much time the estimates count for, beside what was measured: one slow
// step at the beginning does not say much of the others.
const trusted = time.Minute

// left returns the estimate.
func (r *remaining) left() time.Duration {
	factor := (r.took + trusted).Seconds() / (r.planned + trusted).Seconds()
	total := time.Duration(0)
	for _, name := range r.order {
		one := time.Duration(float64(r.estimates[name]) * factor)
		if name == r.current {
			one = max(0, one-time.Since(r.began))
		}
		total += one
	}
	return total
}

func (r *remaining) text() string {
	left := r.left()
	switch {
	case left <= 0:
		return "almost done"
	case left < 2*time.Minute:
		return fmt.Sprintf("about %.0f s left", left.Seconds())
	case left < 2*time.Hour:
		return fmt.Sprintf("about %.0f min left", left.Minutes())
	default:
		return fmt.Sprintf("about %.1f h left", left.Hours())
	}
}
