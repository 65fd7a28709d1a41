//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Tests of what only an ordinary user's runs have. The system manager's suite
// leaves out what begins with TestUser (runSuite).

// as runs a command line of bash's as a user, in a directory of the user's, and
// tells its status at the end of the output.
func as(t *testing.T, user string, uid int, script string) string {
	t.Helper()
	text := fmt.Sprintf("cd /home/%s; %s PATH=%s:/usr/bin:/bin XDG_RUNTIME_DIR=/run/user/%d bash -c %s 2>&1; :",
		user, strings.TrimPrefix(become(user, uid), "exec "), realBin(), uid, quote(script+"\necho status $?"))
	return sh(t, text)
}

// realBin has purple itself, where bin has a script.
func realBin() string { return filepath.Join(filepath.Dir(bin), "real") }

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func mustSay(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in:\n%s", text, out)
		}
	}
}

// Two users at once: neither sees the other's run, nor can do anything to it.
func TestUserSeesOnlyOwnRuns(t *testing.T) {
	own := writeProfile(t, "name: shared\nextends: offline\n")
	hers := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", own, "--", "sleep", "3000"}}.run(t).mustSucceed(t).stdout)
	t.Cleanup(func() { sh(t, "systemctl kill -s KILL "+hers+" 2>/dev/null || :") })
	sh(t, fmt.Sprintf("install -d -o %[1]s -g %[1]s /home/%[1]s/w; install -o %[1]s -m 644 %[2]s /home/%[1]s/shared.yaml", bob, own))
	sh(t, fmt.Sprintf("sed -i 's/^extends.*/&\\nresources: {cpu_shares: unlimited, memory_limit_bytes: unlimited, pids_limit: unlimited, block_io_limit: unlimited}/; ' /home/%s/shared.yaml", bob))
	started := as(t, bob, bobUID, "cd w && purple run --detach --profile ~/shared.yaml -- sleep 3000")
	mustSay(t, started, "status 0")
	his := strings.Fields(started[strings.Index(started, "purple-shared-"):])[0]
	t.Cleanup(func() { as(t, bob, bobUID, "purple stop --kill "+his) })

	for _, c := range []struct{ who, other, list string }{
		{hers, his, call{args: []string{"ps"}}.run(t).mustSucceed(t).stdout},
		{his, hers, as(t, bob, bobUID, "purple ps")},
	} {
		if !strings.Contains(c.list, c.who) || strings.Contains(c.list, c.other) {
			t.Errorf("ps of %s:\n%s", c.who, c.list)
		}
	}
	mustSay(t, as(t, bob, bobUID, "purple stop "+hers), "cannot find a run", "status 125")
	mustSay(t, as(t, bob, bobUID, "purple logs "+hers), "cannot find a run", "status 125")
	mustSay(t, as(t, bob, bobUID, "purple --system stop "+hers), "only root", "status 125")
	if out := as(t, bob, bobUID, "journalctl -o cat _SYSTEMD_USER_UNIT="+hers+"; journalctl --user -o cat --user-unit="+hers); strings.Contains(out, "Started under") {
		t.Errorf("bob reads alice's journal:\n%s", out)
	}
	// The control.
	mustSay(t, call{args: []string{"logs", hers}}.run(t).mustSucceed(t).stdout, "Started under the profile shared")
	call{args: []string{"stop", hers}}.run(t).mustSucceed(t)
	mustSay(t, as(t, bob, bobUID, "purple ps"), his)
}

// connectAll prints which of the sockets can be connected to.
const connectAll = `import socket, sys
for name in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(name)
        print("reached", name)
    except OSError as e:
        print("not", name, e)
`

// The user's bus and systemd's private socket are a way out of any sandbox that
// has them: systemd-run --user.
func TestUserManagerIsUnreachable(t *testing.T) {
	dir := fmt.Sprintf("/run/user/%d", aliceUID)
	sockets := []string{dir + "/bus", dir + "/systemd/private"}
	if out := as(t, alice, aliceUID, "python3 -c "+quote(connectAll)+" "+strings.Join(sockets, " ")); strings.Count(out, "reached") != 2 {
		t.Fatalf("control: %s", out)
	}
	r := purple(t, "groups", append([]string{"python3", "-c", connectAll}, sockets...)...).mustSucceed(t)
	if strings.Contains(r.stdout, "reached") || strings.Count(r.stdout, "No such file") != 2 {
		t.Errorf("%s", r.stdout)
	}
	if r := purple(t, "groups", "sh", "-c", "ls -A /run; systemd-run --user --wait true && echo out"); strings.TrimSpace(r.stdout) != "" {
		t.Errorf("%+v", r)
	}
}

// What a user's session runs or trusts is not there, unless the policy binds it.
func TestUserFilesAreHidden(t *testing.T) {
	files := []string{".ssh/id_ed25519", ".config/systemd/user/evil.service", ".config/purple/policies/own.yaml", ".bashrc", ".profile"}
	var list []string
	for _, f := range files {
		name := "/home/" + alice + "/" + f
		list = append(list, name)
		sh(t, fmt.Sprintf("install -d -o %[1]s -g %[1]s $(dirname %[2]s); [ -e %[2]s ] || { echo canary > %[2]s; chown %[1]s %[2]s; }", alice, name))
	}
	t.Cleanup(func() {
		sh(t, fmt.Sprintf("cd /home/%s; rm -r .ssh .config/systemd .config/purple/policies/own.yaml", alice))
	})
	script := "for f in " + strings.Join(list, " ") + "; do [ -e $f ] && echo there; echo x 2>/dev/null >$f && echo written; done; :"
	if out := as(t, alice, aliceUID, "for f in "+strings.Join(list, " ")+"; do [ -e $f ] && echo there; done"); strings.Count(out, "there") != len(files) {
		t.Fatalf("control: %s", out)
	}
	if r := purple(t, "groups", "sh", "-c", script).mustSucceed(t); r.stdout != "" {
		t.Errorf("%s", r.stdout)
	}
}

// Supplementary groups stay, as the kernel lets no user drop one, and have no
// number inside: nothing can be given to them.
func TestUserGroupsStay(t *testing.T) {
	dir := "/home/" + bob + "/groups"
	sh(t, fmt.Sprintf("install -d -o %[1]s -g %[1]s %[2]s; echo shared > %[2]s/f; chown root:purple-test %[2]s/f; chmod 640 %[2]s/f", bob, dir))
	t.Cleanup(func() { sh(t, "rm -r "+dir) })
	profile := filepath.Join("/home", bob, "groups.yaml")
	sh(t, fmt.Sprintf("printf 'extends: offline\\nresources: {cpu_shares: unlimited, memory_limit_bytes: unlimited, pids_limit: unlimited, block_io_limit: unlimited}\\n' > %[2]s; chown %[1]s %[2]s", bob, profile))
	out := as(t, bob, bobUID, "cd groups; purple run --profile "+profile+" --workspace . -- sh -c 'cat f; id -G; touch mine; chgrp 65534 mine || echo kept'")
	mustSay(t, out, "shared\n", "65534", "kept", "status 0")
	if group := sh(t, "stat -c %g "+dir+"/mine"); group != fmt.Sprintln(bobUID) {
		t.Errorf("group %s", group)
	}
}

// purple-init is the user's own file here, and is what it was after a command that
// has tried to write it by every way to it.
func TestUserInitStaysWhatItWas(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cp %[1]s/* %[2]s; chown %[3]s %[2]s/*", realBin(), dir, alice))
	sum := sh(t, "sha256sum "+dir+"/purple-init")
	work := tempDir(t)
	script := `cat /proc/1/exe; echo evil > /proc/1/exe; for p in /proc/[0-9]*; do echo evil > $p/exe; done
printf '#!/proc/self/exe command\n' > x; chmod +x x; ./x; exec 3<>/proc/self/exe; echo evil >&3
for f in /proc/1/root/$1 /proc/1/cwd/$1 $1; do echo evil > $f; done; echo done`
	run := func(args ...string) string {
		return as(t, alice, aliceUID, fmt.Sprintf("cd %s; %s/purple run --profile %s %s", work, dir, profilePath("groups"), strings.Join(args, " ")))
	}
	mustSay(t, run("--workspace", ".", "--", "bash", "-c", quote(script), "bash", dir+"/purple-init"), "done\n", "Permission denied")
	if after := sh(t, "sha256sum "+dir+"/purple-init"); after != sum {
		t.Errorf("%s became %s", sum, after)
	}
	mustSay(t, run("--workspace", dir, "--", "true"), "it holds", "purple-init", "status 125")
	// The control: outside, the user may.
	sh(t, fmt.Sprintf("%s sh -c 'echo evil > %s/purple-init'", strings.TrimPrefix(become(alice, aliceUID), "exec "), dir))
}

// A user manager hands its session keyring on to what it starts; the sandbox has one
// of its own.
func TestUserKeyringStaysOutside(t *testing.T) {
	const script = `import ctypes
print("keyring", ctypes.CDLL(None).syscall(250, 0, -3, 0))` // KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING
	profile := writeProfile(t, `filesystem:
  immutable_paths: [/usr, {host_path: /bin, optional: true}, {host_path: /lib, optional: true}, {host_path: /lib64, optional: true}]
syscalls: {allow: ["@system-service", "@keyring"]}
resources: {cpu_shares: unlimited}
network: {isolated: true}
`)
	inside := call{args: []string{"run", "--profile", profile, "--", "python3", "-c", script}}.run(t).mustSucceed(t).stdout
	outside := as(t, alice, aliceUID, "systemd-run --user --quiet --wait --pipe python3 -c "+quote(script))
	mustSay(t, outside, "keyring ", "status 0")
	if strings.Contains(outside, strings.TrimSpace(inside)) || strings.Contains(inside, "-1") {
		t.Errorf("inside %q, outside %q", inside, outside)
	}
}

// Signals to PID 1, which has the command's uid outside, end nothing.
func TestUserSignalsDoNotEndInit(t *testing.T) {
	const script = `trap "" HUP INT QUIT TERM USR1 USR2 ALRM; for s in HUP INT QUIT TERM USR1 USR2 ALRM KILL STOP; do kill -$s 1; done; kill -TERM -1; sleep 0.3; echo alive`
	if r := purple(t, "groups", "bash", "-c", script); r.status != 0 || r.stdout != "alive\n" {
		t.Errorf("%+v", r)
	}
}

// No line of a short detached run is lost, nor its order.
func TestUserOutputIsItsUnits(t *testing.T) {
	for range 15 {
		c := call{args: []string{"run", "--detach", "--profile", profilePath("groups"), "--", "sh", "-c", "echo one; echo two >&2; echo three"}}
		unit := strings.TrimSpace(c.run(t).mustSucceed(t).stdout)
		eventually(t, "the end of "+unit, time.Minute, func() bool {
			return strings.Contains(sh(t, "journalctl --sync; journalctl --no-pager -o cat -u "+unit), "Ended")
		})
		if got := sh(t, "journalctl --no-pager -o cat _TRANSPORT=stdout -u "+unit); got != "one\ntwo\nthree\n" {
			t.Fatalf("%s: %q", unit, got)
		}
	}
}

// Without a manager there is an error that says how to get one: never a bus of
// purple's own, never less.
func TestUserWithoutAManager(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("chmod 777 %[1]s; printf '#!/bin/sh\\ntouch %[1]s/launched\\n' > %[1]s/dbus-launch; chmod 755 %[1]s/dbus-launch", dir))
	out := sh(t, fmt.Sprintf("cd %[1]s; setpriv --reuid=65534 --regid=65534 --clear-groups env -u XDG_RUNTIME_DIR PATH=%[1]s:$PATH DBUS_SESSION_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket %[2]s/purple run --profile %[3]s -- echo ran 2>&1; echo status $?",
		dir, realBin(), profilePath("groups")))
	mustSay(t, out, "no systemd answers on your user bus", "enable-linger", "status 125")
	if _, err := os.Stat(dir + "/launched"); err == nil || strings.Contains(out, "ran\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Root's manager is not asked for a user.
func TestUserMayNotUseTheSystemManager(t *testing.T) {
	call{args: []string{"--system", "run", "--profile", profilePath("groups"), "--", "echo", "ran"}}.run(t).mustRefuse(t, 125, "only root")
	call{args: []string{"--system", "--user", "ps"}}.run(t).mustRefuse(t, 125, "not both")
	call{args: []string{"--system", "ps"}}.run(t).mustSucceed(t)
}

// That a detached run ends with the session is said before the start.
func TestUserLingerIsSaid(t *testing.T) {
	linger := "/var/lib/systemd/linger/" + alice
	sh(t, "rm "+linger)
	t.Cleanup(func() { sh(t, "touch "+linger) })
	c := call{args: []string{"run", "--detach", "--profile", profilePath("groups"), "--", "true"}}
	if r := c.run(t).mustSucceed(t); !strings.Contains(r.stderr, "loginctl enable-linger") {
		t.Errorf("%+v", r)
	}
	sh(t, "touch "+linger)
	if r := c.run(t).mustSucceed(t); r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

// The doctor and run agree, with each feature that can be taken away here gone.
func TestUserDoctorAgreesWithRun(t *testing.T) {
	networked := netProfile(t, "[443]", "[]", "")
	limited := filepath.Join(tempDir(t), "limited.yaml") // not lifted
	if err := os.WriteFile(limited, []byte("name: limited\nextends: offline\nresources: {memory_limit_bytes: 64M}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	limitCouldRun := 0
	if lifted {
		limitCouldRun = 1
	}
	cases := []struct {
		name, profile, take, giveBack string
		want                          int // of the doctor
		check                         string
	}{
		{"nothing gone", profilePath("groups"), "true", "true", 0, ""},
		{"nothing gone, networked", networked, "true", "true", 0, ""},
		{"pasta gone", networked, "mount --bind /dev/null /usr/bin/pasta", "umount /usr/bin/pasta", 1, "pasta"},
		{"pasta gone, isolated", profilePath("groups"), "mount --bind /dev/null /usr/bin/pasta", "umount /usr/bin/pasta", 0, ""},
		{"purple-net gone", networked, "mv R/purple-net R/away", "mv R/away R/purple-net", 1, "programs"},
		{"purple-init gone", profilePath("groups"), "mv R/purple-init R/away", "mv R/away R/purple-init", 1, "programs"},
		{"the bus gone", profilePath("groups"), "mv B B.away", "mv B.away B", 1, "manager"},
		{"/proc masked", profilePath("groups"), "mount -t tmpfs -o ro none /proc/bus", "umount /proc/bus", 1, "/proc"},
		{"a limit", limited, "true", "true", limitCouldRun, "controller memory"},
	}
	if !lifted { // a machine of the suite's own: its settings may be changed
		cases = append(cases, struct {
			name, profile, take, giveBack string
			want                          int
			check                         string
		}{"no user namespaces", profilePath("groups"), "sysctl -qw user.max_user_namespaces=0", "sysctl -qw user.max_user_namespaces=10000", 1, "namespaces"})
	}
	places := strings.NewReplacer("R/", realBin()+"/", "B", fmt.Sprintf("/run/user/%d/bus", aliceUID))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sh(t, places.Replace(c.take))
			doctor := call{args: []string{"doctor", "--json", "--profile", c.profile}}.run(t)
			run := call{args: []string{"run", "--profile", c.profile, "--", "true"}}.run(t)
			sh(t, places.Replace(c.giveBack))
			if doctor.status != c.want || (run.status == 125) != (c.want == 1) || run.status != 125 && run.status != 0 {
				t.Errorf("doctor %d, run %d\n%s%s\n%s", doctor.status, run.status, doctor.stdout, doctor.stderr, run.stderr)
			}
			if c.want == 1 {
				checkNamed(t, doctor.stdout, c.check)
			}
		})
	}
}

// checkNamed: exactly that check keeps the profile from running, or, as nothing
// else can be tried then, is the first of those that do.
func checkNamed(t *testing.T, doctor, name string) {
	t.Helper()
	var report struct {
		Checks []struct {
			Name, Verdict, Remedy string
			Needed                bool
		}
	}
	if err := json.Unmarshal([]byte(doctor), &report); err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Checks {
		if c.Needed && c.Verdict != "ok" {
			if c.Name != name || c.Remedy == "" {
				t.Errorf("%+v, want %s", c, name)
			}
			return
		}
	}
	t.Errorf("nothing is missing:\n%s", doctor)
}

// ioProfile limits block IO and nothing else that takes a controller. It is not lifted.
func ioProfile(t *testing.T) string {
	t.Helper()
	profile := filepath.Join(tempDir(t), "io.yaml")
	text := "name: io\nextends: offline\nresources: {cpu_shares: unlimited, memory_limit_bytes: unlimited, pids_limit: unlimited, block_io_limit: 10MBps}\n"
	if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return profile
}

// Block IO is not delegated to users: refused, with the drop-in that does it.
func TestUserBlockIO(t *testing.T) {
	hint := "/etc/systemd/system/user@.service.d/purple-io.conf"
	if lifted {
		hint = "systemd.unified_cgroup_hierarchy=1"
	}
	call{args: []string{"run", "--profile", ioProfile(t), "--", "echo", "ran"}}.run(t).mustRefuse(t, 125, "resources.block_io_limit", hint)
}

// With that drop-in, which the package has, it is limited.
func TestUserBlockIODelegated(t *testing.T) {
	const dir = "/etc/systemd/system/user@.service.d"
	restart := fmt.Sprintf("systemctl daemon-reload; systemctl restart user@%[1]d; for i in $(seq 300); do [ -S /run/user/%[1]d/bus ] && break; sleep 0.1; done", aliceUID)
	asRoot := func(script string) { sh(t, "PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+script) }
	asRoot("install -D -m 644 ../packaging/examples/purple-io.conf " + dir + "/purple-io.conf; " + restart)
	t.Cleanup(func() { asRoot("rm " + dir + "/purple-io.conf; " + restart) })
	unit := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", ioProfile(t), "--", "sleep", "300"}}.run(t).mustSucceed(t).stdout)
	mustSay(t, sh(t, "cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup "+unit+")/io.max"), "rbps=10000000", "wbps=10000000")
	sh(t, "systemctl stop "+unit)
}

// pasta's death takes the network away, and its restart brings it back.
func TestUserUplinkComesBack(t *testing.T) {
	theWorld(t)
	loop := fmt.Sprintf("while sleep 0.2; do curl -gsS -m 2 -o /dev/null -w 'got %%{http_code}\\n' http://%s:443/ || echo nothing; done 2>&1", publicWeb)
	s := startSandbox(t, outgoing(t, "[443]"), "sh", "-c", loop)
	printed := func() string {
		return sh(t, "journalctl --sync; journalctl --no-pager -o cat -u "+s.unit)
	}
	eventually(t, "it reaches the server", limit, func() bool { return strings.Contains(printed(), "got ") })
	sh(t, "pkill -KILL -u "+alice+" '^(pasta|passt)'")
	eventually(t, "the loss is told", limit, func() bool { return strings.Contains(printed(), "the uplink is gone") })
	eventually(t, "it is there again", limit, func() bool {
		_, after, found := strings.Cut(printed(), "the uplink is there again")
		return found && strings.Contains(after, "got ")
	})
	if !strings.Contains(printed(), "nothing") {
		t.Errorf("without pasta it reached the server:\n%s", printed())
	}
	sh(t, "systemctl stop "+s.unit)
	eventually(t, "pasta has ended", time.Minute, func() bool {
		return exec.Command("pgrep", "-u", alice, "^(pasta|passt)").Run() != nil
	})
}

// TestUserDocumentedCommands runs every `sh user` block of docs/ as a user.
func TestUserDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, blocks := tempDir(t), 0
	unit := detach(t, "plain", "sleep", "300") // for systemctl status
	defer sh(t, "systemctl stop "+unit)
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, rest := range strings.Split(string(data), "```sh user\n")[1:] {
			block, _, _ := strings.Cut(rest, "```")
			blocks++
			mustSay(t, as(t, alice, aliceUID, "set -e; export SYSTEMD_PAGER= PAGER=cat; cd "+dir+"\n"+block), "status 0")
		}
	}
	if blocks == 0 {
		t.Error("no block")
	}
}

// A user's run that hangs while it is made ends with purple, too.
func TestUserEndWhileInitHangs(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cp %[1]s/* %[2]s; printf '#!/bin/sh\\nexec sleep 1000\\n' >%[2]s/purple-net; chown %[3]d: %[2]s/*; chmod 755 %[2]s/*", realBin(), dir, aliceUID))
	profile := writeProfile(t, lift("name: hanging\nextends: ai-dev-safe\n"))
	const script = `cd %[1]s; %[1]s/purple run --profile %[2]s -- true & until pgrep -u %[3]d -x sleep >/dev/null; do sleep 0.05; done; kill -KILL $!; wait`
	as(t, alice, aliceUID, fmt.Sprintf(script, dir, profile, aliceUID))
	noUnits(t, "hanging")
}
