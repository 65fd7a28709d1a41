//go:build integration

package test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Fields of the events, as docs/audit.md has them.
const (
	fieldEvent      = "PURPLE_EVENT"
	fieldSyscall    = "PURPLE_SYSCALL"
	fieldArguments  = "PURPLE_ARGUMENTS"
	fieldComm       = "PURPLE_COMM"
	fieldPID        = "PURPLE_PID"
	fieldSandboxPID = "PURPLE_SANDBOX_PID"
	fieldErrno      = "PURPLE_ERRNO"
	fieldTotal      = "PURPLE_TOTAL"
)

// denials is what `probe denied` says.
type denials struct {
	PID     int
	Answers map[string]int
	Micros  float64
}

// auditEvents are a unit's events of a name, as journalctl prints them. Only
// what the supervisor itself has written is one.
func auditEvents(t *testing.T, unit, name string) []map[string]string {
	t.Helper()
	var events []map[string]string
	for line := range strings.Lines(sh(t, "journalctl --sync; "+journalctlJSON+"-u "+unit+" "+fieldEvent+"="+name)) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		event := map[string]string{}
		for field, value := range entry {
			event[field] = fmt.Sprint(value)
		}
		if event["_UID"] != fmt.Sprint(callerUID) || event["_TRANSPORT"] != "journal" {
			t.Errorf("an event that anybody could have written: %s", line)
		}
		events = append(events, event)
	}
	return events
}

// mountsDenied is the count in the last event for mount, of any process.
func mountsDenied(t *testing.T, unit string) int {
	t.Helper()
	last := map[string]int{}
	for _, e := range auditEvents(t, unit, "syscall-denied") {
		if e[fieldSyscall] == "mount" {
			n, err := strconv.Atoi(e[fieldCount])
			if err != nil {
				t.Errorf("an event without a count: %v", e)
			}
			last[e[fieldComm]] = n
		}
	}
	sum := 0
	for _, n := range last {
		sum += n
	}
	return sum
}

// deny starts `probe denied` in the background.
func deny(t *testing.T, profile string, args ...string) string {
	t.Helper()
	all := append([]string{"run", "--detach", "--profile", profilePath(profile), "--", filepath.Join(bin, "probe"), "denied"}, args...)
	unit := strings.TrimSpace(call{dir: bin, args: all}.run(t).mustSucceed(t).stdout)
	t.Cleanup(func() { sh(t, "systemctl kill -s KILL "+unit+" 2>/dev/null || :") })
	return unit
}

// One event says who was denied what: the process as host and sandbox number
// it, its name, the call and what it claimed.
func TestDeniedCallsAreEvents(t *testing.T) {
	unit := deny(t, "plain", "3", "", "forever")
	eventually(t, "an event", time.Minute, func() bool { return len(auditEvents(t, unit, "syscall-denied")) > 0 })
	events := auditEvents(t, unit, "syscall-denied")
	if len(events) == 0 {
		return
	}
	e := events[0]
	for field, want := range map[string]string{
		fieldSyscall: "mount", fieldComm: "probe", fieldErrno: "EPERM", "PRIORITY": "4", "PURPLE_UNIT": unit,
		"_PID":         strconv.FormatUint(*systemctlNumber(t, unit, "MainPID"), 10),
		fieldArguments: `dev_name="/claimed/source", dir_name="/claimed/target", type="claimed", flags=0x400, data=`,
	} {
		if got := e[field]; got != want && !(field == fieldArguments && strings.HasPrefix(got, want)) {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	// Checked against /proc, and against what the process itself sees.
	comm, err := os.ReadFile("/proc/" + e[fieldPID] + "/comm")
	pid, _ := strconv.Atoi(e[fieldPID])
	if err != nil || string(comm) != "probe\n" || !slices.Contains(pidsOf(t, unit), pid) {
		t.Errorf("pid %s on the host is %q, %v", e[fieldPID], comm, err)
	}
	if own := regexp.MustCompile(`"PID":(\d+)`).FindStringSubmatch(sh(t, "journalctl -o cat -u "+unit)); own == nil || own[1] != e[fieldSandboxPID] {
		t.Errorf("pid %s in the sandbox, the process says %q", e[fieldSandboxPID], own)
	}
	if n := managed(t, "ps")[unit].Denials; n == nil || *n < 1 {
		t.Errorf("ps counts %v denials", n)
	}
	if out := (call{args: []string{"logs", unit}}).run(t).mustSucceed(t).stdout; !regexp.MustCompile(`purple +Denied mount\(.*\) to "probe"`).MatchString(out) {
		t.Errorf("logs: %s", out)
	}
}

// A burst is a few events, and its total is exact, in the journal and at the
// end of the run, where the line that would allow it is named.
func TestDeniedBurstIsCountedExactly(t *testing.T) {
	const calls = 10000
	begun := time.Now()
	r := call{dir: bin, args: []string{"run", "--profile", profilePath("plain"), "--", filepath.Join(bin, "probe"), "denied", strconv.Itoa(calls)}}.run(t)
	got := decode[denials](t, r)
	if len(got.Answers) != 1 || got.Answers["EPERM"] != calls {
		t.Errorf("%+v", got)
	}
	t.Logf("%.1f µs a call", got.Micros)
	m := regexp.MustCompile(`^purple: (\S+): denied: 10000 system calls\n  (.*?) +# 10000 × probe, EPERM\n$`).FindStringSubmatch(r.stderr)
	if m == nil {
		t.Fatalf("%q", r.stderr)
	}
	if m[2] != "syscalls.allow: mount; out of syscalls.deny: @mount" {
		t.Errorf("%q", m[2])
	}
	if n := mountsDenied(t, m[1]); n != calls {
		t.Errorf("%d counted", n)
	}
	totals := auditEvents(t, m[1], "syscalls-denied-total")
	if len(totals) != 1 || totals[0][fieldTotal] != strconv.Itoa(calls) || totals[0]["PURPLE_SYSCALLS"] != "1" {
		t.Errorf("%v", totals)
	}
	if ended := auditEvents(t, m[1], "run-ended"); len(ended) != 1 || ended[0]["PURPLE_DENIED_SYSCALLS"] != strconv.Itoa(calls) {
		t.Errorf("%v", ended)
	}
	// One at the beginning, one at the end, and one in 10 seconds.
	most := 3 + int(time.Since(begun)/(10*time.Second))
	if events := auditEvents(t, m[1], "syscall-denied"); len(events) > most {
		t.Errorf("%d events", len(events))
	}
}

// What is suggested, written into the profile, makes the denial go away.
func TestSuggestionAllows(t *testing.T) {
	const profile = `name: "suggest"
description: "x"
filesystem:
  immutable_paths: ["/usr", {host_path: "/bin", optional: true}, {host_path: "/lib", optional: true}, {host_path: "/lib64", optional: true}]
  workspace: read-only
syscalls:
  allow: ["@system-service"%s]
network: {isolated: true}
`
	run := func(more string) result {
		return call{dir: bin, args: []string{"run", "--profile", writeProfile(t, fmt.Sprintf(profile, more)), "--", filepath.Join(bin, "probe"), "denied", "2"}}.run(t).mustSucceed(t)
	}
	before := run("").stderr
	m := regexp.MustCompile(`syscalls.allow: (\S+) +# 2 × probe, EPERM`).FindStringSubmatch(before)
	if m == nil {
		t.Fatalf("%q", before)
	}
	// The kernel itself denies it then, for want of a capability that reaches nothing.
	if after := run(fmt.Sprintf(", %q", m[1])).stderr; strings.Contains(after, "system call") || !strings.Contains(after, "no profile allows this CAP_SYS_ADMIN") {
		t.Errorf("%q", after)
	}
}

// Without the audit the same calls get the same answer, and nobody hears of it.
func TestDeniedCallsWithoutAudit(t *testing.T) {
	for name, audit := range map[string]string{"off": "enabled: false", "other": "detail_level: [network, filesystem, resource]"} {
		profile := writeProfile(t, "name: "+name+"\nextends: offline\naudit:\n  "+audit+"\n")
		r := call{dir: bin, args: []string{"run", "--profile", profile, "--", filepath.Join(bin, "probe"), "denied", "5"}}.run(t)
		if got := decode[denials](t, r); got.Answers["EPERM"] != 5 || r.stderr != "" {
			t.Errorf("%s: %+v, %q", name, got, r.stderr)
		}
		unit := deny(t, profile, "5")
		eventually(t, "the end", time.Minute, func() bool { return strings.Contains(sh(t, "journalctl -o cat -u "+unit), "Answers") })
		if out := sh(t, "journalctl -o json -u "+unit); strings.Contains(out, fieldSyscall) {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// Nobody answers any more: the command goes with the supervisor, and what it
// asked for does not happen.
func TestEndOfTheSupervisorEndsTheAnswers(t *testing.T) {
	for range 5 {
		unit := deny(t, "plain", "0", "", "forever")
		eventually(t, "a denial", time.Minute, func() bool { return mountsDenied(t, unit) > 0 })
		sh(t, "kill -KILL "+strconv.FormatUint(*systemctlNumber(t, unit, "MainPID"), 10))
		eventually(t, "every process is gone", time.Minute, func() bool { return len(pidsOf(t, unit)) == 0 })
	}
}

// A command that may load filters gets no listener, and with none of its own
// filters its denials are answered by anybody else.
func TestFiltersOfTheCommandSilenceNothing(t *testing.T) {
	args := []string{"run", "--profile", profilePath("groups"), "--", filepath.Join(bin, "probe"), "filters"}
	r := call{dir: bin, args: args}.run(t)
	got := decode[map[string]string](t, r)
	want := map[string]string{
		"listener": "EPERM", "load allow": "ok", "load log": "ok", "load trace": "ok",
		"mount behind allow": "EPERM", "mount behind log": "EPERM", "mount behind trace": "EPERM",
	}
	for name, answer := range want {
		if got[name] != answer {
			t.Errorf("%s: %s, want %s", name, got[name], answer)
		}
	}
	m := regexp.MustCompile(`^purple: (\S+): denied: 4 system calls\n`).FindStringSubmatch(r.stderr)
	if m == nil {
		t.Fatalf("%q", r.stderr)
	}
	if n := mountsDenied(t, m[1]); n != 3 {
		t.Errorf("%d of 3 mounts counted", n)
	}
	if !strings.Contains(r.stderr, "no profile allows this seccomp: ") {
		t.Errorf("%q", r.stderr)
	}
	// Outside, as root, the listener is there to be had.
	if control := outside[map[string]string](t, "filters"); control["listener"] != "ok" {
		t.Errorf("control: %v", control)
	}
}

// A process may call itself what it likes: nothing of it steers a terminal, nor
// passes for a field of its own.
func TestForgedNames(t *testing.T) {
	for forged, shown := range map[string]string{"\x1b]0;pwn\a\n": `\x1b]0;pwn\x07\x0a`, "x\", pid 1": `x\x22, pid 1`, "a\nPURPLE_PID=1": `a\x0aPURPLE_PID=1`} {
		r := call{dir: bin, args: []string{"run", "--profile", profilePath("plain"), "--", filepath.Join(bin, "probe"), "denied", "1", hex.EncodeToString([]byte(forged))}}.run(t).mustSucceed(t)
		if !strings.Contains(r.stderr, "1 × "+shown+", EPERM\n") || strings.ContainsAny(r.stderr, "\x1b\a") {
			t.Errorf("%q", r.stderr)
		}
		unit := strings.Split(r.stderr, ":")[1]
		events := auditEvents(t, strings.TrimSpace(unit), "syscall-denied")
		if len(events) != 1 || events[0][fieldComm] != shown || !strings.Contains(events[0]["MESSAGE"], `to "`+shown+`", pid `) {
			t.Errorf("%q: %v", forged, events)
		}
		if out := (call{args: []string{"logs", strings.TrimSpace(unit)}}).run(t).mustSucceed(t).stdout; strings.ContainsAny(out, "\x1b\a") || !strings.Contains(out, shown) {
			t.Errorf("logs: %q", out)
		}
	}
}

// Many processes at once, each with many denials: none is lost, none is stuck.
func TestDeniedCallsOfManyProcesses(t *testing.T) {
	script := fmt.Sprintf("for i in $(seq 20); do %s denied 200 >/dev/null & done; wait", filepath.Join(bin, "probe"))
	r := call{dir: bin, args: []string{"run", "--profile", profilePath("groups"), "--", "sh", "-c", script}}.run(t).mustSucceed(t)
	if !strings.Contains(r.stderr, "# 4000 × probe, EPERM\n") {
		t.Errorf("%q", r.stderr)
	}
}
