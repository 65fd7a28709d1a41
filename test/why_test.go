//go:build integration

package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// explainedLimit is one that a run has reached.
type explainedLimit struct {
	Limit string  `json:"limit"`
	Key   string  `json:"key"`
	Count *uint64 `json:"count"`
}

// reason is what `purple why --json` says.
type reason struct {
	Unit         string `json:"unit"`
	ProfileFile  string `json:"profile_file"`
	ProfileState string `json:"profile_state"`
	Running      bool   `json:"running"`
	End          *struct {
		Reason string `json:"reason"`
		Status int    `json:"status"`
	} `json:"end"`
	Limits []explainedLimit `json:"limits"`
	Totals struct {
		Connections, Syscalls *uint64
	} `json:"totals"`
	Denials []struct {
		Count       uint64 `json:"count"`
		Syscall     string `json:"syscall"`
		Process     string `json:"process"`
		Errno       string `json:"errno"`
		Destination string `json:"destination"`
		Port        int    `json:"port"`
		Remedy      *struct {
			Add, Remove []struct{ Key, Entry, At string }
			Never       string
		} `json:"remedy"`
	} `json:"denials"`
}

func why(t *testing.T, name string) reason {
	t.Helper()
	var got reason
	r := call{args: []string{"--json", "why", name}}.run(t).mustSucceed(t)
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
	return got
}

// editable is a profile as lists that a remedy can be applied to.
type editable map[string][]string

func (lists editable) write(t *testing.T, file string) {
	t.Helper()
	list := func(key string) string {
		text, err := json.Marshal(lists[key]) // JSON is YAML
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	content := fmt.Sprintf(`name: why
filesystem:
  immutable_paths: ["/usr", {host_path: "/bin", optional: true}, {host_path: "/lib", optional: true}, {host_path: "/lib64", optional: true}]
  workspace: read-only
syscalls:
  allow: %s
  deny: %s
resources: {cpu_shares: unlimited}
network:
  isolated: false
  allow_outgoing: %s
`, list("syscalls.allow"), list("syscalls.deny"), list("network.allow_outgoing"))
	if err := os.WriteFile(file, []byte(lift(content)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tried is what `probe tries` says.
type tried struct {
	Getfd   string `json:"pidfd_getfd"`
	Mlock   string `json:"mlock"`
	TIOCSTI string
	Dial    []attempt `json:"dial"`
}

// whyTargets are a port that the profile does not list, and a private address,
// which no bare port reaches.
var whyTargets = []string{"tcp/" + publicWeb + "/8080", "tcp/" + lanHost + "/443"}

// tryAll runs the probe, and gives what it says and its unit.
func tryAll(t *testing.T, profile string) (tried, string) {
	t.Helper()
	receipt := filepath.Join(tempDir(t), "receipt.json")
	args := append([]string{"run", "--receipt", receipt, "--profile", profile, "--", filepath.Join(bin, "probe"), "tries"}, whyTargets...)
	got := decode[tried](t, call{dir: bin, args: args}.run(t))
	return got, readReceipt(t, receipt).text("unit")
}

// What `purple why` suggests, applied to the profile's file, makes each denial
// go away: none is in the journal any more, and the calls do what they are for.
func TestWhySuggestionsAllow(t *testing.T) {
	theWorld(t)
	file := filepath.Join(tempDir(t), "why.yaml")
	profile := editable{"syscalls.allow": {"@system-service"}, "syscalls.deny": {"@memlock"}, "network.allow_outgoing": {"443"}}
	profile.write(t, file)

	before, unit := tryAll(t, file)
	if before.Getfd != "EPERM" || before.Mlock != "EPERM" || before.TIOCSTI != "EPERM" {
		t.Errorf("%+v", before)
	}
	mustReject(t, byTarget(before.Dial), whyTargets...)
	got := why(t, runID(unit))
	if got.Unit != unit || got.ProfileFile != file || got.ProfileState != "same" || got.Running || got.End == nil || got.End.Reason != "exited" {
		t.Errorf("%+v", got)
	}
	seen := map[string]int{}
	for _, d := range got.Denials {
		what := d.Syscall + d.Destination
		seen[what]++
		if d.Remedy == nil {
			t.Fatalf("no remedy: %+v", d)
		}
		if d.Syscall != "" && (d.Count != 1 || d.Process != "probe" || d.Errno != "EPERM") {
			t.Errorf("%+v", d)
		}
		if isFloor := what == "ioctl"; isFloor != (d.Remedy.Never != "") {
			t.Errorf("%s: %+v", what, d.Remedy)
		}
		for _, c := range d.Remedy.Add {
			profile[c.Key] = append(profile[c.Key], c.Entry)
		}
		for _, c := range d.Remedy.Remove {
			if !strings.HasPrefix(c.At, file+":") || !slices.Contains(profile[c.Key], c.Entry) {
				t.Errorf("%+v is not there", c)
			}
			profile[c.Key] = slices.DeleteFunc(profile[c.Key], func(entry string) bool { return entry == c.Entry })
		}
	}
	for _, what := range []string{"pidfd_getfd", "mlock", "ioctl", publicWeb, lanHost} {
		if seen[what] != 1 {
			t.Errorf("%d denials of %s", seen[what], what)
		}
	}
	if got.Totals.Syscalls == nil || *got.Totals.Syscalls != 3 || got.Totals.Connections == nil || *got.Totals.Connections != 2 {
		t.Errorf("%+v", got.Totals)
	}

	profile.write(t, file)
	after, second := tryAll(t, file)
	if after.Getfd != "ok" || after.Mlock != "ok" || after.TIOCSTI != "EPERM" {
		t.Errorf("%+v", after)
	}
	mustReach(t, byTarget(after.Dial), "public", whyTargets[0])
	mustReach(t, byTarget(after.Dial), "lan", whyTargets[1])
	// Read with journalctl: only what the floor denies is left.
	calls := auditEvents(t, second, "syscall-denied")
	if len(calls) != 1 || calls[0][fieldSyscall] != "ioctl" || len(auditEvents(t, second, "connection-denied")) != 0 {
		t.Errorf("still denied: %v", calls)
	}
	// Of the first run the profile is another one now, which allows it all.
	if again := why(t, unit); again.ProfileState != "changed" || len(again.Denials) != 5 {
		t.Errorf("%+v", again)
	}
	text := call{args: []string{"why", unit}}.run(t).mustSucceed(t).stdout
	if strings.Count(text, "the profile as it is now allows it\n") != 4 || !strings.Contains(text, "it has changed since the start of the run") ||
		!strings.Contains(text, "no profile: it puts input into a terminal\n") {
		t.Errorf("%s", text)
	}
	// And when it is gone there are the denials.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if gone := why(t, unit); gone.ProfileState != "unreadable" || len(gone.Denials) != 5 {
		t.Errorf("%+v", gone)
	}
}

// Also of a run that goes on, by any of its names; and no text of it steers the
// terminal.
func TestWhyOfARunThatGoesOn(t *testing.T) {
	noSandboxes(t)
	unit := deny(t, "plain", "3", "1b5d303b70776e07", "forever")
	eventually(t, "an event", time.Minute, func() bool { return len(auditEvents(t, unit, "syscall-denied")) > 0 })
	for _, name := range []string{unit, strings.TrimSuffix(unit, ".service"), runID(unit), "plain"} {
		got := why(t, name)
		if got.Unit != unit || !got.Running || got.End != nil || got.ProfileState != "same" || len(got.Denials) != 1 || got.Denials[0].Process != `\x1b]0;pwn\x07` {
			t.Errorf("%s: %+v", name, got)
		}
	}
	text := call{args: []string{"why", unit}}.run(t).mustSucceed(t).stdout
	if strings.ContainsAny(text, "\x1b\a") || !strings.Contains(text, `\x1b]0;pwn\x07  mount  EPERM  syscalls.allow: mount; out of syscalls.deny: @mount  # `) {
		t.Errorf("%q", text)
	}
	if out := (call{args: []string{"__complete", "why", "purple-pl"}}).run(t).mustSucceed(t).stdout; !strings.Contains(out, unit) {
		t.Errorf("completed: %s", out)
	}
}

// The limits that a run has reached have the keys of the policy.
func TestWhyOfLimits(t *testing.T) {
	r, receipt, _ := audited(t, "memory", "python3", "-c", allocate)
	if r.status != 137 {
		t.Fatalf("%+v", r)
	}
	got := why(t, receipt.text("unit"))
	// A slow machine's start alone can be throttled.
	got.Limits = slices.DeleteFunc(got.Limits, func(l explainedLimit) bool { return l.Limit == "cpu" })
	if len(got.Limits) != 1 || got.Limits[0].Limit != "memory" || got.Limits[0].Key != "resources.memory_limit_bytes" || got.Limits[0].Count == nil || *got.Limits[0].Count == 0 {
		t.Errorf("%+v", got.Limits)
	}
	if got.End == nil || got.End.Reason != "out-of-memory" || got.End.Status != 137 {
		t.Errorf("%+v", got.End)
	}
	if text := (call{args: []string{"why", receipt.text("unit")}}).run(t).mustSucceed(t).stdout; !strings.Contains(text, "limit: resources.memory_limit_bytes: Out of memory: the limit is ") {
		t.Errorf("%s", text)
	}
}

func TestWhyRefuses(t *testing.T) {
	call{args: []string{"why", "00000000"}}.run(t).mustRefuse(t, 125, `cannot find a run "00000000"`, "the journal has nothing of it")
	call{args: []string{"why", "a/b"}}.run(t).mustRefuse(t, 125, `"a/b" cannot be a run`)
	silent := writeProfile(t, "name: silent\nextends: offline\naudit: {enabled: false}\n")
	unit := detach(t, silent, "sleep", "3000")
	call{args: []string{"why", unit}}.run(t).mustRefuse(t, 125, "cannot tell anything of "+unit, "audit.enabled: false")
}
