//go:build integration

package test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The sequence of a first-time user, word for word.
func TestFirstUse(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cp demo/ai_agent.py %q", dir))
	t.Cleanup(func() { sh(t, "rm -f /etc/purple/policies/my-agent.yaml") })
	out := sh(t, fmt.Sprintf("export PATH=%q:$PATH; cd %q; purple profile create my-agent && purple run --profile my-agent -- python3 ai_agent.py", bin, dir))
	if strings.Count(out, "  worked ") != 5 || strings.Count(out, "  refused ") != 11 {
		t.Errorf("%s", out)
	}
}

func TestExitStatus(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0": 0, "exit 1": 1, "exit 7": 7, "exit 255": 255,
		"kill -9 $$": 137, "kill -TERM $$": 143, "kill -INT $$": 130, "kill -HUP $$": 129, "kill -SEGV $$": 139,
	} {
		if r := purple(t, "plain", "sh", "-c", script); r.status != want || r.stdout+r.stderr != "" {
			t.Errorf("%s: status %d, want %d; %q %q", script, r.status, want, r.stdout, r.stderr)
		}
	}
}

func TestCommandThatCannotRun(t *testing.T) {
	purple(t, "plain", "no-such-command").mustRefuse(t, 127, `cannot find "no-such-command"`)
	purple(t, "plain", "/etc/hostname").mustRefuse(t, 127, "filesystem.immutable_paths", `"/etc"`)
	purple(t, "no-bin", "sh").mustRefuse(t, 127, "filesystem.immutable_paths", "bin")
	dir := tempDir(t)
	for name, content := range map[string]string{"plain": "not a program", "script": "#!/no/such/interpreter\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, "chmod a-x "+dir+"/plain")
	run := func(name string) result { return call{dir: dir, args: []string{"run", "--", "./" + name}}.run(t) }
	run("plain").mustRefuse(t, 126, "not an executable file")
	run("script").mustRefuse(t, 127, `"/no/such/interpreter"`)
}

func TestScriptThatTheSandboxCannotSee(t *testing.T) {
	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, "agent.py"), []byte("print('ran')"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(profile string) result {
		return call{dir: dir, args: []string{"run", "--profile", profilePath(profile), "--", "python3", "agent.py"}}.run(t)
	}
	run("no-workspace").mustRefuse(t, 125, `cannot see the script "agent.py"`, "--workspace")
	if r := run("plain").mustSucceed(t); r.stdout != "ran\n" {
		t.Errorf("%q", r.stdout)
	}
}

func TestRefusals(t *testing.T) {
	for _, dir := range []string{"/", homeOf(caller), "/home", "/etc", "/usr"} {
		call{dir: dir, args: []string{"run", "--", "true"}}.run(t).mustRefuse(t, 125, "workspace")
		call{args: []string{"run", "--workspace", dir, "--", "true"}}.run(t).mustRefuse(t, 125, "workspace")
	}
	unknown := writeProfile(t, "name: \"x\"\ndescription: \"y\"\n\n\n\n\n\n\n\n\nfilesystem:\n  immutable_path: []\n")
	call{args: []string{"run", "--profile", unknown, "--", "true"}}.run(t).
		mustRefuse(t, 125, `:12:3: filesystem.immutable_path: unknown key (did you mean "immutable_paths"?)`)
	missing := writeProfile(t, "extends: offline\nfilesystem:\n  output_paths: [/no/such/output]\n")
	call{args: []string{"run", "--profile", missing, "--", "true"}}.run(t).mustRefuse(t, 125, "install -d", "/no/such/output")
	for _, name := range []string{"../../x", "/abs", "a/b", ".", "-x", "x@y", "x;y", "%n", "", "a\nb", strings.Repeat("x", 300)} {
		if r := (call{args: []string{"run", "--profile=" + name, "--", "true"}}).run(t); r.status != 125 {
			t.Errorf("profile %q: status %d, %s", name, r.status, r.stderr)
		}
	}
}

// Who is not root is not run by the system manager, whoever else could.
func TestOthersAskTheirOwnManager(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "purple-user.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// The checkout may be in a place where only root gets to.
	sh(t, fmt.Sprintf("chmod 755 %[2]q; cp %[1]q/{purple,purple-init,purple-net} %[2]q", bin, dir))
	out := sh(t, fmt.Sprintf("cd %q; setpriv --reuid=65534 --regid=65534 --clear-groups ./purple run --profile offline -- bash -c 'echo ran' 2>&1; echo status $?", dir))
	if !strings.Contains(out, "no systemd answers on your user bus") || !strings.Contains(out, "status 125") || strings.Contains(out, "ran\n") {
		t.Error(out)
	}
}

// R2 and the issue's own figures.
func TestMemoryLimit(t *testing.T) {
	r := purple(t, "memory", "python3", "-c", "b = bytearray(300 << 20); print(len(b))")
	if r.status != 137 || r.stdout != "" {
		t.Errorf("300 MB under 64 MB: %+v", r)
	}
	if r := purple(t, "plain", "python3", "-c", "b = bytearray(100 << 20); print(len(b))").mustSucceed(t); r.stdout != "104857600\n" {
		t.Errorf("control: %+v", r)
	}
	// A tmpfs is memory too.
	r = purple(t, "memory", "sh", "-c", "head -c 300000000 /dev/zero > /tmp/x")
	if r.status == 0 {
		t.Errorf("300 MB into /tmp: %+v", r)
	}
	noUnits(t, "memory")
}

// R1: the fork bomb is stopped at the limit, exactly.
func TestTasksLimit(t *testing.T) {
	type spawned struct {
		Tasks int
		Error string
	}
	for profile, limit := range map[string]int{"tasks": 20, "plain": 64} {
		if got := probe[spawned](t, profile, "spawn"); got.Error != "EAGAIN" || got.Tasks != limit {
			t.Errorf("under %d tasks: %+v", limit, got)
		}
	}
	if got := probe[spawned](t, "groups", "spawn"); got.Tasks != 512 {
		t.Errorf("under 512 tasks: %+v", got)
	}
	purple(t, "plain", "true").mustSucceed(t)
}

// Half a CPU is half a CPU, whatever the number of spinners.
func TestCPULimit(t *testing.T) {
	const script = `
import os, time
for _ in range(3):
    if os.fork() == 0:
        end = time.monotonic() + 4
        while time.monotonic() < end: pass
        os._exit(0)
begin = time.monotonic()
for _ in range(3): os.wait()
t = os.times()
print((t.children_user + t.children_system) / (time.monotonic() - begin))`
	share, err := strconv.ParseFloat(strings.TrimSpace(purple(t, "cpu", "python3", "-c", script).mustSucceed(t).stdout), 64)
	if err != nil || share < 0.3 || share > 0.7 {
		t.Errorf("half a CPU is %v, %v", share, err)
	}
}

// L1: what ignores SIGTERM and leaves its parent is gone at the timeout.
func TestTimeout(t *testing.T) {
	begin := time.Now()
	r := purple(t, "timeout", "bash", "-c", `trap "" TERM HUP INT; (setsid bash -c 'trap "" TERM HUP INT; while :; do sleep 1; done' & ) ; while :; do sleep 1; done`)
	if r.status != 124 || !strings.Contains(r.stderr, "timeout") {
		t.Errorf("%+v", r)
	}
	if took := time.Since(begin); took < 3*time.Second {
		t.Errorf("after %v already", took)
	}
	noUnits(t, "timeout")
	// The command's own end does not turn the reason.
	if r := purple(t, "timeout", "bash", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"); r.status != 124 {
		t.Errorf("a command that ends well at the timeout: %+v", r)
	}
}

// R7: the limits read back on the host, from the unit's own cgroup.
func TestLimitsAreInTheCgroup(t *testing.T) {
	unit := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", profilePath("plain"), "--", "sleep", "60"}}.run(t).mustSucceed(t).stdout)
	defer sh(t, "systemctl stop "+unit)
	read := func(controller, v1, v2 string) string {
		return strings.TrimSpace(sh(t, fmt.Sprintf("if [ -e /sys/fs/cgroup/cgroup.controllers ]; then cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup %s)/%s; else cat /sys/fs/cgroup/%s/purple.slice/%s/%s; fi", unit, v2, controller, unit, v1)))
	}
	if got := read("memory", "memory.limit_in_bytes", "memory.max"); got != "268435456" {
		t.Errorf("memory: %s", got)
	}
	if got := read("pids", "pids.max", "pids.max"); got != "112" { // 64 and Purple's own 48
		t.Errorf("pids: %s", got)
	}
	if !strings.Contains(sh(t, "systemctl show -p RuntimeMaxUSec "+unit), "10min") {
		t.Error("no timeout")
	}
}

// C8: every byte of the arguments arrives, and nothing else.
func TestArgumentsArriveUnchanged(t *testing.T) {
	args := []string{"$HOME", "${HOME}", "%h", "$$", "a\nb", "", "-x", "--", "'", `"`, `\`, "\xff\xfe", ";", "é"}
	type identity struct{ Argv []string }
	got := probe[identity](t, "plain", append([]string{"identity"}, args...)...).Argv
	for i, want := range args {
		if got[i+2] != hex.EncodeToString([]byte(want)) {
			t.Errorf("%q arrived as %s", want, got[i+2])
		}
	}
	if len(got) != len(args)+2 {
		t.Errorf("%d arguments", len(got))
	}
}

func TestStreamsByteForByte(t *testing.T) {
	data := make([]byte, 5<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	r := call{stdin: string(data), args: []string{"run", "--profile", profilePath("plain"), "--", "cat"}}.run(t).mustSucceed(t)
	if sha256.Sum256([]byte(r.stdout)) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back", len(r.stdout))
	}
	r = purple(t, "plain", "sh", "-c", "echo out; echo err >&2")
	if r.stdout != "out\n" || r.stderr != "err\n" {
		t.Errorf("%+v", r)
	}
}

func TestNoOutputIsLost(t *testing.T) {
	for i := range 30 {
		if r := purple(t, "plain", "echo", "x").mustSucceed(t); r.stdout != "x\n" {
			t.Fatalf("run %d: %q", i, r.stdout)
		}
	}
}

// systemctl and journalctl work as on any unit; a detached run outlives purple.
func TestDetach(t *testing.T) {
	c := call{args: []string{"run", "--profile", profilePath("plain"), "--detach", "--", "sh", "-c", "echo hello; echo '<0>panic' >&2; sleep 30"}}
	unit := strings.TrimSpace(c.run(t).mustSucceed(t).stdout)
	if !strings.HasPrefix(unit, "purple-plain-") || !strings.HasSuffix(unit, ".service") {
		t.Fatalf("unit %q", unit)
	}
	status := sh(t, "systemctl --no-pager --lines=0 status 'purple-*'")
	for _, want := range []string{unit, "purple.slice", "active (running)", "sleep 30"} {
		if !strings.Contains(status, want) {
			t.Errorf("systemctl status does not show %q:\n%s", want, status)
		}
	}
	eventually(t, "the output in the journal", 15*time.Second, func() bool {
		return strings.Contains(sh(t, "journalctl --sync; journalctl --no-pager -o cat _TRANSPORT=stdout -u "+unit), "hello")
	})
	// The command chooses no priority for what it prints.
	if urgent := sh(t, "journalctl --no-pager -o cat -p err -u "+unit+" || :"); strings.Contains(urgent, "panic") {
		t.Errorf("%s", urgent)
	}
	sh(t, "systemctl stop "+unit)
	noUnits(t, "plain")
}

// Each of root's runs has a uid of its own, and journald makes a file of 8 MB for each
// uid that writes to it: what a detached command prints comes from the supervisor. It
// reaches its streams by name, too, which is no denial.
func TestDetachedOutputIsNotTheCommandsOwn(t *testing.T) {
	unit := detach(t, "plain", "sh", "-c", "id -u; echo named >/dev/stdout; echo also >/dev/stderr")
	lastEvent(t, unit)
	lines := parseLines(t, sh(t, journalctlJSON+"_TRANSPORT=stdout -u "+unit))
	var said []string
	for _, l := range lines {
		said = append(said, l.text("MESSAGE"))
		if l.text("_UID") != fmt.Sprint(callerUID) {
			t.Errorf("%q is of uid %s in the journal", l.text("MESSAGE"), l.text("_UID"))
		}
		if l.text("SYSLOG_IDENTIFIER") != "purple-command" { // an event is purple-init's
			t.Errorf("%q is of %s", l.text("MESSAGE"), l.text("SYSLOG_IDENTIFIER"))
		}
	}
	if want := []string{fmt.Sprint(insideUID), "named", "also"}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
	if denied := accessEvents(t, unit, "path-denied"); len(denied) != 0 {
		t.Errorf("%v", denied)
	}
}

// journald looks at a message's sender when it gets to the message, and one that is
// behind finds nobody: what a run prints and its events are found by the unit all the
// same. A silent run is over when journald wakes up, and an attached one, too.
func TestJournalThatIsBehind(t *testing.T) {
	journald, err := strconv.Atoi(strings.TrimSpace(sh(t, "pgrep -o -x systemd-journal")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(journald, syscall.SIGCONT) })
	for script, output := range map[string]string{"echo one; echo two": "one\ntwo\n", ":": ""} {
		if err := syscall.Kill(journald, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		waker := time.AfterFunc(time.Second, func() { _ = syscall.Kill(journald, syscall.SIGCONT) })
		receipt := filepath.Join(tempDir(t), "r.json")
		call{args: []string{"run", "--receipt", receipt, "--profile", profilePath("plain"), "--", "true"}}.run(t).mustSucceed(t)
		unit := detach(t, "plain", "sh", "-c", script)
		eventually(t, "the end of "+unit, time.Minute, func() bool { return !isLoaded(t, unit) })
		waker.Stop()
		_ = syscall.Kill(journald, syscall.SIGCONT)
		for _, u := range []string{unit, readReceipt(t, receipt).text("unit")} {
			if got := names(journalOf(t, u)); got != "run-started run-ended" {
				t.Errorf("the events of %s: %q", u, got)
			}
		}
		if got := sh(t, "journalctl --no-pager -o cat _TRANSPORT=stdout -u "+unit); got != output {
			t.Errorf("the output of %s: %q", unit, got)
		}
		got := call{args: []string{"logs", unit}}.run(t).mustSucceed(t).stdout
		if strings.Count(got, " purple ") != 2 || strings.Count(got, " output ") != strings.Count(output, "\n") {
			t.Errorf("%s", got)
		}
	}
}

// start starts purple and waits until the command runs.
func start(t *testing.T, script string) (*exec.Cmd, string) {
	t.Helper()
	marker := filepath.Join(tempDir(t), "out")
	f, err := os.Create(marker)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := call{dir: tempDir(t), args: []string{"run", "--profile", profilePath("plain"), "--", "bash", "-c", "echo running; " + script}}.command(context.Background())
	cmd.Stdout = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command runs", time.Minute, func() bool {
		data, err := os.ReadFile(marker)
		return err == nil && strings.Contains(string(data), "running")
	})
	return cmd, runningUnit(t, "plain")
}

// Ctrl-C without a terminal of the command's own, SIGTERM, and the death of
// purple: the run ends completely.
func TestEndOfPurpleEndsTheRun(t *testing.T) {
	const stubborn = `trap "" TERM INT HUP; (setsid sleep 300 &); while :; do sleep 1; done`
	for _, signal := range []string{"INT", "TERM", "KILL"} {
		cmd, _ := start(t, stubborn)
		sh(t, fmt.Sprintf("kill -%s %d", signal, cmd.Process.Pid))
		_ = cmd.Wait() // its status is not the question here
		noUnits(t, "plain")
	}
	cmd, _ := start(t, "sleep 300")
	sh(t, fmt.Sprintf("kill -INT %d", cmd.Process.Pid))
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != 130 {
		t.Errorf("after SIGINT: status %d", status)
	}
}

// L2: SIGKILL of any one of Purple's processes leaves nothing behind.
func TestKilledProcessesLeaveNothing(t *testing.T) {
	noSandboxes(t)
	before := leftovers(t)
	for _, victim := range []string{
		"systemctl kill --kill-whom=main -s KILL %s",
		"kill -9 $(pgrep -P $(systemctl show -p MainPID --value %s))",
	} {
		cmd, unit := start(t, "(setsid sleep 300 &); sleep 300")
		sh(t, fmt.Sprintf(victim, unit))
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 137 {
			t.Errorf("%s: status %d", victim, cmd.ProcessState.ExitCode())
		}
		noUnits(t, "plain")
	}
	// At points of the start that chance chooses.
	for i := range 25 {
		c := call{dir: tempDir(t), args: []string{"run", "--profile", profilePath("plain"), "--", "sleep", "300"}}
		cmd := c.command(context.Background())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*4) * time.Millisecond)
		sh(t, fmt.Sprintf("kill -9 %d", cmd.Process.Pid))
		_ = cmd.Wait()
	}
	noUnits(t, "plain")
	eventually(t, "everything is as before", time.Minute, func() bool { return leftovers(t) == before })
	if after := leftovers(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// leftovers are what a run could leave: processes, mounts, control groups, files.
func leftovers(t *testing.T) string {
	t.Helper()
	return sh(t, `pgrep -c purple-init || :; grep -c . /proc/self/mountinfo; ls /run /tmp | grep -i purple || :; find /sys/fs/cgroup -name 'purple-*' | sort`)
}

// What the kernel counts per user belongs to the run's user: the command uses
// up its own inotify instances and queued signals, not those of the host's root.
func TestCountersOfTheHostsRoot(t *testing.T) {
	const exhaust = `
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 1])
notify = queued = 0
while libc.inotify_init1(0) >= 0: notify += 1
while libc.sigqueue(os.getpid(), signal.SIGRTMIN + 1, None) == 0: queued += 1
print(notify > 0, queued > 0, flush=True)
time.sleep(300)`
	const host = `python3 -c '
import ctypes
libc = ctypes.CDLL(None)
print(libc.inotify_init1(0) >= 0, libc.timer_create(1, None, ctypes.byref(ctypes.c_void_p())) == 0)'`
	if control := sh(t, host); control != "True True\n" {
		t.Fatalf("control: %q", control)
	}
	unit := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", profilePath("groups"), "--", "python3", "-c", exhaust}}.run(t).mustSucceed(t).stdout)
	defer sh(t, "systemctl stop "+unit)
	eventually(t, "the command has used everything up", time.Minute, func() bool {
		return strings.Contains(sh(t, "journalctl --sync; journalctl --no-pager -o cat _TRANSPORT=stdout -u "+unit), "True True")
	})
	if got := sh(t, host); got != "True True\n" {
		t.Errorf("inotify_init1 and timer_create of root: %q", got)
	}
}

// L7: the manager and its friends come and go, the run and its limits stay.
func TestManagerReload(t *testing.T) {
	unit := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", profilePath("plain"), "--", "sleep", "300"}}.run(t).mustSucceed(t).stdout)
	sh(t, "systemctl daemon-reload; systemctl restart systemd-journald")
	if got := strings.TrimSpace(sh(t, "systemctl show -p ActiveState,MemoryMax,TasksMax --value "+unit)); got != "268435456\n112\nactive" && got != "active\n268435456\n112" {
		t.Errorf("%q", got)
	}
	sh(t, "systemctl stop "+unit)
}

// What people start agents with works under the profile that is made for it.
func TestTools(t *testing.T) {
	dir := tempDir(t)
	run := func(profile string, args ...string) result {
		return call{dir: dir, args: append([]string{"run", "--workspace", dir, "--profile", profile, "--"}, args...)}.run(t)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.c"), []byte("#include <stdio.h>\nint main(void) { puts(\"compiled\"); }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const python = "import ssl, threading, subprocess, json, sqlite3\nt = threading.Thread(target=lambda: print('thread')); t.start(); t.join()\nprint(subprocess.check_output(['uname']).decode())"
	cases := []struct {
		profile, script, want string
	}{
		{"ai-dev-safe", "gcc -o x x.c && ./x", "compiled"},
		{"ai-dev-safe", "git init -q . && git -c user.name=a -c user.email=b@c add x.c && git -c user.name=a -c user.email=b@c commit -qm first && git log --oneline", "first"},
		{"ai-dev-safe", "python3 -c \"" + python + "\"", "Linux"},
		{"ai-dev-safe", `node -e "const {Worker} = require('worker_threads'); new Worker('console.log(6*7)', {eval: true})"`, "42"},
		{"ai-dev-safe", "npm --version && pip3 --version && curl --version", "curl"},
		{"ai-dev-safe", "seq 1000 | sort -rn | head -1; ls -la | wc -l; find . -name x.c | xargs cat | tr a-z A-Z", "COMPILED"},
		{"python", "python3 -c \"" + python + "\"", "thread"},
		{"node", `node -e "require('fs').writeFileSync('/tmp/x', '1'); console.log(require('os').cpus().length > 0, require('crypto').randomUUID().length)"`, "true 36"},
		{"offline", "python3 -c 'print(6*7)'; for i in 1 2 3; do echo $i; done | tail -1", "42"},
	}
	for _, c := range cases {
		r := run(c.profile, "bash", "-c", c.script)
		if r.status != 0 || !strings.Contains(r.stdout, c.want) {
			t.Errorf("%s: %s: status %d\n%s%s", c.profile, c.script, r.status, r.stdout, r.stderr)
		}
	}
}

// Under sudo the command is the invoking user, and so is what it writes.
func TestSudo(t *testing.T) {
	const user = "purple-test-user"
	sh(t, "id "+user+" >/dev/null 2>&1 || useradd --create-home --uid 4321 "+user)
	t.Cleanup(func() { sh(t, "userdel --remove "+user+" 2>/dev/null || :") })
	dir := tempDir(t)
	sh(t, fmt.Sprintf("chmod 755 %q; mkdir %q/mine; chown %s: %q/mine; chmod 700 %q/mine", filepath.Dir(dir), dir, user, dir, dir))
	c := call{dir: dir + "/mine", env: []string{"SUDO_UID=4321", "SUDO_GID=0"}, args: []string{"run", "--workspace", dir + "/mine", "--", "sh", "-c", "id -un; id -u; touch made"}}
	if r := c.run(t).mustSucceed(t); r.stdout != user+"\n4321\n" {
		t.Errorf("%q", r.stdout)
	}
	if got := sh(t, "stat -c %U:%G "+dir+"/mine/made"); got != user+":"+user+"\n" {
		t.Errorf("what it made belongs to %q", got)
	}
	c.env = []string{"SUDO_UID=4294967294"}
	c.run(t).mustRefuse(t, 125, "SUDO_UID")
	c.env = nil
	c.dir, c.args = "/home/"+user, []string{"run", "--", "true"}
	c.run(t).mustRefuse(t, 125, "home directory")
}

// The limit holds on a disk; where none can be found it is refused.
func TestBlockIOLimit(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "purple-io.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	onDisk := strings.TrimSpace(sh(t, "findmnt -n -o SOURCE --target "+dir))
	profile := writeProfile(t, "extends: ai-dev-safe\nresources:\n  block_io_limit: 2MBps\n")
	receipt := filepath.Join(tempDir(t), "receipt.json")
	c := call{dir: dir, args: []string{"run", "--profile", profile, "--receipt", receipt, "--workspace", dir, "--", "python3", "-c", `
import os, time
f = os.open("data", os.O_CREAT | os.O_WRONLY)
begin = time.monotonic()
for _ in range(10):
    os.write(f, os.urandom(1 << 20)); os.fsync(f)
print(time.monotonic() - begin)`}}
	if !strings.HasPrefix(onDisk, "/dev/") {
		// An overlay hides its disk: a limit that cannot be kept is refused.
		c.run(t).mustRefuse(t, 125, "no disk can be found", "resources.block_io_limit")
		return
	}
	took, err := strconv.ParseFloat(strings.TrimSpace(c.run(t).mustSucceed(t).stdout), 64)
	if err != nil || took < 3 {
		t.Errorf("10 MB at 2 MB/s took %v s, %v", took, err)
	}
	mustHaveReachedIO(t, receipt, 2_000_000)
	c.args[2] = "ai-dev-safe"
	free, err := strconv.ParseFloat(strings.TrimSpace(c.run(t).mustSucceed(t).stdout), 64)
	if err != nil || free > took/2 {
		t.Errorf("without the limit %v s, with it %v s: %v", free, took, err)
	}
	mustHaveReachedIO(t, receipt, 0)
}

// mustHaveReachedIO wants the event of one limit of block IO; 0: of none.
func mustHaveReachedIO(t *testing.T, receipt string, limit int64) {
	t.Helper()
	r := readReceipt(t, receipt)
	var values []int64
	for _, e := range journalOf(t, r.text("unit")) {
		if e.text("MESSAGE_ID") == idLimit && e.text("PURPLE_LIMIT") == "io" {
			values = append(values, e.number(t, "PURPLE_LIMIT_VALUE"))
		}
	}
	told := strings.Contains(fmt.Sprint(r["limits_reached"]), "io")
	if limit == 0 && (len(values) != 0 || told) || limit != 0 && (!slices.Equal(values, []int64{limit}) || !told) {
		t.Errorf("limit %d: events of %v, receipt %v", limit, values, r)
	}
}

// A tmpfs behind a path has no disk: that is said, and nothing is refused.
func TestBlockIOLimitOnATmpfs(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("mount -t tmpfs -o mode=0755 none %q; cp %q/probe %q", dir, bin, dir))
	t.Cleanup(func() { sh(t, "umount "+dir) })
	profile := writeProfile(t, fmt.Sprintf("filesystem:\n  immutable_paths: [%q]\nresources:\n  block_io_limit: 2MBps\nnetwork:\n  isolated: true\n", dir))
	r := call{args: []string{"run", "--profile", profile, "--", dir + "/probe", "identity"}}.run(t).mustSucceed(t)
	if !strings.Contains(r.stderr, "is on a tmpfs: there is no disk to limit") {
		t.Errorf("%+v", r)
	}
}

// A stop that has to end with SIGKILL is no timeout of the policy's.
func TestStopOfAStubbornCommand(t *testing.T) {
	cmd, unit := start(t, `trap "" TERM; while :; do sleep 1; done`)
	sh(t, "systemctl stop "+unit)
	_ = cmd.Wait() // its status is looked at below
	if status := cmd.ProcessState.ExitCode(); status != 137 {
		t.Errorf("status %d", status)
	}
}

// Only a run that needs the current directory is refused where that is gone.
func TestCurrentDirectoryThatIsGone(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("mkdir %[1]q/work; chmod 777 %[1]q/work; chown %[2]s: %[1]q/work", dir, caller))
	without := writeProfile(t, "name: nowhere\nextends: offline\nfilesystem: {workspace: none}\n")
	for i, c := range []struct {
		args, want string
	}{
		{"--profile " + without, "ran\nstatus 0"},
		{"--profile offline --workspace " + dir + "/work", "ran\nstatus 0"},
		{"--profile offline", "call purple in a folder that is there, or name one with --workspace DIR\nstatus 125"},
		{"--profile offline --workspace .", "status 125"},
	} {
		out := sh(t, fmt.Sprintf("mkdir %[1]q/gone; cd %[1]q/gone; rmdir ../gone; %s/purple run %s -- echo ran 2>&1; echo status $?", dir, bin, c.args))
		if !strings.HasSuffix(out, c.want+"\n") || i > 1 && strings.HasPrefix(out, "ran") {
			t.Errorf("%s: %s", c.args, out)
		}
	}
}

// A file is not mounted where a directory is, nor the reverse, and the error says which
// is which.
func TestFileOverADirectory(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cd %q; mkdir -p host/dir folder; touch host/file file; chmod -R a+rX .", dir))
	const base = "extends: offline\nfilesystem:\n  immutable_paths: [/usr, {host_path: /bin, optional: true}, {host_path: /lib, optional: true}, {host_path: /lib64, optional: true}, {host_path: %[1]s/host, sandbox_path: /srv}, {host_path: %[1]s/%[2]s, sandbox_path: %[3]s}]\n"
	run := func(source, target string) result {
		return call{args: []string{"run", "--profile", writeProfile(t, fmt.Sprintf(base, dir, source, target)), "--", "echo", "ran"}}.run(t)
	}
	run("file", "/srv/file").mustSucceed(t)
	run("folder", "/srv/dir").mustSucceed(t)
	run("file", "/srv/dir").mustRefuse(t, 125, `cannot mount "`+dir+`/file" at "/srv/dir": it is a file, and at that place there is a directory`)
	run("folder", "/srv/file").mustRefuse(t, 125, `cannot mount "`+dir+`/folder" at "/srv/file": it is a directory, and at that place there is a file`)
}

// idmappable is a directory whose file system has idmapped mounts: of the disk, or of
// memory where that has none.
func idmappable(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "purple-idmap.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sh(t, fmt.Sprintf("umount %[1]q 2>/dev/null || :; rm -rf %[1]q", dir)) })
	sh(t, fmt.Sprintf("chmod 755 %[1]q; case $(stat -f -c %%T %[1]q) in ext2/ext3|xfs|btrfs) ;; *) mount -t tmpfs -o mode=755 tmpfs %[1]q;; esac", dir))
	return dir
}

// Root may let a command work in the folders of others: it is their owner there, and what
// else lies in them stays whose it is.
func TestFoldersOfOthers(t *testing.T) {
	dir := idmappable(t)
	sh(t, fmt.Sprintf(`cd %q; install -d -o 4331 -g 4332 work; install -d -o 4333 -g 4333 out; cd work
echo theirs > mine; echo theirs > also; chown 4331:4332 mine; chown 4331:0 also
echo roots > roots; echo secret > secret; chmod 600 secret; echo third > third; chown 4335:4335 third; chmod 666 third`, dir))
	profile := writeProfile(t, "name: owners\nextends: offline\nfilesystem: {output_paths: [{host_path: "+dir+"/out, sandbox_path: /output, mode: read-write}]}\n")
	const script = `
import errno, os
def try_(what, f, *args):
    try:
        print(what, f(*args))
    except OSError as e:
        print(what, errno.errorcode[e.errno])
def append(name):
    with open(name, "a") as f: f.write("more\n")
for name in ["mine", "also", "third", "/output/made", "made"]: try_("append " + name, append, name)
for name in ["roots", "secret"]: try_("append " + name, append, name)
try_("read", lambda: open("roots").read()); try_("secret", lambda: open("secret").read())
print("owner", [os.stat(n).st_uid for n in (".", "mine", "made", "roots", "third", "/output", "/output/made")])
try_("chown", os.chown, "made", 0, 0); try_("chmod", os.chmod, "roots", 0o777); try_("setid", os.chmod, "made", 0o4755)
try_("rename", os.rename, "third", "renamed"); try_("remove", os.remove, "roots")`
	r := call{args: []string{"run", "--profile", profile, "--workspace", dir + "/work", "--", "python3", "-c", script}}.run(t).mustSucceed(t)
	want := "append mine None\nappend also None\nappend third None\nappend /output/made None\nappend made None\nappend roots EACCES\nappend secret EACCES\nread roots\n\nsecret EACCES\n" +
		"owner [1000, 1000, 1000, 65534, 65534, 1000, 1000]\nchown EPERM\nchmod EPERM\nsetid EPERM\nrename None\nremove None\n"
	if r.stdout != want {
		t.Errorf("got  %q\nwant %q", r.stdout, want)
	}
	if got := sh(t, fmt.Sprintf("cd %q; stat -c '%%n %%u:%%g %%a' work/* out/*; cat work/mine work/renamed", dir)); got != `work/also 4331:0 644
work/made 4331:4332 644
work/mine 4331:4332 644
work/renamed 4335:4335 666
work/secret 0:0 600
out/made 4333:4333 644
theirs
more
third
more
` {
		t.Errorf("%s", got)
	}
}
