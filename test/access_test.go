//go:build integration

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// accessEvents are the events of denied paths, or capabilities, of a unit.
func accessEvents(t *testing.T, unit, name string) []entry {
	t.Helper()
	var found []entry
	for _, e := range journalOf(t, unit) {
		if e.text("PURPLE_EVENT") == name {
			found = append(found, e)
		}
	}
	return found
}

// What the mounts refuse is an event each, with what was wanted, and what is
// allowed is none. Written as is suggested, it is allowed.
func TestDeniedPathsAreEvents(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cd %q; echo x > file; mkdir sub; chown -R %s .", dir, caller))
	profile := filepath.Join(tempDir(t), "paths.yaml")
	write := func(filesystem string) {
		text := lift("name: paths\nextends: offline\nresources: {cpu_shares: unlimited}\nfilesystem:\n" + filesystem)
		if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// By a path in full and by one from the current folder; a loop counts.
	script := fmt.Sprintf(`import os, errno
def expect(what, call):
    try: call()
    except OSError as e: print(what, errno.errorcode[e.errno])
    else: print(what, "ok")
for i in range(3): expect("create", lambda: open("new", "w").close())
expect("write", lambda: open(%[1]q + "/file", "a").close())
expect("remove", lambda: os.remove("sub/../file"))
expect("mode", lambda: os.chmod("file", 0o600))
expect("read", lambda: open("file").close())
expect("tmp", lambda: open("/tmp/x", "w").close())
os.chdir("/tmp"); expect("relative", lambda: open("y", "w").close())
expect("null", lambda: open("/dev/null", "w").close())
expect("absent", lambda: open("/no/such", "w").close())`, dir)
	run := func() (result, entry) {
		receipt := filepath.Join(tempDir(t), "r.json")
		r := call{dir: dir, args: []string{"run", "--receipt", receipt, "--profile", profile, "--", "python3", "-c", script}}.run(t)
		return r, readReceipt(t, receipt)
	}

	write("  workspace: read-only\n")
	r, receipt := run()
	if got := strings.Join(strings.Fields(r.stdout), " "); got != "create EROFS create EROFS create EROFS write EROFS remove EROFS mode EROFS read ok tmp ok relative ok null ok absent ENOENT" {
		t.Fatalf("%s\n%s", got, r.stderr)
	}
	unit := receipt.text("unit")
	got := map[string]string{}
	for _, e := range accessEvents(t, unit, "path-denied") {
		got[e.text("PURPLE_EFFECT")+" "+e.text("PURPLE_PATH")] = e.text("PURPLE_COUNT") + " " + e.text("PURPLE_ERRNO") + " " + e.text("PURPLE_COMM")
	}
	want := map[string]string{
		"create " + dir + "/new":         "3 EROFS python3",
		"write " + dir + "/file":         "", // two calls, by two names of it
		"remove " + dir + "/sub/../file": "1 EROFS python3",
	}
	for what, count := range want {
		if got[what] == "" || count != "" && got[what] != count {
			t.Errorf("%s: %q, want %q", what, got[what], count)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	totals := accessEvents(t, unit, "paths-denied-total")
	if len(totals) != 1 || totals[0].text("PURPLE_TOTAL") != "6" {
		t.Errorf("%v", totals)
	}
	if denials, ok := receipt["denials"].(map[string]any); !ok || denials["paths"] != 6.0 || denials["capabilities"] != 0.0 {
		t.Errorf("%v", receipt["denials"])
	}
	mustSay(t, r.stderr, "6 accesses to paths", "filesystem.workspace: read-write", "3 × python3", "EROFS")
	mustSay(t, call{args: []string{"why", unit}}.run(t).mustSucceed(t).stdout, "filesystem.workspace: read-write", dir+"/new", "EROFS")

	// The suggestion.
	write("  workspace: read-write\n")
	if r, receipt = run(); strings.Contains(r.stdout, "EROFS") || len(accessEvents(t, receipt.text("unit"), "path-denied")) != 0 {
		t.Errorf("as suggested: %s\n%s", r.stdout, r.stderr)
	}
	// And nothing of it where the profile does not want it.
	write("  workspace: read-only\naudit: {detail_level: [syscall]}\n")
	if r, receipt = run(); !strings.Contains(r.stdout, "EROFS") || len(accessEvents(t, receipt.text("unit"), "path-denied")) != 0 || strings.Contains(r.stderr, "paths") {
		t.Errorf("not recorded: %s\n%s", r.stdout, r.stderr)
	}
}

// More paths than are told one by one: the total is exact.
func TestDeniedPathsAreCountedExactly(t *testing.T) {
	const script = `import os
for i in range(5000):
    try: open("/usr/x%d" % (i % 400), "w")
    except OSError: pass`
	begun := time.Now()
	r, receipt, events := audited(t, "groups", "python3", "-c", script)
	if r.status != 0 {
		t.Fatalf("%+v", r)
	}
	for _, e := range events {
		if e.text("PURPLE_EVENT") == "paths-denied-total" && (e.text("PURPLE_TOTAL") != "5000" || e.text("PURPLE_PATHS") != "257") {
			t.Errorf("%v", e.own())
		}
	}
	if denials, ok := receipt["denials"].(map[string]any); !ok || denials["paths"] != 5000.0 {
		t.Errorf("%v", receipt["denials"])
	}
	// Each path at its first denial and at the end, and meanwhile what the rate allows.
	if most := 2*257 + 60 + 30*int(time.Since(begun).Seconds()); len(events) > most {
		t.Errorf("%d events, more than %d", len(events), most)
	}
}

// A call that the filter denies for its arguments never goes on, although calls of
// the same number do: a set-user-ID mode, on a path that is watched.
func TestWatchedCallsStayDenied(t *testing.T) {
	const script = `import os, errno
def errno_of(call):
    try: call()
    except OSError as e: return errno.errorcode[e.errno]
    return "ok"
open("/tmp/a", "w").close()
print(errno_of(lambda: os.chmod("/tmp/a", 0o4755)), errno_of(lambda: os.open("/tmp/b", os.O_CREAT | os.O_WRONLY, 0o4755)),
      errno_of(lambda: os.open("/usr/b", os.O_CREAT | os.O_WRONLY, 0o2755)), errno_of(lambda: os.mknod("/tmp/c", 0o104755)),
      errno_of(lambda: os.chmod("/tmp/a", 0o755)), os.path.exists("/tmp/b"), os.path.exists("/tmp/c"))`
	r := purple(t, "groups", "python3", "-c", script)
	if got := strings.TrimSpace(r.stdout); got != "EPERM EPERM EPERM EPERM ok False False" {
		t.Errorf("%s\n%s", got, r.stderr)
	}
}

// A capability that a call needs and the command has not got is an event; with it
// the same is allowed and none.
func TestMissingCapabilitiesAreEvents(t *testing.T) {
	const script = `import socket, os
for port in (80, 8080):
    s = socket.socket()
    try: s.bind(("127.0.0.1", port)); print(port, "bound")
    except OSError as e: print(port, e.strerror)
u = socket.socket(socket.AF_UNIX); u.bind("/tmp/u")
try: os.chroot("/tmp"); print("chroot")
except OSError as e: print("chroot", e.strerror)`
	profile := func(capabilities string) string {
		return writeProfile(t, `filesystem:
  immutable_paths: [/usr, {host_path: /bin, optional: true}, {host_path: /lib, optional: true}, {host_path: /lib64, optional: true}]
  scratch_paths: [/tmp]
syscalls: {allow: ["@system-service", chroot]}
resources: {cpu_shares: unlimited}
network: {isolated: true}
`+capabilities)
	}
	run := func(profile string) (result, []entry) {
		receipt := filepath.Join(tempDir(t), "r.json")
		r := call{args: []string{"run", "--receipt", receipt, "--profile", profile, "--", "python3", "-c", script}}.run(t)
		return r, accessEvents(t, readReceipt(t, receipt).text("unit"), "capability-denied")
	}
	r, events := run(profile(""))
	if r.stdout != "80 Permission denied\n8080 bound\nchroot Operation not permitted\n" {
		t.Fatalf("%+v", r)
	}
	var names []string
	for _, e := range events {
		names = append(names, e.text("PURPLE_CAPABILITY")+" "+e.text("PURPLE_SYSCALL")+" "+e.text("PURPLE_ERRNO")+" "+e.text("PURPLE_COUNT"))
	}
	if got := strings.Join(names, ", "); got != "CAP_NET_BIND_SERVICE bind EACCES 1, CAP_SYS_CHROOT chroot EPERM 1" {
		t.Errorf("%s", got)
	}
	mustSay(t, r.stderr, "2 calls for want of a capability", "capabilities.add: CAP_NET_BIND_SERVICE", "capabilities.add: CAP_SYS_CHROOT")
	r, events = run(profile("capabilities: {add: [CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT]}\n"))
	if r.stdout != "80 bound\n8080 bound\nchroot\n" || len(events) != 0 {
		t.Errorf("as suggested: %+v, %v", r, events)
	}
}

// A program with timer signals opens and writes as it does elsewhere, as long as it
// repeats what a signal has interrupted, as Python does.
func TestWatchedCallsUnderSignals(t *testing.T) {
	const script = `import signal, os
hits = 0
def hit(*_):
    global hits; hits += 1
signal.signal(signal.SIGALRM, hit)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
for i in range(4000):
    with open("/tmp/x%d" % (i % 5), "w") as f: f.write("x")
signal.setitimer(signal.ITIMER_REAL, 0)
print("signals", hits > 10)`
	if r := purple(t, "groups", "python3", "-c", script); r.stdout != "signals True\n" {
		t.Errorf("%+v", r)
	}
}

// What a write-only output path does not let be read or listed is an event, where
// the profile asks for it, and applying the suggestion makes it readable.
func TestRefusedReadsAreEvents(t *testing.T) {
	out := tempDir(t)
	sh(t, fmt.Sprintf("chown %s %q; chmod 0777 %[2]q", caller, out))
	profile := filepath.Join(tempDir(t), "reads.yaml")
	run := func(mode, detail string) (result, entry) {
		text := fmt.Sprintf("name: reads\nextends: offline\nresources: {cpu_shares: unlimited}\nfilesystem:\n  workspace: none\n  output_paths:\n    - {host_path: %q, sandbox_path: /output%s}\naudit: {detail_level: [%s]}\n", out, mode, detail)
		if err := os.WriteFile(profile, []byte(lift(text)), 0o644); err != nil {
			t.Fatal(err)
		}
		const script = `import os, errno
def expect(what, call):
    try: call()
    except OSError as e: print(what, errno.errorcode[e.errno])
    else: print(what, "ok")
expect("write", lambda: open("/output/x", "w").close())
expect("append", lambda: open("/output/x", "a").close())
for i in range(2): expect("read", lambda: open("/output/x").close())
expect("both", lambda: open("/output/x", "r+").close())
expect("list", lambda: os.listdir("/output"))
expect("root", lambda: os.listdir("/"))
os.chdir("/output"); expect("relative", lambda: open("x").close())
os.symlink("/output/x", "/tmp/link"); expect("link", lambda: open("/tmp/link").close())
expect("stat", lambda: os.stat("/output/x"))
expect("usr", lambda: os.listdir("/usr"))
expect("absent", lambda: open("/output/none").close())`
		receipt := filepath.Join(tempDir(t), "r.json")
		r := call{args: []string{"run", "--receipt", receipt, "--profile", profile, "--", "python3", "-c", script}}.run(t).mustSucceed(t)
		return r, readReceipt(t, receipt)
	}
	events := func(receipt entry) map[string]string {
		got := map[string]string{}
		for _, e := range accessEvents(t, receipt.text("unit"), "path-denied") {
			got[e.text("PURPLE_EFFECT")+" "+e.text("PURPLE_PATH")] = e.text("PURPLE_COUNT") + " " + e.text("PURPLE_ERRNO")
		}
		return got
	}

	r, receipt := run("", "filesystem, reads")
	refused := "write ok append ok read EACCES read EACCES both EACCES list EACCES root EACCES relative EACCES link EACCES stat ok usr ok absent ENOENT"
	if got := strings.Join(strings.Fields(r.stdout), " "); got != refused {
		t.Fatalf("%s\n%s", got, r.stderr)
	}
	// The last count: two by name, one to read and write, one from the folder. A link
	// that is named in full and lies elsewhere is not followed.
	want := map[string]string{"read /output/x": "4 EACCES", "read /output": "1 EACCES", "read /": "1 EACCES"}
	if got := events(receipt); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if denials, ok := receipt["denials"].(map[string]any); !ok || denials["paths"] != 6.0 {
		t.Errorf("%v", receipt["denials"])
	}
	remedy := fmt.Sprintf(`filesystem.output_paths: {host_path: %q, sandbox_path: "/output", mode: read-write}; out of filesystem.output_paths: /output`, out)
	mustSay(t, r.stderr, "6 accesses to paths", remedy, "4 × python3", "EACCES", "cannot be listed")
	mustSay(t, call{args: []string{"why", receipt.text("unit")}}.run(t).mustSucceed(t).stdout, remedy)

	r, receipt = run(", mode: read-write", "filesystem, reads")
	if got := events(receipt); strings.Contains(r.stdout, "EACCES") || len(got) != 0 {
		t.Errorf("as suggested: %s\n%v", r.stdout, got)
	}
	// Not asked for, it is refused all the same.
	r, receipt = run("", "filesystem")
	if got := events(receipt); strings.Join(strings.Fields(r.stdout), " ") != refused || len(got) != 0 {
		t.Errorf("not recorded: %s\n%v", r.stdout, got)
	}
}

// A mount below what the command may write stays where it is, whatever is done to the
// directories above it.
func TestNestedPathsStay(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf(`cd %[1]q; mkdir -p work/.git/hooks work/a/b/c/deep out/x/y kept; echo hook > work/.git/hooks/post; echo conf > work/.git/config; echo deep > work/a/b/c/deep/file; echo in > kept/in; touch out/x/y/file
chown -R %[2]s: work out kept; chmod -R a+rwX work out kept`, dir, caller))
	profile := writeProfile(t, `name: nested
extends: offline
filesystem:
  workspace: read-write
  immutable_paths: [/usr, {host_path: /bin, optional: true}, {host_path: /lib, optional: true}, {host_path: /lib64, optional: true},
    `+dir+`/work/.git/hooks, `+dir+`/work/.git/config, `+dir+`/work/a/b/c/deep,
    {host_path: `+dir+`/kept, sandbox_path: /tmp/s/t/kept}, {host_path: `+dir+`/kept/in, sandbox_path: /output/x/y/file}]
  output_paths: [{host_path: `+dir+`/out, sandbox_path: /output, mode: read-write}]
`)
	const script = `
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def try_(what, f, *args):
    try:
        f(*args); print(what, "done")
    except OSError as e:
        print(what, errno.errorcode[e.errno])
def exchange(a, b):
    if libc.syscall(316, -100, a.encode(), -100, b.encode(), 2) != 0:
        e = ctypes.get_errno(); raise OSError(e, "")
def write(name):
    open(name, "a").write("changed")
os.mkdir("other"); os.rename("other", "other2"); print("control", os.listdir("other2"))
os.rename(".git/description", ".git/d2") if os.path.exists(".git/description") else open(".git/new", "w").close()
for parent in [".git", "a", "a/b", "a/b/c", "/tmp/s", "/tmp/s/t", "/output/x", "/output/x/y"]:
    try_("rename " + parent, os.rename, parent, parent + ".moved")
    try_("into " + parent, os.rename, parent, "other2/moved")
    try_("exchange " + parent, exchange, parent, "other2")
    try_("over " + parent, os.rename, "other2", parent)
    try_("rmdir " + parent, os.rmdir, parent)
for name in [".git/hooks/post", ".git/config", "a/b/c/deep/file", "/tmp/s/t/kept/in", "/output/x/y/file"]:
    try_("write " + name, write, name)
for name in [".git/config", "/output/x/y/file", ".git/hooks"]:
    try_("rename " + name, os.rename, name, name + ".moved")
    try_("remove " + name, os.unlink, name)
write("a/b/new"); write(".git/made")`
	r := call{dir: dir + "/work", args: []string{"run", "--profile", profile, "--", "python3", "-c", script}}.run(t).mustSucceed(t)
	mustSay(t, r.stdout, "control []")
	for line := range strings.Lines(r.stdout) {
		if strings.HasPrefix(line, "write") && !strings.HasSuffix(line, "EROFS\n") {
			t.Error(line)
		}
		if strings.HasSuffix(line, "done\n") {
			t.Error(line)
		}
		// Directories that Purple makes in a scratch are root's.
		if strings.HasPrefix(line, "rename") && !strings.HasSuffix(line, "EBUSY\n") && line != "rename /tmp/s/t EACCES\n" {
			t.Error(line)
		}
	}
	if n := strings.Count(r.stdout, "\n"); n != 1+8*5+5+3*2 {
		t.Errorf("%d lines: %s", n, r.stdout)
	}
	if got := sh(t, fmt.Sprintf("cd %q; cat work/.git/hooks/post work/.git/config work/a/b/c/deep/file kept/in work/a/b/new; ls work out out/x", dir)); got != "hook\nconf\ndeep\nin\nchangedout:\nx\n\nout/x:\ny\n\nwork:\na\nother2\n" {
		t.Errorf("%q", got)
	}
}
