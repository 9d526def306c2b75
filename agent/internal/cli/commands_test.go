// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/layertrace/layertrace/agent/internal/config"
	"github.com/layertrace/layertrace/agent/internal/doctor"
	"github.com/layertrace/layertrace/agent/internal/install"
	"github.com/layertrace/layertrace/agent/internal/tracestore"
	"github.com/layertrace/layertrace/internal/tracecontext"
)

func TestVersion(t *testing.T) {
	command, flag := runBinary(t, exec.Command(binary, "version")), runBinary(t, exec.Command(binary, "--version"))
	if command.code != 0 || !strings.HasPrefix(command.stdout, "layertrace ") || command.stderr != "" || flag != command {
		t.Errorf("version: %+v, --version: %+v", command, flag)
	}
	var b build
	if r := runBinary(t, exec.Command(binary, "version", "--json")); json.Unmarshal([]byte(r.stdout), &b) != nil || b.Version == "" || b.Go != runtime.Version() || !strings.HasPrefix(command.stdout, "layertrace "+b.Version+" (") {
		t.Errorf("version --json: %+v", r)
	}
}

// A release build has version, commit and date; others have what Go recorded.
func TestVersionText(t *testing.T) {
	for want, b := range map[string]build{
		"layertrace v1.2.3 (commit 0123456789ab, 2026-11-29, go1.26, linux/arm64)":              {Version: "v1.2.3", Commit: "0123456789abcdef", Date: "2026-11-29T07:06:37Z", Go: "go1.26", OS: "linux", Arch: "arm64"},
		"layertrace devel+012345 (commit 012345 with changes, 2026-11-29, go1.26, linux/amd64)": {Version: "devel+012345", Commit: "012345", Modified: true, Date: "2026-11-29T07:06:37Z", Go: "go1.26", OS: "linux", Arch: "amd64"},
		"layertrace devel (go1.26, linux/amd64)":                                                {Version: "devel", Go: "go1.26", OS: "linux", Arch: "amd64"},
	} {
		if got := b.text(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The shells complete the values of flags, and files only where a file is meant.
func TestCompletion(t *testing.T) {
	const noFiles, files = ":4", ":0"
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte("contexts: [{name: test}, {name: other}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)
	for _, test := range []struct {
		args      string
		want      []string
		directive string
	}{
		{"install --reorder", install.Reorders, noFiles},
		{"install --mtls", install.MTLSModes, noFiles},
		{"install --spans", []string{"interfaces", "layers"}, noFiles},
		{"install --sampling", nil, noFiles},
		{"install --kubeconfig", nil, files},
		{"agent --export", config.Exporters, noFiles},
		{"agent --mode", []string{"auto", "tcx", "clsact", "socket-filter"}, noFiles},
		{"agent --log-level", []string{"debug", "info", "warn", "error"}, noFiles},
		{"agent --tcp-option", []string{"off", "compact", "paper"}, noFiles},
		{"agent --config", nil, files},
		{"try --path", nil, noFiles},
		{"try --output", []string{"text", "json"}, noFiles},
		{"agent --spans", []string{"interfaces", "layers"}, noFiles},
		{"agent --log-format", []string{"text", "json"}, noFiles},
		{"agent --context-format", tracecontext.PreferenceNames(), noFiles},
		{"agent --socket-cgroup", []string{"auto", "none"}, files},
		{"join --log-level", []string{"debug", "info", "warn", "error"}, noFiles},
		{"join --log-format", []string{"text", "json"}, noFiles},
		{"install --mtls-log", install.MTLSLogs, noFiles},
		{"install --tracer", install.Tracers, noFiles},
		{"install --context", []string{"other", "test"}, noFiles},
		{"status --context", []string{"other", "test"}, noFiles},
		{"decode --context-format", tracecontext.PreferenceNames(), noFiles},
		{"explain --store", []string{"auto", "jaeger", "zipkin", "tempo"}, noFiles},
		{"explain", nil, noFiles},
		{"decode", nil, files},
		{"decode --format", []string{"auto", "table", "json"}, noFiles},
	} {
		code, stdout, _ := runHere(t, append(append([]string{"__complete"}, strings.Fields(test.args)...), "")...)
		want := strings.Join(append(slices.Clone(test.want), test.directive), "\n") + "\n"
		if code != 0 || stdout != want {
			t.Errorf("%s: exit code %d, %q, want %q", test.args, code, stdout, want)
		}
	}
	if _, stdout, _ := runHere(t, "__complete", "agent", "--vnic", ""); !strings.Contains(stdout, "\nlo\n") || !strings.Contains(stdout, "kind:veth\n") {
		t.Errorf("interfaces: %q", stdout)
	}
}

// The shells complete the agent's settings, and then their values.
func TestCompletionOfSettings(t *testing.T) {
	for typed, want := range map[string]string{
		"": "\ncpu-limit=\n", "log-level=": "log-level=debug\nlog-level=info\nlog-level=warn\nlog-level=error\n:4\n",
		"kubernetes=": "kubernetes=true\nkubernetes=false\n:4\n", "queue-size=": ":4\n", "nosuch=": ":4\n",
	} {
		if code, stdout, _ := runHere(t, "__complete", "install", "--agent-setting", typed); code != 0 || !strings.Contains(stdout, want) || typed != "" && stdout != want {
			t.Errorf("%q: exit code %d, %q, want %q", typed, code, stdout, want)
		}
	}
}

// Every flag has its own completion: one whose values a type or flagValues lists, these; and
// files only where a file is meant.
func TestEveryFlagIsCompleted(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			_, stdout, _ := runHere(t, "__complete", cmd.Name(), "--"+f.Name+"=")
			kind, _ := pflag.UnquoteUsage(f)
			offersFiles := strings.HasSuffix(stdout, ":0\n")
			if f.Value.Type() != "bool" && offersFiles != (kind == "FILE" || kind == "PATH" && f.Name != "path") {
				t.Errorf("%s --%s %s: files %v: %q", cmd.Name(), f.Name, kind, offersFiles, stdout)
			}
			for choice := range strings.SplitSeq(f.Value.Type(), "|") {
				if strings.Contains(f.Value.Type(), "|") && !strings.Contains(stdout, choice+"\n") {
					t.Errorf("%s --%s does not offer %s: %q", cmd.Name(), f.Name, choice, stdout)
				}
			}
		})
	}
}

// The exit code tells failures, wrong usage and nothing found apart.
func TestExitCodes(t *testing.T) {
	for _, test := range []struct {
		err  error
		ran  bool
		want int
	}{
		{nil, true, 0}, {errors.New("failed"), true, exitFailed}, {errors.New("unknown flag"), false, exitUsage},
		{usage(errors.New("wrong")), true, exitUsage}, {fmt.Errorf("x: %w", usage(errors.New("wrong"))), true, exitUsage}, {usage(nil), true, 0},
		{fmt.Errorf("x: %w", tracestore.ErrNotFound), true, exitNothing}, {nothing{errors.New("none")}, true, exitNothing}, {reported(exitNothing), true, exitNothing},
	} {
		if got := exitCode(test.err, test.ran); got != test.want {
			t.Errorf("%v, ran %v: %d, want %d", test.err, test.ran, got, test.want)
		}
	}
}

// Each code of docs/versioning.md, from the commands.
func TestExitCodesOfCommands(t *testing.T) {
	const file, id = "../tracestore/testdata/otlp.jsonl", "4bf92f3577b34da6a3ce929d0e0e4736"
	for _, test := range []struct {
		args string
		want int
	}{
		{"version", 0}, {"--help", 0}, {"help explain", 0}, {"explain --file " + file + " " + id, 0}, {"install --dry-run --reorder=none", 0},
		{"explain --url http://127.0.0.1:1 --store jaeger " + id, exitFailed}, {"explain --file /nosuch " + id, exitFailed}, {"decode /nosuch", exitFailed},
		{"install --kubeconfig /nosuch --reorder=none", exitFailed}, {"status --kubeconfig /nosuch", exitFailed}, {"uninstall --kubeconfig /nosuch", exitFailed},
		{"nosuch", exitUsage}, {"version --nosuch", exitUsage}, {"version more", exitUsage}, {"explain", exitUsage}, {"explain --baseline=-1 " + id, exitUsage},
		{"decode --format=xml -", exitUsage}, {"install --reorder=front", exitUsage}, {"join --max-exchanges=0", exitUsage}, {"agent --queue-size=0", exitUsage}, {"help nosuch", exitUsage},
		{"explain --file " + file + " 00000000000000000000000000000001", exitNothing}, {"explain --file " + file + " --service nosuch", exitNothing},
	} {
		code, _, stderr := runHere(t, strings.Fields(test.args)...)
		if code != test.want || (stderr == "") != (code == 0) {
			t.Errorf("%s: exit code %d, want %d: %q", test.args, code, test.want, stderr)
		}
	}
	page, err := os.ReadFile("../../../docs/versioning.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []int{0, exitFailed, exitUsage, exitNothing} {
		if !bytes.Contains(page, fmt.Appendf(nil, "\n| %d | ", code)) || !strings.Contains(newRoot().Long, fmt.Sprint(code)) {
			t.Errorf("exit code %d is not documented", code)
		}
	}
}

// Text, JSON and exit code agree.
func TestDoctor(t *testing.T) {
	text := runBinary(t, exec.Command(binary, "doctor"))
	asJSON := runBinary(t, exec.Command(binary, "doctor", "--json"))
	var report doctor.Report
	if err := json.Unmarshal([]byte(asJSON.stdout), &report); err != nil {
		t.Fatal(err)
	}
	if want := map[bool]int{true: 0, false: 1}[report.Capture]; text.code != want || asJSON.code != want {
		t.Errorf("exit codes %d and %d, want %d", text.code, asJSON.code, want)
	}
	if report.Kernel == "" || len(report.Checks) < 10 {
		t.Errorf("report %+v", report)
	}
	for _, c := range report.Checks {
		if !strings.Contains(text.stdout, c.Name+" ") {
			t.Errorf("the text lacks %s", c.Name)
		}
	}
	verdict := map[bool]string{true: "The agent can capture here", false: "The agent cannot capture here"}[report.Capture]
	if !strings.Contains(text.stdout, verdict) {
		t.Errorf("the text lacks the verdict %q", verdict)
	}
}

// Bool flags are listed without a value, and the agent's flags in sections.
func TestHelpListsTheFlags(t *testing.T) {
	for command, lines := range map[string][]string{
		"agent":  {"\nExport:\n", "\n      --headers-only   ", "\n      --queue-size N "},
		"status": {"\n      --json     ", "\n      --window TIME "},
	} {
		r := runBinary(t, exec.Command(binary, command, "--help"))
		for _, line := range lines {
			if !strings.Contains(r.stdout, line) {
				t.Errorf("the help of %s lacks %q:\n%s", command, line, r.stdout)
			}
		}
	}
}

// Help fits 80 columns, and has commands in groups, and examples whose flags exist.
func TestHelp(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	commands := []string{"agent", "decode", "doctor", "explain", "install", "join", "status", "try", "uninstall", "version"}
	for _, command := range append(commands, "") {
		_, help, _ := runHere(t, strings.Fields(command+" --help")...)
		for line := range strings.Lines(help) {
			if columns := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); columns > 80 {
				t.Errorf("%s --help: %d columns: %s", command, columns, line)
			}
		}
	}
	root := newRoot()
	for _, name := range commands {
		cmd, _, err := root.Find([]string{name})
		if err != nil || (cmd.GroupID == "") != (name == "version") {
			t.Errorf("%s is in the group %q, %v", name, cmd.GroupID, err)
		}
		examples := 0
		for line := range strings.Lines(strings.ReplaceAll(cmd.Example, "\\\n", "")) {
			_, args, found := strings.Cut(line, "layertrace "+name)
			if !found {
				continue
			}
			examples++
			if err := newRootCommand(t, name).ParseFlags(strings.Fields(args)); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		if examples == 0 {
			t.Errorf("%s has no example", name)
		}
	}
}

func newRootCommand(t *testing.T, name string) *cobra.Command {
	t.Helper()
	cmd, _, err := newRoot().Find([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestHelpListsTheCommands(t *testing.T) {
	r := runBinary(t, exec.Command(binary, "--help"))
	for _, command := range []string{"agent", "decode", "doctor", "explain", "install", "status", "try", "uninstall", "version"} {
		if !strings.Contains(r.stdout, "\n  "+command+" ") {
			t.Errorf("the help lacks %s:\n%s", command, r.stdout)
		}
	}
}

// help COMMAND is COMMAND --help, and refuses commands that do not exist.
func TestHelpOfACommand(t *testing.T) {
	_, want, _ := runHere(t, "install", "--help")
	if code, got, stderr := runHere(t, "help", "install"); code != 0 || got != want || want == "" {
		t.Errorf("exit code %d, %q, %q", code, got, stderr)
	}
	for _, args := range [][]string{{"help", "nosuch"}, {"help", "install", "more"}} {
		if code, stdout, stderr := runHere(t, args...); code != exitUsage || stdout != "" || !strings.Contains(stderr, "no command") {
			t.Errorf("%q: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if _, stdout, _ := runHere(t, "__complete", "help", "ins"); !strings.Contains(stdout, "install\t") {
		t.Errorf("completion %q", stdout)
	}
}

func TestRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := func(content string) string {
		name := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, test := range []struct {
		name       string
		args, env  []string
		want       string
		privileged bool
	}{
		{"unknown command", []string{"agnet"}, nil, `unknown command "agnet"`, false},
		{"unknown flag", []string{"agent", "--quue-size=1"}, nil, "did you mean --queue-size?", false},
		{"argument", []string{"agent", "eth0"}, nil, `takes no arguments, got "eth0"`, false},
		{"unknown flag of explain", []string{"explain", "--typical=3", "ID"}, nil, "unknown flag --typical; see layertrace explain --help", false},
		{"unknown shorthand", []string{"decode", "-x", "FILE"}, nil, "unknown flag -x; see layertrace decode --help", false},
		{"no capture file", []string{"decode"}, nil, `needs one capture FILE ("-": stdin), got 0; see layertrace decode --help`, false},
		{"format of no single header", []string{"agent", "--context-header=x=zip"}, nil, `format "zip" is not one of [w3c b3 jaeger skywalking xray gcp]`, false},
		{"bad value", []string{"agent", "--queue-size=many"}, nil, "--queue-size", false},
		{"bad bool", []string{"agent", "--kubernetes=maybe"}, nil, `"--kubernetes" flag: must be true or false`, false},
		{"unknown variable", []string{"agent"}, []string{"LAYERTRACE_QUUE_SIZE=1"}, "did you mean LAYERTRACE_QUEUE_SIZE?", false},
		{"bad YAML", []string{"agent", "--config", file("a: b: c")}, nil, "not a valid YAML", false},
		{"duplicate key", []string{"agent", "--config", file("deep: true\ndeep: true")}, nil, "already set", false},
		{"unknown key", []string{"agent", "--config", file("quue-size: 1")}, nil, "did you mean queue-size?", false},
		{"no file", []string{"agent", "--config=/nosuch.yaml"}, nil, "correct --config", false},
		{"missing interface", []string{"agent", "--pnic=nosuch0"}, nil, `no interface "nosuch0"`, true},
		{"bad identity", []string{"agent", "--identity", file("nodes: a")}, nil, "identity file", true},
		{"port in use", []string{"agent", "--metrics-address", taken.Addr().String()}, nil, "is in use", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.privileged {
				needRoot(t)
			}
			cmd := exec.Command(binary, test.args...)
			cmd.Env = append([]string{}, test.env...) // not the environment of the test
			code := exitUsage
			if test.privileged { // found out when it runs
				code = exitFailed
			}
			checkRefusal(t, runBinary(t, cmd), code, test.want)
		})
	}
}

func TestNotRoot(t *testing.T) {
	needRoot(t) // to run as another user
	for _, command := range []string{"agent", "doctor"} {
		cmd := exec.Command(binary, command)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		r := runBinary(t, cmd)
		if command == "agent" {
			checkRefusal(t, r, exitFailed, "run as root")
		} else if r.code != 1 {
			t.Errorf("doctor: exit code %d, want 1", r.code)
		}
	}
}

func TestWithoutBTF(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, binary, "agent")
	cmd.Env = []string{hideBTF + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	checkRefusal(t, runBinary(t, cmd), exitFailed, "CONFIG_DEBUG_INFO_BTF=y")
}

// hostile makes a terminal do things: it sets the title, clears the screen, and changes the
// direction of writing; the third is one byte of ISO 8859-1 that some terminals obey.
const hostile = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202e"

func controls(text string) bool {
	return strings.ContainsAny(text, "\x1b\x07\u009b\u202e")
}

// What a trace store says, in its body or in the reason of HTTP, does not control the terminal.
func TestErrorsDoNotControlTheTerminal(t *testing.T) {
	bodies := map[string]func(http.ResponseWriter){
		"message": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"errors":[{"code":400,"msg":%q}]}`, "\\u001b]0;owned HACK")
		},
		"reason": func(w http.ResponseWriter) {
			c, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(rw, "HTTP/1.1 500 %s HACK\r\nContent-Length: 0\r\n\r\n", hostile)
			_ = rw.Flush() // a failed write fails the test
			c.Close()
		},
		"target": func(w http.ResponseWriter) {
			w.Header()["Content-Type"] = []string{"text/HACK" + hostile}
			fmt.Fprint(w, "x")
		},
	}
	for name, respond := range bodies {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { respond(w) }))
		code, stdout, stderr := runHere(t, "explain", "4bf92f3577b34da6a3ce929d0e0e4736", "--jaeger", server.URL)
		server.Close()
		if code != 1 || controls(stdout+stderr) || !strings.HasPrefix(stderr, "layertrace: ") {
			t.Errorf("%s: exit code %d, %q", name, code, stdout+stderr)
		}
	}
}
