//go:build integration

package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// learn runs `purple learn` in dir and gives what it wrote.
func learn(t *testing.T, dir, profile, output string, args ...string) (result, string) {
	t.Helper()
	all := append([]string{"learn", "--profile", profilePath(profile), "--output", output}, args...)
	r := call{dir: dir, args: all}.run(t)
	data, err := os.ReadFile(output)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.stderr)
	}
	return r, string(data)
}

// learntCalls are the allowed calls of a learnt profile.
func learntCalls(text string) []string {
	var calls []string
	_, list, _ := strings.Cut(text, "\n  allow:\n")
	for line := range strings.Lines(list) {
		if m := regexp.MustCompile(`^    - "([^"]+)" +# `).FindStringSubmatch(line); m != nil {
			calls = append(calls, m[1])
		}
	}
	return calls
}

// What was learnt runs the same command with no denial, and nothing else: a call
// that it did not make is denied, which the base allows.
func TestLearntProfiles(t *testing.T) {
	folder := tempDir(t)
	sh(t, fmt.Sprintf(`cd %q; git init -q repo; cd repo; echo cloned > a; git add a; git -c user.name=x -c user.email=x@x commit -qm x
		cd ..; printf '#include <stdio.h>\nint main(void){puts("built");return 0;}\n' > m.c
		printf '#!/bin/bash\nx=0; for i in 1 2 3; do x=$((x + $(echo $i | cat))); done; echo sum $x; sleep 0.1 & wait\n' > s.sh; chmod +x s.sh; chown -R %s .`, folder, caller))
	for name, c := range map[string]struct {
		base, want string
		command    []string
		unused     string // a shell command that is not allowed any more
	}{
		"learnt-python": {"offline", "OpenSSL", []string{"python3", "-c", "import ssl; ssl.create_default_context(); print(ssl.OPENSSL_VERSION)"}, ""},
		"learnt-node":   {"node", "4 true", []string{"node", "-e", `setTimeout(() => console.log(require("crypto").randomBytes(4).length, require("fs").readdirSync(".").length > 0), 50)`}, ""},
		"learnt-git":    {"ai-dev-safe", "cloned", []string{"sh", "-c", "git -c safe.directory='*' clone -q ./repo /tmp/c && cat /tmp/c/a"}, "mkfifo /tmp/fifo"},
		"learnt-gcc":    {"ai-dev-safe", "built", []string{"sh", "-c", "gcc -O1 m.c -o /tmp/m && /tmp/m"}, "mkfifo /tmp/fifo"},
		"learnt-script": {"offline", "sum 6", []string{"./s.sh"}, "mkdir /tmp/d"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(tempDir(t), name+".yaml")
			r, text := learn(t, folder, c.base, file, append([]string{"--"}, c.command...)...)
			r.mustSucceed(t)
			if !strings.Contains(r.stdout, c.want) || !regexp.MustCompile(`purple: \S+: learnt \d+ system calls; the profile is `).MatchString(r.stderr) {
				t.Errorf("%q, %q", r.stdout, r.stderr)
			}
			if !strings.Contains(text, "\nextends: \""+c.base+"\"\n") {
				t.Errorf("%s", text)
			}
			if used := learntCalls(text); !slices.Contains(used, "openat") || slices.Contains(used, "mkfifo") || slices.Contains(used, "@default") {
				t.Errorf("%v", used)
			}
			run := func(profile string, args ...string) result {
				return call{dir: folder, args: append([]string{"run", "--profile", profile, "--"}, args...)}.run(t)
			}
			if got := run(file, c.command...).mustSucceed(t); !strings.Contains(got.stdout, c.want) || got.stderr != "" {
				t.Errorf("under what was learnt: %q, %q", got.stdout, got.stderr)
			}
			if c.unused == "" {
				return
			}
			run(c.base, "sh", "-c", c.unused).mustSucceed(t)
			if got := run(file, "sh", "-c", c.unused); got.status == 0 || !strings.Contains(got.stderr, "denied: ") {
				t.Errorf("%s: status %d, %q", c.unused, got.status, got.stderr)
			}
		})
	}
}

// Only what the command makes is counted, from its first call on: nothing of
// purple-init, which is in the same namespace before, and nothing of the host.
func TestLearnCountsTheCommandAlone(t *testing.T) {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.CreateTemp(tempDir(t), "")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Fdatasync(int(f.Fd()))
			}
		}
	}()
	_, text := learn(t, "", "plain", filepath.Join(tempDir(t), "alone.yaml"), "--", "python3", "-c", "import os\nfor i in range(7): os.getpgid(0)")
	close(stop)
	<-done
	calls := learntCalls(text)
	for _, name := range []string{"brk", "mmap", "openat"} { // of the dynamic linker
		if !slices.Contains(calls, name) {
			t.Errorf("no %s: %v", name, calls)
		}
	}
	for _, name := range []string{"fdatasync", "seccomp", "capset", "prctl", "epoll_pwait", "nanosleep", "sendmsg", "recvmsg", "setresuid"} {
		if slices.Contains(calls, name) {
			t.Errorf("%s is not the command's: %s", name, text)
		}
	}
	if !regexp.MustCompile(`"getpgid" +# 7 × python3; first 20`).MatchString(text) {
		t.Errorf("getpgid: %s", text)
	}
}

// A learning run lets pass what the profile does not name. What it denies by
// name, and what the floor denies, is denied as ever.
func TestLearningKeepsTheFloor(t *testing.T) {
	for _, profile := range []string{"plain", "groups"} {
		file := filepath.Join(tempDir(t), "probe.yaml")
		r, text := learn(t, bin, profile, file, "--", filepath.Join(bin, "probe"), "syscalls")
		for name, answer := range decode[map[string]string](t, r) {
			if denied := answer == "EPERM" || answer == "ENOSYS"; denied == strings.HasPrefix(name, "ok: ") {
				t.Errorf("%s: %s: %s", profile, name, answer)
			}
		}
		for _, name := range learntCalls(text) {
			if slices.Contains([]string{"mount", "ptrace", "bpf", "setns", "unshare", "keyctl", "clone3", "io_uring_setup", "open_by_handle_at"}, name) {
				t.Errorf("%s: learnt %s", profile, name)
			}
		}
		if !strings.Contains(r.stderr, ": denied: ") || !strings.Contains(r.stderr, "no profile allows this ioctl: ") || !strings.Contains(r.stderr, "out of syscalls.deny: @debug ") {
			t.Errorf("%s: what was denied is not said: %q", profile, r.stderr)
		}
		if profile == "plain" && !strings.Contains(r.stderr, "plain does not allow 1 of them: socket\n") {
			t.Errorf("%q", r.stderr)
		}
	}
	// Where everything is allowed, the floor alone is left.
	control := outside[map[string]string](t, "syscalls")
	r, _ := learn(t, bin, "open-syscalls", filepath.Join(tempDir(t), "open.yaml"), "--", filepath.Join(bin, "probe"), "syscalls")
	for name, answer := range decode[map[string]string](t, r) {
		floor := slices.Contains([]string{"clone3", "io_uring_setup", "unshare newuser", "ioctl TIOCSTI", "ioctl TIOCSTI, high bits", "ioctl TIOCLINUX", "socket vsock", "socket alg", "socket mptcp"}, name)
		if floor && answer != "EPERM" && answer != "ENOSYS" || !floor && answer != control[name] && answer != "EPERM" {
			t.Errorf("every call allowed: %s: %s, outside %s", name, answer, control[name])
		}
	}
	// Under run the same profile denies what learn let pass.
	if got := probe[map[string]string](t, "plain", "syscalls"); got["ok: socket unix"] != "EPERM" {
		t.Errorf("control: %v", got)
	}
}

// All but the system calls is as in the base.
func TestLearningConfinesTheRest(t *testing.T) {
	file := filepath.Join(tempDir(t), "rest.yaml")
	script := `cat /root/.bashrc; touch /usr/x; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; ls /sys/class/net; cat /proc/sys/kernel/hostname`
	want := purple(t, "plain", "sh", "-c", script).mustSucceed(t)
	r, _ := learn(t, "", "plain", file, "--", "sh", "-c", script)
	if r.stdout != want.stdout || !strings.Contains(r.stdout, "Seccomp:\t2") || !strings.Contains(r.stdout, "NoNewPrivs:\t1") {
		t.Errorf("learning %q, run %q", r.stdout, want.stdout)
	}
	if lifted {
		return // there is no limit
	}
	r, _ = learn(t, "", "memory", filepath.Join(tempDir(t), "oom.yaml"), "--", "python3", "-c", "x = b'x' * (1 << 30)")
	if r.status != 137 || !strings.Contains(r.stderr, "ended with status 137") {
		t.Errorf("status %d, %q", r.status, r.stderr)
	}
}

// Nobody takes a learning run for an enforced one.
func TestLearningRunIsShownAsSuch(t *testing.T) {
	file := filepath.Join(tempDir(t), "shown.yaml")
	done := make(chan result)
	go func() {
		r, _ := learn(t, "", "plain", file, "--", "sleep", "3")
		done <- r
	}()
	var unit string
	eventually(t, "a run", time.Minute, func() bool {
		for name, run := range managed(t, "ps") {
			if run.Learning && run.State == "active" {
				unit = name
			}
		}
		return unit != ""
	})
	if out := (call{args: []string{"ps"}}).run(t).mustSucceed(t).stdout; !strings.Contains(out, "plain (learning)") {
		t.Errorf("ps: %s", out)
	}
	if out := sh(t, "systemctl status "+unit); !strings.Contains(out, "Purple learning run, system calls not confined (plain)") {
		t.Errorf("systemctl status: %s", out)
	}
	(<-done).mustSucceed(t)
	for _, name := range []string{"run-started", "run-ended"} {
		events := auditEvents(t, unit, name)
		if len(events) != 1 || events[0]["PURPLE_LEARNING"] != "1" || !strings.Contains(strings.ToLower(events[0]["MESSAGE"]), "learn") {
			t.Errorf("%s: %v", name, events)
		}
	}
	enforced := detach(t, "plain", "sleep", "1")
	if events := auditEvents(t, enforced, "run-started"); len(events) != 1 || events[0]["PURPLE_LEARNING"] != "" {
		t.Errorf("control: %v", events)
	}
}

// Merging adds, and nothing is ever overwritten.
func TestLearnMerges(t *testing.T) {
	dir := tempDir(t)
	file := filepath.Join(dir, "merged.yaml")
	base := writeProfile(t, "name: test\nextends: offline\naudit: {enabled: false}\n")
	_, first := learn(t, dir, base, file, "--", "true")
	again := []string{"learn", "--profile", base, "--output", file, "--", "mkdir", "/tmp/x"}
	call{dir: dir, args: again}.run(t).mustRefuse(t, 125, "it exists, and is not replaced; --merge adds to it")
	// An administrator's own line and comment survive.
	edited := strings.Replace(first, "  allow:\n", "  allow:\n    # ours\n    - \"flock\"   # for the lock\n", 1)
	if err := os.WriteFile(file, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	r, merged := learn(t, dir, base, file, "--merge", "--", "mkdir", "/tmp/x")
	if !regexp.MustCompile(`learnt \d+ system calls, [1-9]\d? of them new; `).MatchString(r.stderr) {
		t.Errorf("%q", r.stderr)
	}
	for _, text := range []string{"    # ours\n    - \"flock\"   # for the lock\n", "\n    - \"mkdir\" ", ": true\n", ": mkdir /tmp/x\n"} {
		if !strings.Contains(merged, text) {
			t.Errorf("%q is missing: %s", text, merged)
		}
	}
	for _, command := range [][]string{{"true"}, {"mkdir", "/tmp/x"}} {
		if r := (call{args: append([]string{"run", "--profile", file, "--"}, command...)}).run(t).mustSucceed(t); r.stderr != "" {
			t.Errorf("%q", r.stderr)
		}
	}
	call{dir: dir, args: []string{"learn", "--profile", "offline", "--output", file, "--merge", "--", "true"}}.run(t).
		mustRefuse(t, 125, "it extends \"\"")
	// What somebody writes into it meanwhile is not lost.
	work := filepath.Join(dir, "work")
	sh(t, fmt.Sprintf("mkdir %[1]q; chown %[2]s: %[1]q", work, caller))
	r = waiting(t, filepath.Join(bin, "purple"), []string{"learn", "--profile", base, "--output", file, "--merge", "--workspace", work, "--", "sh", "-c", "echo > began; until test -e go; do sleep 0.1; done"}, func() {
		eventually(t, "the command has begun", time.Minute, func() bool { _, err := os.Stat(work + "/began"); return err == nil })
		sh(t, fmt.Sprintf("echo '# by hand' >> %q; touch %q/go", file, work))
	})
	if r.status != 123 || !strings.Contains(r.stderr, "it was changed during the run") {
		t.Errorf("%+v", r)
	}
	if got := sh(t, "tail -n 1 "+file); got != "# by hand\n" {
		t.Errorf("%q", got)
	}
}

// No profile can ask for a learning run.
func TestProfilesCannotLearn(t *testing.T) {
	for _, line := range []string{"learning: true", "syscalls: {learn: true}", "audit: {learn: true}"} {
		profile := writeProfile(t, "name: x\nextends: offline\n"+line+"\n")
		call{args: []string{"run", "--profile", profile, "--", "true"}}.run(t).mustRefuse(t, 125, "unknown key")
	}
}
