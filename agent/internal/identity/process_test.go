// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	id1 = "1111111111111111111111111111111111111111111111111111111111111111"
	id2 = "2222222222222222222222222222222222222222222222222222222222222222"
)

// Paths of cgroups as the runtimes and systemd make them, and what they say.
func TestNamesInCgroups(t *testing.T) {
	for path, want := range map[string]struct{ id, name, unit string }{
		"/":                             {},
		"/system.slice/nginx.service":   {unit: "nginx"},
		"/system.slice/nginx.service/a": {unit: "nginx"},
		"/system.slice/system-postgresql.slice/postgresql@16-main.service":     {unit: "postgresql@16-main"},
		"/system.slice/my\\x2dapp.service":                                     {unit: "my-app"},
		"/system.slice/echo@3-127.0.0.1:7-127.0.0.1:50612.service":             {unit: "echo"},
		"/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service": {unit: "shop"},
		"/user.slice/user-1000.slice/user@1000.service/init.scope":             {},
		"/user.slice/user-1000.slice/session-4.scope":                          {},
		"/init.scope":                            {},
		"/system.slice/run-u12.service":          {},
		"/system.slice/cron.service":             {},
		"/system.slice/docker.service":           {},
		"/system.slice/docker-" + id1 + ".scope": {id: id1},
		"/docker/" + id1:                         {id: id1},
		"/docker/" + id1 + "/docker/" + id2:      {id: id1},
		"/system.slice/docker-" + id1 + ".scope/system.slice/nginx.service":                           {id: id1, unit: "nginx"},
		"/machine.slice/libpod-" + id1 + ".scope/container":                                           {id: id1},
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id1 + ".scope/container": {id: id1},
		"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id1 + ".scope":                        {id: id1},
		"/kubepods.slice/kubepods-pod1.slice/crio-" + id1 + ".scope":                                  {id: id1},
		"/system.slice/nerdctl-" + id1 + ".scope":                                                     {id: id1},
		"4:memory:/docker/" + id1:                                                                     {id: id1},
		"0::/../docker-" + id1 + ".scope":                                                             {id: id1},
		"/docker/" + id1[1:]:                                                                          {},
		"/docker/" + id1 + "0":                                                                        {},
		"/lxc.payload.web/system.slice/nginx.service":                                                 {name: "web", unit: "nginx"},
		"/machine.slice/machine-my\\x2dbox.scope/payload":                                             {name: "my-box"},
		"/machine.slice/systemd-nspawn@box.service/payload":                                           {name: "box", unit: "systemd-nspawn@box"},
	} {
		id, name := containerOf(path)
		if unit := unitOf(path); id != want.id || name != want.name || unit != want.unit {
			t.Errorf("%s: container %q %q, unit %q; want %q %q, %q", path, id, name, unit, want.id, want.name, want.unit)
		}
	}
}

// The files of the runtimes, in the form that these have: Docker 28, Podman 5,
// nerdctl 2, containerd 2 and CRI-O 1.33.
func TestNamesOfContainers(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"web-1": {"var/lib/docker/containers/" + id1 + "/config.v2.json": `{"StreamConfig":{},"State":{"Running":true},"ID":"` + id1 + `","Name":"/web-1","Driver":"overlay2"}`},
		"web-2": {
			"etc/docker/daemon.json":                           `{"data-root": "/srv/docker"}`,
			"srv/docker/containers/" + id1 + "/config.v2.json": `{"Name":"/web-2"}`,
		},
		"web-3":  {"var/lib/containers/storage/overlay-containers/containers.json": `[{"id":"` + id2 + `","names":["x"]},{"id":"` + id1 + `","names":["web-3"]}]`},
		"web-4":  {"home/ann/.local/share/containers/storage/overlay-containers/volatile-containers.json": `[{"id":"` + id1 + `","names":["web-4"]}]`},
		"web-5":  {"var/lib/nerdctl/1935db59/names/default/web-5": id1},
		"web-6":  {"run/containerd/io.containerd.runtime.v2.task/k8s.io/" + id1 + "/config.json": `{"ociVersion":"1.2.0","annotations":{"io.kubernetes.cri.container-name":"web-6"}}`},
		"web-7":  {"run/containers/storage/overlay-containers/" + id1 + "/userdata/config.json": `{"annotations":{"io.kubernetes.container.name":"web-7"}}`},
		id1[:12]: {"var/lib/docker/containers/" + id1 + "/config.v2.json": `{"Name":`},
	} {
		root := t.TempDir()
		for name, text := range files {
			write(t, filepath.Join(root, name), text)
		}
		if got := containerName(root, id1); got != want {
			t.Errorf("%v: %q, want %q", files, got, want)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestScripts(t *testing.T) {
	for arguments, want := range map[string]string{
		"python3 app.py":                       "app.py",
		"python3 -u /srv/shop/app.py --port 8": "app.py",
		"python3 -m http.server 8000":          "http.server",
		"python3 /usr/bin/gunicorn app:app":    "gunicorn",
		"python3 -c pass":                      "",
		"python3 -W ignore app.py":             "",
		"python3":                              "",
		"node --enable-source-maps server.js":  "server.js",
		"java -Xmx1g -jar shop.jar":            "",
		"java -jar /opt/shop.jar":              "shop.jar",
		"java com.example.Main":                "",
	} {
		if got := scriptOf(strings.Fields(arguments)); got != want {
			t.Errorf("%s: %q, want %q", arguments, got, want)
		}
	}
}

// machine is a made /proc with what a test puts there.
type machine struct {
	t    *testing.T
	now  time.Time
	opts ProcessOptions
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, now: time.Unix(1e9, 0)}
	m.opts = ProcessOptions{Root: t.TempDir(), Proc: t.TempDir(), Cgroup: t.TempDir(), Now: func() time.Time { return m.now }}
	return m
}

func (m *machine) process(pid int, comm, exe, cgroups string, arguments ...string) Process {
	m.t.Helper()
	dir := filepath.Join(m.opts.Proc, strconv.Itoa(pid))
	write(m.t, filepath.Join(dir, "comm"), comm+"\n")
	write(m.t, filepath.Join(dir, "cgroup"), cgroups)
	write(m.t, filepath.Join(dir, "cmdline"), strings.Join(arguments, "\x00")+"\x00")
	if err := os.Symlink(exe, filepath.Join(dir, "exe")); err != nil {
		m.t.Fatal(err)
	}
	return Process{PID: uint32(pid), Name: comm}
}

// cgroup makes a directory and returns the ID that a cgroup there would have.
func (m *machine) cgroup(path string) uint64 {
	m.t.Helper()
	dir := filepath.Join(m.opts.Cgroup, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		m.t.Fatal(err)
	}
	return st.Ino
}

// The container comes before the service, that before the program.
func TestServiceOfAProcess(t *testing.T) {
	m := newMachine(t)
	write(t, filepath.Join(m.opts.Root, "var/lib/docker/containers/"+id1+"/config.v2.json"), `{"Name":"/web"}`)
	unit, docker := m.cgroup("system.slice/nginx.service"), m.cgroup("system.slice/docker.service")
	inContainer := m.cgroup("system.slice/docker-" + id1 + ".scope")
	v1 := m.process(11, "gunicorn", "/usr/bin/python3.11", "4:memory:/docker/"+id1+"\n0::/system.slice/docker.service\n")
	v1.Cgroup = docker
	proxy := m.process(12, "docker-proxy", "/usr/bin/docker-proxy", "0::/system.slice/docker.service\n")
	proxy.Cgroup = docker
	for _, test := range []struct {
		what string
		of   Process
		want string
	}{
		{"container", Process{Cgroup: inContainer, PID: 999, Name: "nginx"}, "web"},
		{"container without a process", Process{Cgroup: inContainer}, "web"},
		{"container in cgroups of version 1", v1, "web"},
		{"helper of the runtime", proxy, "docker-proxy"},
		{"unit", Process{Cgroup: unit, PID: 999, Name: "perl"}, "nginx"},
		{"unit by /proc", m.process(13, "redis-server", "/usr/bin/redis-server", "0::/system.slice/redis.service\n"), "redis"},
		{"program", m.process(14, "caddy", "/usr/bin/caddy", "0::/\n"), "caddy"},
		{"program with a long name", m.process(15, "a-program-with-", "/opt/a-program-with-a-long-name", "0::/\n"), "a-program-with-a-long-name"},
		{"script", m.process(16, "python3", "/usr/bin/python3.11", "0::/user.slice/user-0.slice/session-1.scope\n", "python3", "app.py"), "app.py"},
		{"interpreter without a script", m.process(17, "python3", "/usr/bin/python3.11", "0::/\n", "python3", "-c", "pass"), "python3"},
		{"gone", Process{PID: 999, Name: "curl"}, "curl"},
		{"another process with the PID", Process{PID: 16, Name: "curl"}, "curl"},
		{"odd name", Process{PID: 999, Name: "a\nb\x1b[1m"}, "a_b_[1m"},
		{"nothing known", Process{}, ""},
		{"a cgroup that is gone, and no process", Process{Cgroup: 1 << 60}, ""},
	} {
		if got := NewProcesses(m.opts).Service(test.of); got != test.want {
			t.Errorf("%s: %q, want %q", test.what, got, test.want)
		}
	}
}

// A name outlives its process, and is looked up again while that lives.
func TestNameOfAProcessThatEnds(t *testing.T) {
	m := newMachine(t)
	p := NewProcesses(m.opts)
	script := m.process(21, "python3", "/usr/bin/python3.11", "0::/\n", "python3", "app.py")
	check := func(want string) {
		t.Helper()
		if got := p.Service(script); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	check("app.py")
	dir := filepath.Join(m.opts.Proc, "21")
	write(t, filepath.Join(dir, "cmdline"), "python3\x00other.py\x00")
	check("app.py") // kept for a while
	m.now = m.now.Add(2 * processNameTime)
	check("other.py")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	m.now = m.now.Add(2 * processNameTime)
	check("other.py")
}

// However many processes come and go, the names that are kept are bounded.
func TestProcessNamesAreBounded(t *testing.T) {
	p := NewProcesses(newMachine(t).opts)
	for pid := range uint32(3 * maxProcesses) {
		p.Service(Process{PID: pid + 1, Name: "curl"})
	}
	if len(p.names) > maxProcesses {
		t.Errorf("%d names are kept, want at most %d", len(p.names), maxProcesses)
	}
}

// The cgroup of a real process is found by its ID, by handle and by search.
func TestCgroupByID(t *testing.T) {
	mount := findCgroupMount(cgroupMounts)
	if mount == "" {
		t.Fatal("no cgroup2 mount")
	}
	slice := filepath.Join(mount, "layertrace-test.slice")
	dir := filepath.Join(slice, "shop.service")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir); _ = os.Remove(slice) })
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	const want = "/layertrace-test.slice/shop.service"
	for _, byHandle := range []bool{true, false} {
		c := newCgroupPaths(mount, time.Now)
		c.byHandle = byHandle
		if got := c.path(st.Ino); got != want || c.byHandle != byHandle {
			t.Errorf("by handle %v: %q, want %q (by handle at last: %v)", byHandle, got, want, c.byHandle)
		}
		if got := c.path(1); got != "/" { // the ID of every kernfs root
			t.Errorf("by handle %v: the root is %q", byHandle, got)
		}
	}
	p := NewProcesses(ProcessOptions{})
	for _, x := range []Process{{Cgroup: st.Ino}, {PID: uint32(cmd.Process.Pid), Name: "sleep"}} {
		if got := p.Service(x); got != "shop" {
			t.Errorf("%+v is %q, want shop", x, got)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	c := newCgroupPaths(mount, time.Now)
	if got := c.path(st.Ino); got != "" || !c.byHandle {
		t.Errorf("a removed cgroup is %q (by handle at last: %v)", got, c.byHandle)
	}
}

// What this process listens at, over IPv4, IPv6 and at all addresses.
func TestListeners(t *testing.T) {
	want := map[string]bool{}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		want[l.Addr().String()] = true
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	p := NewProcesses(ProcessOptions{})
	for _, at := range p.Listeners(Process{PID: uint32(os.Getpid()), Name: strings.TrimSpace(string(comm))}) {
		delete(want, at.String())
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
	if all := p.Listeners(Process{PID: uint32(os.Getpid()), Name: "another"}); len(all) > 0 {
		t.Errorf("another process with the PID listens at %v", all)
	}
}
