//go:build integration

package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const noCapabilities = "0000000000000000"

// P1, P2: on every thread, also behind one more execve.
func TestEveryThreadIsConfined(t *testing.T) {
	want := map[string]string{
		"Seccomp": "2", "NoNewPrivs": "1", "Groups": insideGroups,
		"CapInh": noCapabilities, "CapPrm": noCapabilities, "CapEff": noCapabilities, "CapBnd": noCapabilities, "CapAmb": noCapabilities,
		"Uid": fourTimes(insideUID), "Gid": fourTimes(insideUID),
		"SigIgn": noCapabilities, "SigBlk": noCapabilities,
	}
	for _, args := range [][]string{{"posture"}, {"exec", "posture"}} {
		threads := probe[[]map[string]string](t, "plain", args...)
		if len(threads) < 4 {
			t.Fatalf("%v: %d threads", args, len(threads))
		}
		for _, thread := range threads {
			for field, value := range want {
				if field == "SigBlk" && thread[field] != value {
					continue // Go blocks signals on its own threads for moments
				}
				if thread[field] != value {
					t.Errorf("%v: thread %s: %s is %q, want %q", args, thread["Pid"], field, thread[field], value)
				}
			}
		}
	}
	control := outside[[]map[string]string](t, "posture")[0]
	if control["Seccomp"] == "2" || control["CapEff"] == noCapabilities {
		t.Errorf("the control is confined itself: %v", control)
	}
}

func TestAddedCapabilityIsInAllSets(t *testing.T) {
	const bindService = "0000000000000400"
	for _, thread := range probe[[]map[string]string](t, "capability", "exec", "posture") {
		for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			if thread[set] != bindService {
				t.Errorf("%s is %s", set, thread[set])
			}
		}
	}
	const bind = `import socket; s = socket.socket(); s.bind(("127.0.0.1", 80)); print("bound")`
	purple(t, "capability", "python3", "-c", bind).mustSucceed(t)
	if r := purple(t, "groups", "python3", "-c", bind); r.status == 0 || !strings.Contains(r.stderr, "PermissionError") {
		t.Errorf("without it: status %d, %s", r.status, r.stderr)
	}
}

// P3, P6, P7.
func TestIdentity(t *testing.T) {
	type identity struct {
		UID, GID      int
		Groups        []int
		Dir, Hostname string
		UIDMap        []string `json:"uid_map"`
		Env           []string
	}
	c := call{dir: bin, args: []string{"run", "--profile", profilePath("plain"), "--env", "GIVEN=1", "--", filepath.Join(bin, "probe"), "identity"}}
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "NOTIFY_SOCKET", "LISTEN_FDS", "XDG_RUNTIME_DIR", "LD_PRELOAD_X", "BASH_ENV", "GIT_DIR", "PYTHONPATH"} {
		c.env = append(c.env, name+"=canary")
	}
	got := decode[identity](t, c.run(t))
	if got.UID != insideUID || got.GID != insideUID || got.Dir != bin || got.Hostname != "purple" {
		t.Errorf("%+v", got)
	}
	if len(got.UIDMap) != 3 || got.UIDMap[1] == "0" || got.UIDMap[2] != "1" {
		t.Errorf("uid_map %v: the host's root must not be in it", got.UIDMap)
	}
	if len(got.Groups) > 1 || (len(got.Groups) == 1 && got.Groups[0] != insideUID) {
		t.Errorf("groups %v", got.Groups)
	}
	var names []string
	for _, e := range got.Env {
		name, value, _ := strings.Cut(e, "=")
		names = append(names, name)
		if value == "canary" {
			t.Errorf("%s came in", name)
		}
	}
	slices.Sort(names)
	// PYTHONDONTWRITEBYTECODE is the profile's own.
	if want := []string{"GIVEN", "HOME", "LANG", "PATH", "PYTHONDONTWRITEBYTECODE", "USER"}; !slices.Equal(names, want) {
		t.Errorf("environment %v, want %v", names, want)
	}
}

// P4.
func TestNamespacesAreItsOwn(t *testing.T) {
	inside, host := probe[map[string]string](t, "plain", "namespaces"), outside[map[string]string](t, "namespaces")
	for name, link := range inside {
		if !strings.Contains(link, ":[") || link == host[name] {
			t.Errorf("%s: %s inside, %s outside", name, link, host[name])
		}
	}
	if len(inside) != 8 {
		t.Errorf("%d namespaces", len(inside))
	}
}

// P5: descriptors that a careless caller leaves open do not come in.
func TestDescriptors(t *testing.T) {
	script := fmt.Sprintf(`exec 9</etc 10</etc/passwd 250</sys/fs/cgroup; cd %q; exec %q run --profile %q -- %q exec descriptors 2>/dev/null`,
		bin, filepath.Join(bin, "purple"), profilePath("plain"), filepath.Join(bin, "probe"))
	got := decode[map[string]string](t, result{stdout: sh(t, script)})
	for fd := range got {
		if !slices.Contains([]string{"0", "1", "2"}, fd) {
			t.Errorf("descriptor %s: %s", fd, got[fd])
		}
	}
	control := decode[map[string]string](t, result{stdout: sh(t, fmt.Sprintf("exec 9</etc; exec %q descriptors", filepath.Join(bin, "probe")))})
	if control["9"] != "/etc" {
		t.Errorf("control: %v", control)
	}
}

// The unit's timer slack is for purple-init: neither what the command has nor what it
// can go back to.
func TestTimerSlack(t *testing.T) {
	const ask = "import ctypes; libc = ctypes.CDLL(None); print(libc.prctl(30), libc.prctl(29, 0), libc.prctl(30))" // PR_GET_TIMERSLACK, PR_SET_TIMERSLACK
	if r := purple(t, "plain", "python3", "-c", ask).mustSucceed(t); strings.TrimSpace(r.stdout) != "50000 0 50000" {
		t.Errorf("%q", r.stdout)
	}
}

// A directory as standard input would lead out of the sandbox.
func TestDirectoryOnStandardInputIsRefused(t *testing.T) {
	dir := tempDir(t)
	out := sh(t, fmt.Sprintf("cd %q; %q run --profile %q -- true < /etc 2>&1; echo status $?", dir, filepath.Join(bin, "purple"), profilePath("plain")))
	if !strings.Contains(out, "it is a directory") || !strings.Contains(out, "status 125") {
		t.Errorf("%s", out)
	}
}

// S1-S10, S12: the filter answers, not the kernel behind it.
func TestDeniedSystemCalls(t *testing.T) {
	control := outside[map[string]string](t, "syscalls")
	for _, profile := range []string{"plain", "groups"} {
		for _, args := range [][]string{{"syscalls"}, {"exec", "syscalls"}} {
			got := probe[map[string]string](t, profile, args...)
			if len(got) != len(control) {
				t.Fatalf("%d answers, the control has %d", len(got), len(control))
			}
			for name, answer := range got {
				denied := answer == "EPERM" || answer == "ENOSYS"
				if name == "ok: socket unix" && profile == "plain" {
					continue // the tightest built-in has no sockets
				}
				if strings.HasPrefix(name, "ok: ") == denied {
					t.Errorf("%s: %s: %s", profile, name, answer)
				}
			}
			if got["clone3"] != "ENOSYS" {
				t.Errorf("%s: clone3: %s, but libc falls back on ENOSYS only", profile, got["clone3"])
			}
		}
	}
	// A kernel built without a call says ENOSYS by itself: then the filter
	// was not what answered, and only the simulator's verdict counts.
	for name, answer := range control {
		if answer == "EPERM" {
			t.Errorf("control: %s: EPERM without any filter", name)
		}
	}
	open := probe[map[string]string](t, "open-syscalls", "syscalls")
	for name, answer := range open {
		floor := slices.Contains([]string{"clone3", "io_uring_setup", "unshare newuser", "ioctl TIOCSTI", "ioctl TIOCSTI, high bits", "ioctl TIOCLINUX", "socket vsock", "socket alg", "socket mptcp"}, name)
		if floor && answer != "EPERM" && answer != "ENOSYS" {
			t.Errorf("the floor let %s pass: %s", name, answer)
		}
		if !floor && answer != control[name] && answer != "EPERM" {
			t.Errorf("every call allowed: %s: %s, outside %s", name, answer, control[name])
		}
	}
	if open["bpf"] == "ENOSYS" || open["keyctl"] == "EPERM" {
		t.Errorf("every call allowed: bpf %s, keyctl %s", open["bpf"], open["keyctl"])
	}
}

// F1, F4, F12, F20.
func TestFilesystem(t *testing.T) {
	table := probe[map[string]string](t, "plain", "mounts")
	for target, options := range table {
		if strings.Contains(options, "shared:") || strings.Contains(options, "master:") {
			t.Errorf("%s: %s", target, options)
		}
		if !strings.Contains(options, "nosuid") || (!strings.Contains(options, "nodev") && !strings.HasPrefix(target, "/dev/") && !strings.HasPrefix(target, "/proc/")) {
			t.Errorf("%s: %s", target, options)
		}
	}
	for _, target := range []string{"/", "/usr", "/proc", "/dev", bin} {
		if !strings.HasPrefix(table[target], "ro,") {
			t.Errorf("%s: %q", target, table[target])
		}
	}
	r := purple(t, "plain", "sh", "-c", "ls -A / /dev /run /home; ls -d /root /sys /boot /var/log /etc/shadow /oldroot /.oldroot 2>&1 | grep -v 'No such file'")
	for _, secret := range []string{"/root", "/sys", "/boot", "/var/log", "shadow", "oldroot"} {
		if strings.Contains(r.stdout, secret) {
			t.Errorf("%s is there: %s", secret, r.stdout)
		}
	}
	dev := strings.Fields(purple(t, "plain", "ls", "/dev").mustSucceed(t).stdout)
	want := strings.Fields("fd full null ptmx pts random shm stderr stdin stdout tty urandom zero")
	if !slices.Equal(dev, want) {
		t.Errorf("/dev has %v, want %v", dev, want)
	}
}

func TestReadOnlyPathsCannotBeWritten(t *testing.T) {
	paths := []string{"/usr/bin/env", "/etc/passwd", filepath.Join(bin, "probe"), "/proc/sysrq-trigger",
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/self/oom_score_adj"}
	for path, answer := range probe[map[string]string](t, "groups", append([]string{"open"}, paths...)...) {
		if answer == "ok" && path != "/proc/sysrq-trigger" { // a mask: /dev/null
			t.Errorf("%s opens for writing", path)
		}
	}
	// F11: a mask is the null device, or an empty directory.
	masked := "cmdline diskstats interrupts keys partitions softirqs"
	want := strings.Repeat("1:3\n", len(strings.Fields(masked)))
	if r := purple(t, "groups", "sh", "-c", "cd /proc; stat -c %t:%T "+masked+"; ls -A bus; cat "+masked); r.stdout != want {
		t.Errorf("not masked: %q %s", r.stdout, r.stderr)
	}
	if got := sh(t, "cd /proc; for f in "+masked+"; do head -c 1 $f | wc -c; done"); !strings.Contains(got, "1") { // the control
		t.Errorf("the host's are empty: %q", got)
	}
	purple(t, "groups", "sh", "-c", "echo x > /tmp/x && echo x > ~/x && echo x > /dev/shm/x").mustSucceed(t)
}

// F2: what the host has mounted below a read-only path is read-only too.
func TestSubmountsAreReadOnly(t *testing.T) {
	dir := tempDir(t)
	sub := filepath.Join(dir, "sub")
	sh(t, fmt.Sprintf("chmod 755 %q; mkdir %q; mount -t tmpfs -o mode=0777 none %q; touch %q/seen", dir, sub, sub, sub))
	t.Cleanup(func() { sh(t, fmt.Sprintf("umount %q", sub)) })
	r := call{dir: dir, args: []string{"run", "--profile", profilePath("plain"), "--", "sh", "-c", "ls sub; touch sub/written"}}.run(t)
	if r.status == 0 || !strings.Contains(r.stdout, "seen") || !strings.Contains(r.stderr, "Read-only") {
		t.Errorf("status %d, %q, %q", r.status, r.stdout, r.stderr)
	}
}

// F8: a link in the place of an output path.
func TestLinkInAnOutputPathIsRefused(t *testing.T) {
	dir, canary := tempDir(t), tempDir(t)
	link := filepath.Join(dir, "out")
	if err := os.Symlink(canary, link); err != nil {
		t.Fatal(err)
	}
	profile := writeProfile(t, fmt.Sprintf("extends: offline\nfilesystem:\n  output_paths:\n    - {host_path: %q, sandbox_path: /output, mode: read-write}\n", link))
	call{args: []string{"run", "--profile", profile, "--", "touch", "/output/x"}}.run(t).mustRefuse(t, 125, "symbolic link")
	if entries, err := os.ReadDir(canary); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// writeProfile writes a profile that nobody else could have written.
func writeProfile(t *testing.T, content string) string {
	t.Helper()
	dir := tempDir(t)
	file := filepath.Join(dir, "test.yaml")
	if err := os.WriteFile(file, []byte(lift(content)), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// Output paths: write-only by default, and what is written is the invoker's.
func TestOutputPaths(t *testing.T) {
	out := tempDir(t)
	sh(t, fmt.Sprintf("cd %q; umask 077; printf secret > before; chown %s before", out, caller))
	path := func(mode string) string {
		return writeProfile(t, fmt.Sprintf("extends: ai-dev-safe\nfilesystem:\n  output_paths:\n    - {host_path: %q, sandbox_path: /output%s}\n", out, mode))
	}
	run := func(profile, script string) result {
		return call{args: []string{"run", "--profile", profile, "--", "sh", "-c", script}}.run(t)
	}
	writeOnly, readWrite := path(""), path(", mode: read-write")
	run(writeOnly, "echo new > /output/new && mkdir /output/dir && echo more >> /output/before").mustSucceed(t)
	for _, script := range []string{"cat /output/before", "ls /output", "cat < /output/new", "mv /output/before /tmp/b && cat /tmp/b"} {
		if r := run(writeOnly, script); r.status == 0 || r.stdout != "" {
			t.Errorf("%s: status %d, %q", script, r.status, r.stdout)
		}
	}
	if r := run(readWrite, "cat /output/new").mustSucceed(t); r.stdout != "new\n" {
		t.Errorf("read-write: %q", r.stdout)
	}
	if got := sh(t, fmt.Sprintf("stat -c %%u:%%g %q/new; cat %q/before", out, out)); got != fmt.Sprintf("%[1]d:%[1]d\nsecretmore\n", callerUID) {
		t.Errorf("on the host: %q", got)
	}
}

// F17: nothing can be planted where the host would run it.
func TestReadOnlyWorkspace(t *testing.T) {
	dir := tempDir(t)
	r := call{dir: dir, args: []string{"run", "--", "sh", "-c", "mkdir .git; echo x > .envrc; touch x; pwd"}}.run(t)
	if strings.TrimSpace(r.stdout) != dir {
		t.Errorf("%+v", r)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the workspace has %v, %v", entries, err)
	}
	call{args: []string{"run", "--workspace", dir, "--", "touch", "made"}}.run(t).mustSucceed(t)
	if got := sh(t, "stat -c %u "+dir+"/made"); got != fmt.Sprintln(callerUID) {
		t.Errorf("what the command made belongs to %s", got)
	}
}

// I1, I2, I3: no socket of the host's, by path or abstract.
func TestSocketsAreUnreachable(t *testing.T) {
	abstract := "@purple-test-canary"
	listener, err := net.Listen("unix", abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sockets := []string{abstract, "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify", "/run/systemd/journal/stdout", "/run/systemd/journal/socket"}
	for name, answer := range outside[map[string]string](t, append([]string{"connect"}, abstract, "/run/dbus/system_bus_socket")...) {
		if answer != "ok" {
			t.Errorf("control: %s: %s", name, answer)
		}
	}
	for name, answer := range probe[map[string]string](t, "groups", append([]string{"connect"}, sockets...)...) {
		if answer == "ok" {
			t.Errorf("%s can be reached", name)
		}
	}
	if r := purple(t, "groups", "find", "/", "-xdev", "-type", "s"); strings.TrimSpace(r.stdout) != "" {
		t.Errorf("sockets: %s", r.stdout)
	}
}

// I6: no process of the host's is seen or can be signalled.
func TestProcessesAreHidden(t *testing.T) {
	r := purple(t, "groups", "sh", "-c", "ls -d /proc/[0-9]* | wc -l; kill -9 -1; echo alive").mustSucceed(t)
	lines := strings.Fields(r.stdout)
	if len(lines) < 2 || len(lines[0]) > 1 || lines[1] != "alive" {
		t.Errorf("%q", r.stdout)
	}
	// Its own PID 1 is another user's: neither readable nor to be signalled. To a
	// user's command it is one of its own uid: the signal is sent, and ignored.
	r = purple(t, "groups", "sh", "-c", "cat /proc/1/environ /proc/1/maps; readlink /proc/1/exe; ls /proc/1/fd; kill -9 1; echo $?")
	if !asUser && strings.TrimSpace(r.stdout) == "0" || strings.Contains(r.stdout, "purple") {
		t.Errorf("%q", r.stdout)
	}
	// For whoever looks at the unit's processes from outside.
	if name := purple(t, "groups", "cat", "/proc/1/comm").mustSucceed(t).stdout; name != "purple-init\n" {
		t.Errorf("init is called %q", name)
	}
	// No path of the host's is in what everybody may read.
	args := strings.TrimRight(purple(t, "groups", "cat", "/proc/1/cmdline").mustSucceed(t).stdout, "\x00")
	if args != "purple-init\x00init" && args != "purple-init\x00init\x00sealed" {
		t.Errorf("init has the arguments %q", args)
	}
}

// N1: loopback and nothing else.
func TestIsolatedNetwork(t *testing.T) {
	const script = `import socket, os
print(sorted(n for _, n in socket.if_nameindex()))
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
socket.create_connection(s.getsockname()); print("loopback")
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "10.0.0.1"), (socket.AF_INET6, "2001:db8::1")):
    try:
        socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, 53)); print("sent", address)
    except OSError as e:
        print(e.errno)`
	r := purple(t, "groups", "python3", "-c", script).mustSucceed(t)
	if r.stdout != "['lo']\nloopback\n101\n101\n101\n" {
		t.Errorf("%q", r.stdout)
	}
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	connect := fmt.Sprintf("import socket; socket.create_connection((%q, %d))", "127.0.0.1", host.Addr().(*net.TCPAddr).Port)
	if err := exec.Command("python3", "-c", connect).Run(); err != nil {
		t.Errorf("control: %v", err)
	}
	if r := purple(t, "groups", "python3", "-c", connect); r.status == 0 {
		t.Error("a service on the host's loopback was reached")
	}
}

// F14: setuid programs and file capabilities give nothing.
func TestSetuidDoesNothing(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("chmod 755 %q; cp /usr/bin/id %q/suid; chmod 4755 %q/suid", dir, dir, dir))
	r := call{dir: dir, args: []string{"run", "--", "./suid", "-u"}}.run(t).mustSucceed(t)
	if strings.TrimSpace(r.stdout) != fmt.Sprint(insideUID) {
		t.Errorf("effective uid %q", r.stdout)
	}
}

// What the command makes in a workspace is root's on the host, when root
// called: a set-user-ID file there would be a gift to every user.
func TestNoSetuidFileIsLeftBehind(t *testing.T) {
	dir := tempDir(t)
	r := call{dir: dir, args: []string{"run", "--workspace", dir, "--", "sh", "-c", "cp /bin/true x && chmod 755 x && chmod u+s x; cp /bin/true y; chmod g+s y; install -m 4755 /bin/true z; ls"}}.run(t)
	if !strings.Contains(r.stdout, "x\n") || !strings.Contains(r.stderr, "not permitted") {
		t.Errorf("%+v", r)
	}
	if found := sh(t, fmt.Sprintf("find %q -perm /6000", dir)); found != "" {
		t.Errorf("left behind: %s", found)
	}
}

// F23: nothing of one run is there in the next.
func TestScratchIsPrivate(t *testing.T) {
	purple(t, "plain", "sh", "-c", "echo x > /tmp/left && echo x > /dev/shm/left && echo x > ~/left").mustSucceed(t)
	r := purple(t, "plain", "sh", "-c", "ls -A /tmp /dev/shm ~ | grep left")
	if r.stdout != "" {
		t.Errorf("%q", r.stdout)
	}
	if _, err := os.Stat("/tmp/left"); err == nil {
		t.Error("/tmp/left is on the host")
	}
}

// P7: whoever may read unit properties learns nothing of the command.
func TestPropertiesHoldNoSecret(t *testing.T) {
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--detach", "--env", "TOKEN=canary-env", "--", "sh", "-c", "sleep 60", "canary-arg"}}
	unit := strings.TrimSpace(c.run(t).mustSucceed(t).stdout)
	shown := sh(t, "systemctl show "+unit+"; systemctl cat "+unit)
	if strings.Contains(shown, "canary") || !strings.Contains(shown, "KillMode=mixed") {
		t.Errorf("%s", shown)
	}
	sh(t, "systemctl stop "+unit)
}

// Nor may it write capabilities into a file there, which would be root's on the
// host as well.
func TestNoFileCapabilitiesAreLeftBehind(t *testing.T) {
	dir := tempDir(t)
	// The root id is the command's own, which the mount shows as root's.
	const script = `
import os, struct
open("x", "w").close()
os.setxattr("x", "security.capability", struct.pack("<6I", 0x03000001, 1 << 7, 0, 0, 0, 1000))`
	for _, capabilities := range []string{"add: [CAP_SETFCAP, CAP_CHOWN]", "default_drop: false"} {
		profile := writeProfile(t, "extends: ai-dev-safe\ncapabilities:\n  "+capabilities+"\n")
		r := call{dir: dir, args: []string{"run", "--profile", profile, "--workspace", dir, "--", "python3", "-c", script}}.run(t)
		if r.status != 1 || !strings.Contains(r.stderr, "PermissionError") {
			t.Errorf("%s: %+v", capabilities, r)
		}
	}
	if n, err := unix.Getxattr(filepath.Join(dir, "x"), "security.capability", nil); err == nil {
		t.Errorf("left behind: %d bytes", n)
	}
}
