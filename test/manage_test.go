//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// detach starts a run and returns its unit, which ends with the test.
func detach(t *testing.T, profile string, args ...string) string {
	t.Helper()
	all := append([]string{"run", "--detach", "--profile", profilePath(profile), "--"}, args...)
	unit := strings.TrimSpace(call{args: all}.run(t).mustSucceed(t).stdout)
	t.Cleanup(func() {
		sh(t, "systemctl kill -s KILL "+unit+" 2>/dev/null || :")
		// The next test may name a run by the same profile.
		eventually(t, unit+" is gone", time.Minute, func() bool { return !isLoaded(t, unit) })
	})
	return unit
}

// runID is the end of a unit's name.
func runID(unit string) string {
	name := strings.TrimSuffix(unit, ".service")
	return name[strings.LastIndexByte(name, '-')+1:]
}

func isLoaded(t *testing.T, unit string) bool {
	t.Helper()
	return strings.TrimSpace(sh(t, "systemctl list-units --all --plain --no-legend "+unit)) != ""
}

// managedRun is what ps and stats say of a run in JSON.
type managedRun struct {
	Unit        string   `json:"unit"`
	Profile     string   `json:"profile"`
	RunID       string   `json:"run_id"`
	State       string   `json:"state"`
	Since       string   `json:"since"`
	MainPID     int      `json:"main_pid"`
	CPUNSec     *uint64  `json:"cpu_nsec"`
	Memory      *uint64  `json:"memory_bytes"`
	MemoryLimit *uint64  `json:"memory_limit_bytes"`
	Tasks       *uint64  `json:"tasks"`
	TasksLimit  *uint64  `json:"tasks_limit"`
	Denials     *uint64  `json:"denials"`
	Command     string   `json:"command"`
	CPUPercent  *float64 `json:"cpu_percent"`
	Learning    bool     `json:"learning"`
}

func managed(t *testing.T, args ...string) map[string]managedRun {
	t.Helper()
	var list []managedRun
	r := call{args: append([]string{"--json"}, args...)}.run(t).mustSucceed(t)
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
	runs := map[string]managedRun{}
	for _, run := range list {
		runs[run.Unit] = run
	}
	return runs
}

// systemctlNumber is nil for what systemd does not know, or does not limit.
func systemctlNumber(t *testing.T, unit, property string) *uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimSpace(sh(t, "systemctl show --value -p "+property+" "+unit)), 10, 64)
	if err != nil || n == 1<<64-1 {
		return nil
	}
	return &n
}

func sameNumber(x, y *uint64) bool { return (x == nil) == (y == nil) && (x == nil || *x == *y) }

// What ps says is what systemctl says, and the command as it was given.
func TestPs(t *testing.T) {
	noSandboxes(t)
	one := detach(t, "plain", "sleep", "3001")
	two := detach(t, "groups", "bash", "-c", `(sleep 3003 &); (setsid sleep 3004 &); sleep 3002; :`, "\x1b[31m\x9b", "it's")
	// An orphan is init's child beside the command.
	eventually(t, "the orphans are there", time.Minute, func() bool { return sh(t, "pgrep -cfx 'sleep 300[34]' || :") == "2\n" })
	runs := managed(t, "ps")
	if len(runs) != 2 {
		t.Fatalf("%+v", runs)
	}
	for unit, profile := range map[string]string{one: "plain", two: "groups"} {
		r := runs[unit]
		if r.Profile != profile || r.RunID != runID(unit) || r.State != "active" {
			t.Errorf("%+v", r)
		}
		if pid := systemctlNumber(t, unit, "MainPID"); uint64(r.MainPID) != *pid {
			t.Errorf("main pid %d, %d", r.MainPID, *pid)
		}
		for property, got := range map[string]*uint64{"MemoryMax": r.MemoryLimit, "TasksMax": r.TasksLimit} {
			if want := systemctlNumber(t, unit, property); want == nil || !sameNumber(got, want) {
				t.Errorf("%s of %s differs", property, unit)
			}
		}
		// The supervisor's threads come and go.
		eventually(t, "both count the tasks of "+unit, time.Minute, func() bool {
			want := systemctlNumber(t, unit, "TasksCurrent")
			return want != nil && sameNumber(managed(t, "ps")[unit].Tasks, want)
		})
		if known := systemctlNumber(t, unit, "CPUUsageNSec"); (known == nil) != (r.CPUNSec == nil) || r.Memory == nil || *r.Memory == 0 {
			t.Errorf("CPU or memory of %+v", r)
		}
		began := strings.TrimSpace(sh(t, "date -u +%FT%TZ -d \"$(systemctl show --value -p ActiveEnterTimestamp "+unit+")\""))
		if since, err := time.Parse(time.RFC3339Nano, r.Since); err != nil || since.UTC().Format("2006-01-02T15:04:05Z") != began {
			t.Errorf("since %s, %s", r.Since, began)
		}
		if r.Denials == nil || *r.Denials != 0 {
			t.Errorf("denials of %+v", r)
		}
	}
	if runs[one].Command != "sleep 3001" {
		t.Errorf("%q", runs[one].Command)
	}
	if want := `bash -c '(sleep 3003 &); (setsid sleep 3004 &); sleep 3002; :' $'\033[31m\233' 'it'\''s'`; runs[two].Command != want {
		t.Errorf("%q", runs[two].Command)
	}
	lines := strings.Split(strings.TrimSpace(call{args: []string{"ps"}}.run(t).mustSucceed(t).stdout), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[0]), " ") != "UNIT PROFILE SINCE CPU MEMORY TASKS DENIED COMMAND" {
		t.Fatalf("%q", lines)
	}
	// The oldest first.
	if f := strings.Fields(lines[1]); f[0] != one || f[1] != "plain" || !strings.HasSuffix(f[4], "/256M") || !strings.HasSuffix(lines[1], "sleep 3001") {
		t.Errorf("%q", lines[1])
	}
	if !strings.HasPrefix(lines[2], two) || strings.Contains(lines[2], "\x1b") {
		t.Errorf("%q", lines[2])
	}
}

// A unit that only looks like a run is neither listed nor stopped.
func TestOthersUnitsAreLeftAlone(t *testing.T) {
	noSandboxes(t)
	lookalikes := map[string]string{
		"purple-fake-01234567.service": "--slice=purple.slice",
		"purple-fake-01234568.service": "--slice=system.slice",
	}
	for unit, slice := range lookalikes {
		sh(t, "systemd-run -q --unit="+unit+" "+slice+" sleep 3000")
		t.Cleanup(func() { sh(t, "systemctl stop "+unit) })
	}
	if runs := managed(t, "ps"); len(runs) != 0 {
		t.Errorf("%+v", runs)
	}
	for unit := range lookalikes {
		call{args: []string{"stop", unit}}.run(t).mustRefuse(t, 125, "cannot find a run", "nothing runs")
		call{args: []string{"stop", "--kill", runID(unit)}}.run(t).mustRefuse(t, 125, "nothing runs")
		sh(t, "systemctl is-active "+unit)
	}
	call{args: []string{"stop", "purplenet.service"}}.run(t).mustRefuse(t, 125, "cannot find a run")
	if out := (call{args: []string{"__complete", "stop", ""}}).run(t).stdout; strings.Contains(out, "fake") {
		t.Error(out)
	}
}

// Not of root: nothing is stopped, and no denials that it may not read are zero.
func TestManageAsUser(t *testing.T) {
	unit := detach(t, "plain", "sleep", "3000")
	as := "setpriv --reuid=65534 --regid=65534 --clear-groups " + filepath.Join(bin, "purple") + " --system"
	if out := sh(t, as+" --json ps"); !strings.Contains(out, unit) || !strings.Contains(out, `"denials": null`) {
		t.Error(out)
	}
	sh(t, as+" stats")
	if out := sh(t, as+" stop "+unit+" 2>&1 || echo status $?"); !strings.Contains(out, "only root; call it with sudo") || !strings.Contains(out, "status 125") {
		t.Error(out)
	}
	if out := sh(t, as+" logs "+unit+" 2>&1 || echo status $?"); !strings.Contains(out, "call it with sudo") || !strings.Contains(out, "status 125") {
		t.Error(out)
	}
	sh(t, "systemctl is-active "+unit)
}

func TestStats(t *testing.T) {
	noSandboxes(t)
	if r := (call{args: []string{"--json", "stats"}}).run(t).mustSucceed(t); r.stdout != "[]\n" {
		t.Errorf("%q", r.stdout)
	}
	unit, other := detach(t, "plain", "sleep", "3000"), detach(t, "groups", "sh", "-c", "while :; do :; done")
	runs := managed(t, "stats")
	if len(runs) != 2 || !sameNumber(runs[unit].MemoryLimit, systemctlNumber(t, unit, "MemoryMax")) {
		t.Errorf("%+v", runs)
	}
	if r := runs[other]; (r.CPUNSec == nil) != (r.CPUPercent == nil) {
		t.Errorf("%+v", r)
	}
	lines := strings.Split(strings.TrimSpace(call{args: []string{"stats", runID(unit)}}.run(t).mustSucceed(t).stdout), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[1], unit) || !strings.HasSuffix(lines[1], "/112") {
		t.Errorf("%q", lines)
	}
	call{args: []string{"stats", "no-such"}}.run(t).mustRefuse(t, 125, `cannot find a run "no-such"`, unit, other)
}

// On a terminal the table is drawn in its own place until the run ends.
func TestLiveStats(t *testing.T) {
	unit := detach(t, "plain", "sleep", "3000")
	s := screenOf(t, call{dir: tempDir(t), env: []string{"TERM=xterm"}, args: []string{"stats", unit}}.command(context.Background()))
	s.expect(t, unit)
	s.expect(t, "\x1b[2A\r\x1b[JUNIT")
	sh(t, filepath.Join(bin, "purple")+" stop --kill "+unit)
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	interrupted := screenOf(t, call{dir: tempDir(t), env: []string{"TERM=xterm"}, args: []string{"stats"}}.command(context.Background()))
	interrupted.expect(t, "UNIT")
	interrupted.typeIn(t, "\x03")
	if err := interrupted.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// loggedLines are those of `purple logs --json` from one source.
func loggedLines(t *testing.T, source string, args ...string) []string {
	t.Helper()
	var messages []string
	r := call{args: append([]string{"--json", "logs"}, args...)}.run(t).mustSucceed(t)
	for line := range strings.Lines(r.stdout) {
		var l struct{ Time, Source, Message string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if _, err := time.Parse(time.RFC3339Nano, l.Time); err != nil {
			t.Error(err)
		}
		if l.Source == source {
			messages = append(messages, l.Message)
		}
	}
	return messages
}

// The output as it was, but for what would steer the terminal; and nothing that
// it says makes it anybody else's.
func TestLogs(t *testing.T) {
	noUnits(t, "plain") // it is named by its profile
	const script = `printf 'tab\there\033[2J\033]0;title\007\n\302\233 \233 \177\n<0>panic\r2026-01-01 00:00:00 systemd lie\n'; echo err >&2; sleep 3000`
	unit := detach(t, "plain", "sh", "-c", script)
	want := []string{"tab\there\\x1b[2J\\x1b]0;title\\x07", `\xc2\x9b \x9b \x7f`, `<0>panic\x0d2026-01-01 00:00:00 systemd lie`, "err"}
	eventually(t, "the output is in the journal", time.Minute, func() bool {
		sh(t, "journalctl --sync")
		got := loggedLines(t, "output", unit)
		slices.Sort(got) // stdout and stderr are two streams
		sorted := slices.Sorted(slices.Values(want))
		return slices.Equal(got, sorted)
	})
	if t.Failed() {
		t.Fatalf("%q", loggedLines(t, "output", unit))
	}
	for _, name := range []string{unit, strings.TrimSuffix(unit, ".service"), runID(unit), "plain"} {
		text := call{args: []string{"logs", name}}.run(t).mustSucceed(t).stdout
		if strings.ContainsAny(text, "\x1b\x07\r\x7f") || strings.Contains(text, "\u009b") || !strings.Contains(text, ` output  <0>panic\x0d2026`) {
			t.Errorf("%s: %q", name, text)
		}
	}
	sh(t, filepath.Join(bin, "purple")+" stop "+unit)
	// Of a run that has ended, too.
	for _, name := range []string{unit, runID(unit)} {
		if got := loggedLines(t, "output", name); len(got) != 4 {
			t.Errorf("%s: %q", name, got)
		}
	}
	if manager := strings.Join(loggedLines(t, "systemd", unit), "\n"); !strings.Contains(manager, "Started") || !strings.Contains(manager, "Stopped") {
		t.Error(manager)
	}
	call{args: []string{"logs", "purple-plain-00000000"}}.run(t).mustRefuse(t, 125, "cannot find a run", "the journal has nothing of it")
	call{args: []string{"logs", "no-such"}}.run(t).mustRefuse(t, 125, `cannot find a run "no-such"`)
}

// What the network denies is an event beside the output, and counted by ps.
func TestLogsAndPsOfDenials(t *testing.T) {
	theWorld(t)                                                                               // a way out, which is what is denied
	profile := writeProfile(t, "extends: ai-dev-safe\nresources:\n  cpu_shares: unlimited\n") // no event of that
	all := []string{"run", "--detach", "--profile", profile, "--", "bash", "-c", "(exec 3<>/dev/tcp/192.0.2.1/81) 2>&-; echo 'Denied tcp to 192.0.2.9 port 9'; sleep 3000"}
	unit := strings.TrimSpace(call{args: all}.run(t).mustSucceed(t).stdout)
	t.Cleanup(func() { sh(t, filepath.Join(bin, "purple")+" stop "+unit) })
	eventually(t, "the denial is counted", time.Minute, func() bool {
		n := managed(t, "ps")[unit].Denials
		return n != nil && *n == 1
	})
	got := loggedLines(t, "purple", unit)
	if len(got) != 2 || !strings.HasPrefix(got[0], "Started under the profile test: bash -c ") || got[1] != "Denied tcp to 192.0.2.1 port 81" {
		t.Errorf("%q", got)
	}
}

// logs -f ends with the run, and has its last line.
func TestFollowLogs(t *testing.T) {
	unit := detach(t, "plain", "bash", "-c", "echo first; read -t 3 < <(sleep 9); for i in $(seq 500); do echo line $i; done; echo last")
	r := call{args: []string{"logs", "--follow", unit}}.run(t).mustSucceed(t)
	for _, want := range []string{"output  first\n", "output  line 1\n", "output  last\n"} {
		if strings.Count(r.stdout, want) != 1 {
			t.Errorf("%q is not there once: %s", want, r.stdout)
		}
	}
	if strings.Count(r.stdout, " output ") != 502 {
		t.Errorf("%d lines", strings.Count(r.stdout, " output "))
	}
	// Of a run that has ended it is the same without waiting.
	if again := (call{args: []string{"logs", "--follow", unit}}).run(t).mustSucceed(t); strings.Count(again.stdout, " output ") != 502 {
		t.Errorf("%d lines", strings.Count(again.stdout, " output "))
	}
}

const ignoresTERM = `trap "" TERM INT HUP; (setsid bash -c 'trap "" TERM; sleep 3000' &); touch /tmp/ready; while :; do sleep 1; done`

func TestStop(t *testing.T) {
	noSandboxes(t)
	stop := func(args ...string) (result, time.Duration) {
		begin := time.Now()
		r := call{args: append([]string{"stop"}, args...)}.run(t)
		return r, time.Since(begin)
	}
	one, two := detach(t, "plain", "bash", "-c", ignoresTERM), detach(t, "plain", "sleep", "3000")
	three := detach(t, "groups", "bash", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
	r, _ := stop("plain")
	r.mustRefuse(t, 125, `cannot tell which run "plain" is`, one, two, "name it by its unit or its run id")
	r, _ = stop("no-such")
	r.mustRefuse(t, 125, `cannot find a run "no-such": what runs is`, one, two, three)
	if runs := managed(t, "ps"); len(runs) != 3 {
		t.Fatalf("%+v", runs)
	}
	if r, _ = stop("groups"); r.status != 0 || r.stderr != "purple: stopped "+three+"\n" || isLoaded(t, three) {
		t.Errorf("%+v", r)
	}
	r, took := stop(strings.TrimSuffix(one, ".service"))
	if r.status != 0 || isLoaded(t, one) || took < 4*time.Second {
		t.Errorf("%+v after %v", r, took)
	}
	if r, _ = stop("plain"); r.status != 0 || isLoaded(t, two) {
		t.Errorf("now there is one: %+v", r)
	}
	r, _ = stop(two)
	r.mustRefuse(t, 125, "cannot find a run", "nothing runs")
	noSandboxes(t)
}

// --kill waits for nobody.
func TestStopKill(t *testing.T) {
	unit := detach(t, "plain", "bash", "-c", ignoresTERM)
	begin := time.Now()
	r := call{args: []string{"stop", "--kill", runID(unit)}}.run(t)
	if took := time.Since(begin); r.status != 0 || isLoaded(t, unit) {
		t.Errorf("%+v after %v", r, took)
	}
	log := strings.Join(loggedLines(t, "systemd", unit), "\n")
	if strings.Contains(log, "timed out") || !strings.Contains(log, "SIGKILL") {
		t.Error(log)
	}
	// Of an attached one, purple run tells as of any SIGKILL.
	cmd, attached := start(t, ignoresTERM)
	call{args: []string{"stop", "--kill", attached}}.run(t).mustSucceed(t)
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 137 {
		t.Errorf("status %d", cmd.ProcessState.ExitCode())
	}
	noUnits(t, "plain")
}

func TestCompleteRuns(t *testing.T) {
	noSandboxes(t)
	one, two, three := detach(t, "plain", "sleep", "3000"), detach(t, "plain", "sleep", "3000"), detach(t, "groups", "sleep", "3000")
	complete := func(args ...string) string {
		return call{args: append([]string{"__complete"}, args...)}.run(t).mustSucceed(t).stdout
	}
	all := fmt.Sprintf("%s\tprofile plain\n%s\tprofile plain\n%s\tprofile groups\ngroups\t%s\n:4\n", one, two, three, three)
	for _, command := range []string{"stop", "logs", "stats"} {
		if got := complete(command, ""); got != all {
			t.Errorf("%s: %q", command, got)
		}
	}
	if got := complete("stop", strings.TrimSuffix(two, ".service")); got != two+"\tprofile plain\n:4\n" {
		t.Errorf("%q", got)
	}
	if got := complete("stop", one, ""); got != ":4\n" {
		t.Errorf("%q", got)
	}
	if got := complete("stats", one, "purple-plain"); got != two+"\tprofile plain\n:4\n" {
		t.Errorf("%q", got)
	}
}

// The properties of all runs are asked for at once. The figure is for emulation,
// where a start takes seconds.
func TestPsOfManyRuns(t *testing.T) {
	noSandboxes(t)
	const many = 10
	for range many {
		detach(t, "groups", "sleep", "3000")
	}
	best := time.Hour
	for range 5 {
		begin := time.Now()
		if runs := managed(t, "ps"); len(runs) != many {
			t.Fatalf("%d runs", len(runs))
		}
		best = min(best, time.Since(begin))
	}
	t.Logf("ps of %d runs: %v", many, best)
	if best > 5*time.Second {
		t.Errorf("ps takes %v", best)
	}
}

// endedRun is what `purple ps --all --json` says of a run.
type endedRun struct {
	Unit, State, Reason, Command string
	Status                       *int
	Began, Ended                 *time.Time
}

func allRuns(t *testing.T, args ...string) map[string]endedRun {
	t.Helper()
	var list []endedRun
	r := call{args: append([]string{"--json"}, args...)}.run(t).mustSucceed(t)
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		t.Fatalf("%v\n%s", err, r.stdout)
	}
	runs := map[string]endedRun{}
	for _, run := range list {
		runs[run.Unit] = run
	}
	return runs
}

// The status of a detached run is found when its unit is gone; `wait` returns it.
func TestWait(t *testing.T) {
	slow := detach(t, "plain", "sh", "-c", "sleep 1; exit 7")
	if r := (call{args: []string{"wait", slow}}).run(t); r.status != 7 || r.stdout != "" || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	noUnits(t, "plain")
	if r := (call{args: []string{"wait", runID(slow)}}).run(t); r.status != 7 {
		t.Errorf("after the end: %+v", r)
	}
	if r := (call{args: []string{"--json", "wait", slow}}).run(t); r.status != 7 || !strings.Contains(r.stdout, `"status": 7`) || !strings.Contains(r.stdout, slow) {
		t.Errorf("%+v", r)
	}
	killed := detach(t, "plain", "sh", "-c", "kill -9 $$")
	if r := (call{args: []string{"wait", killed}}).run(t); r.status != 137 {
		t.Errorf("%+v", r)
	}
	good := detach(t, "plain", "true")
	call{args: []string{"wait", good}}.run(t).mustSucceed(t)
	call{args: []string{"wait", "purple-plain-ffffffff"}}.run(t).mustRefuse(t, 125, "cannot find a run")
	silent := writeProfile(t, "name: silent\nextends: offline\naudit: {enabled: false}\n")
	unit := strings.TrimSpace(call{args: []string{"run", "--detach", "--profile", silent, "--", "sleep", "1"}}.run(t).mustSucceed(t).stdout)
	call{args: []string{"wait", unit}}.run(t).mustRefuse(t, 125, "cannot find how "+unit+" ended", "audit.enabled")
}

// Without a name, and by a profile, it is the latest run, whether it goes on or not.
func TestLatestRun(t *testing.T) {
	first := detach(t, "groups", "sh", "-c", "echo first; exit 1")
	call{args: []string{"wait", first}}.run(t)
	second := detach(t, "groups", "sh", "-c", "echo second; exit 2")
	call{args: []string{"wait", second}}.run(t)
	for _, args := range [][]string{{"logs"}, {"logs", "groups"}} {
		if r := (call{args: args}).run(t).mustSucceed(t); !strings.Contains(r.stdout, "second\n") || strings.Contains(r.stdout, "first\n") {
			t.Errorf("%q: %s", args, r.stdout)
		}
	}
	if r := (call{args: []string{"why"}}).run(t).mustSucceed(t); !strings.HasPrefix(r.stdout, second+": Ended with status 2") {
		t.Errorf("%s", r.stdout)
	}
	if r := (call{args: []string{"wait"}}).run(t); r.status != 2 {
		t.Errorf("%+v", r)
	}
	running := detach(t, "groups", "sleep", "3000")
	if r := (call{args: []string{"why", "groups"}}).run(t).mustSucceed(t); !strings.HasPrefix(r.stdout, running) {
		t.Errorf("%s", r.stdout)
	}
	later := detach(t, "plain", "sh", "-c", "exit 3")
	call{args: []string{"wait", later}}.run(t)
	if r := (call{args: []string{"why"}}).run(t).mustSucceed(t); !strings.HasPrefix(r.stdout, later) {
		t.Errorf("one that has ended since: %s", r.stdout)
	}
	all := allRuns(t, "ps", "--all")
	for unit, status := range map[string]int{first: 1, second: 2, later: 3} {
		if r := all[unit]; r.State != "ended" || r.Reason != "exited" || r.Status == nil || *r.Status != status || r.Began == nil || r.Ended == nil || !r.Ended.After(*r.Began) {
			t.Errorf("%+v", r)
		}
	}
	if r := all[running]; r.State != "active" || r.Ended != nil || r.Status != nil || r.Command != "sleep 3000" {
		t.Errorf("%+v", r)
	}
	if only := allRuns(t, "why", "--list", "groups"); only[later].Unit != "" || only[first].Unit == "" || only[running].Unit == "" {
		t.Errorf("%+v", only)
	}
}
