//go:build integration

package test

import (
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

// The message ids: written down again, because nobody may change them.
const (
	idStarted   = "ba08f278402549d296775c3d2925905a"
	idLimit     = "2ce0c2e423604ae78b0038c76f7c5d75"
	idEnded     = "4ca5aafda9814c978cbd0a6a7cfde5f1"
	idLogFailed = "c2f12b3951a64c09847f34b42ae87e6d"
)

// entry is an entry of the journal, or a line of a log.
type entry map[string]any

func (e entry) text(name string) string {
	text, _ := e[name].(string)
	return text
}

// number is -1 for what is not there.
func (e entry) number(t *testing.T, name string) int64 {
	t.Helper()
	if _, ok := e[name]; !ok {
		return -1
	}
	n, err := strconv.ParseInt(e.text(name), 10, 64)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return n
}

// own are the fields that the sender chose, without the sender's position.
func (e entry) own() map[string]string {
	fields := map[string]string{}
	for name := range e {
		if name == "MESSAGE" || name == "MESSAGE_ID" || name == "PRIORITY" || strings.HasPrefix(name, "PURPLE_") {
			fields[name] = e.text(name)
		}
	}
	return fields
}

func parseLines(t *testing.T, text string) []entry {
	t.Helper()
	var all []entry
	for line := range strings.Lines(text) {
		var e entry
		if strings.TrimSpace(line) == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		all = append(all, e)
	}
	return all
}

// journalOf has every event of a unit, as journalctl finds it by the unit.
// Those of the supervisor have the unit as their sender's.
func journalOf(t *testing.T, unit string) []entry {
	t.Helper()
	events := parseLines(t, sh(t, "journalctl --sync; "+journalctlJSON+"-u "+unit))
	events = slices.DeleteFunc(events, func(e entry) bool { return e["MESSAGE_ID"] == nil || e["PURPLE_EVENT"] == nil })
	for _, e := range events {
		if e.text("_UID") != fmt.Sprint(callerUID) || e.text("_TRANSPORT") != "journal" || e.text("PURPLE_UNIT") != unit || e.text("PRIORITY") != "4" {
			t.Errorf("%v", e)
		}
	}
	return events
}

func names(events []entry) string {
	var all []string
	for _, e := range events {
		all = append(all, e.text("PURPLE_EVENT"))
	}
	return strings.Join(all, " ")
}

// audited runs purple with a receipt, from which it knows the unit.
func audited(t *testing.T, profile string, args ...string) (result, entry, []entry) {
	t.Helper()
	file := filepath.Join(tempDir(t), "receipt.json")
	c := call{args: append([]string{"run", "--receipt", file, "--profile", profilePath(profile), "--"}, args...)}
	r := c.run(t)
	receipt := readReceipt(t, file)
	return r, receipt, journalOf(t, receipt.text("unit"))
}

func readReceipt(t *testing.T, file string) entry {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var e entry
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return e
}

// allocate uses up more memory than the profile allows.
const allocate = "b = bytearray(300 << 20); print(len(b))"

// allocateAll does so in eight processes at once, so that the kernel has to kill
// more than one of them, one after another.
const allocateAll = `
import os, time
for i in range(8):
    if os.fork() == 0:
        time.sleep(i * 0.01)
        b = bytearray(300 << 20)
        time.sleep(60)
time.sleep(60)
print("survived")`

func badProgram(t *testing.T) string {
	t.Helper()
	file := filepath.Join(tempDir(t), "bad")
	if err := os.WriteFile(file, []byte("\x7fELF, but no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every way to end has its event, and the journal, the receipt and the caller
// are told the same.
func TestRunsHaveABeginningAndAnEnd(t *testing.T) {
	bad := badProgram(t)
	needsBad := writeProfile(t, fmt.Sprintf("extends: offline\nfilesystem:\n  immutable_paths: [/usr, %q]\n", bad))
	for _, c := range []struct {
		profile string
		args    []string
		status  int
		reason  string
		signal  int64
	}{
		{"plain", []string{"true"}, 0, "exited", -1},
		{"plain", []string{"sh", "-c", "exit 3"}, 3, "exited", -1},
		{"plain", []string{"sh", "-c", "kill -TERM $$"}, 143, "signal", 15},
		{"plain", []string{"sh", "-c", "kill -KILL $$"}, 137, "signal", 9},
		{"timeout", []string{"sleep", "60"}, 124, "timeout", 15},
		{"timeout", []string{"sh", "-c", `trap "" TERM; while :; do sleep 1; done`}, 124, "timeout", 9},
		{"memory", []string{"python3", "-c", allocate}, 137, "out-of-memory", 9},
		{"memory", []string{"sh", "-c", "python3 -c '" + allocate + "'; sleep 60; echo survived"}, 137, "out-of-memory", -2},
		{"memory", []string{"python3", "-c", allocateAll}, 137, "out-of-memory", -2},
		{needsBad, []string{bad}, 126, "refused", -1},
	} {
		r, receipt, events := audited(t, c.profile, c.args...)
		what := fmt.Sprintf("%s %q", c.profile, c.args)
		if r.status != c.status || strings.Contains(r.stdout, "survived") {
			t.Errorf("%s: %+v", what, r)
		}
		if len(events) < 2 || events[0].text("MESSAGE_ID") != idStarted || events[len(events)-1].text("MESSAGE_ID") != idEnded {
			t.Errorf("%s: events %s", what, names(events))
			continue
		}
		began, end := events[0], events[len(events)-1]
		for _, e := range events {
			if e.text(unitField) != receipt.text("unit") {
				t.Errorf("%s: not of the unit: %v; its journal:\n%s", what, e, sh(t, "journalctl -u "+receipt.text("unit")))
			}
		}
		if end.text("PURPLE_REASON") != c.reason || end.number(t, "PURPLE_STATUS") != int64(c.status) {
			t.Errorf("%s: %v", what, end.own())
		}
		if signal := end.number(t, "PURPLE_SIGNAL"); c.signal != -2 && signal != c.signal {
			t.Errorf("%s: signal %d", what, signal)
		}
		if receipt["status"] != float64(c.status) || receipt["reason"] != c.reason {
			t.Errorf("%s: receipt %v", what, receipt)
		}
		if hash := end.text("PURPLE_POLICY_HASH"); hash != began.text("PURPLE_POLICY_HASH") || hash != receipt["policy_hash"] ||
			hash != digestOf(t, profilePath(c.profile)) {
			t.Errorf("%s: hash %q", what, hash)
		}
	}
}

// digestOf is what `purple profile show` prints.
func digestOf(t *testing.T, profile string) string {
	t.Helper()
	shown := call{args: []string{"profile", "show", profile}}.run(t).mustSucceed(t).stdout
	m := regexp.MustCompile(`(?m)^# digest ([0-9a-f]{64})$`).FindStringSubmatch(shown)
	if m == nil {
		t.Fatalf("no digest:\n%s", shown)
	}
	return m[1]
}

// What the events say of resources is so.
func TestUsageIsTold(t *testing.T) {
	const work = `
import time
b = bytearray(100 << 20)
for i in range(len(b) // 4096): b[i * 4096] = 1
end = time.process_time() + 0.5
while time.process_time() < end: pass
time.sleep(0.5)`
	_, receipt, events := audited(t, "plain", "python3", "-c", work)
	began, end := events[0], events[len(events)-1]
	limits := map[string]int64{
		"PURPLE_LIMIT_MEMORY_BYTES": 256 << 20, "PURPLE_LIMIT_TASKS": 64, "PURPLE_LIMIT_TIME_USEC": -1,
		"PURPLE_LIMIT_CPU_USEC": -1, "PURPLE_LIMIT_IO_BYTES": -1,
	}
	for name, want := range limits {
		if got := began.number(t, name); name != "PURPLE_LIMIT_TIME_USEC" && got != want || name == "PURPLE_LIMIT_TIME_USEC" && got <= 0 {
			t.Errorf("%s is %d", name, got)
		}
	}
	for name, least := range map[string]int64{"PURPLE_WALL_USEC": 1_000_000, "PURPLE_CPU_USEC": 500_000, "PURPLE_MEMORY_PEAK_BYTES": 100 << 20} {
		got := end.number(t, name)
		if got < least && !(name == "PURPLE_MEMORY_PEAK_BYTES" && got == -1 && !kernelKeepsMemoryPeak(t)) || got > 300*1_000_000 {
			t.Errorf("%s is %d, at least %d are true", name, got, least)
		}
		key := strings.ToLower(strings.TrimPrefix(name, "PURPLE_"))
		if told, ok := receipt[key].(float64); ok != (got != -1) || ok && int64(told) != got {
			t.Errorf("%s is %v in the receipt, %d in the journal", key, receipt[key], got)
		}
	}
	if end.text("PURPLE_LIMITS_REACHED") != "" || end.number(t, "PURPLE_NETWORK_SENT_BYTES") != -1 || end.number(t, "PURPLE_DENIED_CONNECTIONS") != -1 {
		t.Errorf("%v", end.own())
	}
}

// kernelKeepsMemoryPeak: v1 does, v2 from Linux 5.19 on.
func kernelKeepsMemoryPeak(t *testing.T) bool {
	return strings.TrimSpace(sh(t, "find /sys/fs/cgroup -name memory.peak -o -name memory.max_usage_in_bytes | head -1")) != ""
}

// What is written to a disk is counted, and what is written to memory is not:
// the private systemd's overlay is in memory.
func TestWrittenBytesAreTold(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "purple-io.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sh(t, "chmod 0777 "+dir) // an overlay has no idmapped mounts
	receipt := filepath.Join(tempDir(t), "r.json")
	c := call{dir: dir, args: []string{"run", "--receipt", receipt, "--workspace", dir, "--profile", "offline", "--", "python3", "-c",
		"import os; f = os.open('data', os.O_CREAT | os.O_WRONLY); os.write(f, os.urandom(4 << 20)); os.fsync(f)"}}
	c.run(t).mustSucceed(t)
	const written = 4 << 20
	least := 0.0
	if strings.HasPrefix(sh(t, "findmnt -n -o SOURCE --target "+dir), "/dev/") {
		least = written
	}
	if n, ok := readReceipt(t, receipt)["io_written_bytes"].(float64); !ok || n < least || n > least+16*written {
		t.Errorf("%v, at least %v", readReceipt(t, receipt)["io_written_bytes"], least)
	}
}

// Each limit is told once; a run that stays under it has no such event.
func TestLimitsReached(t *testing.T) {
	const fill = "for i in $(seq 40); do sleep 4 & done 2>/dev/null; wait"
	const few = "for i in 1 2 3; do sleep 2 & done; wait"
	const busy = "import time\nend = time.process_time() + 0.7\nwhile time.process_time() < end: pass"
	ample := writeProfile(t, "name: ample\nextends: offline\nresources:\n  cpu_shares: 64\n  memory_limit_bytes: 1G\n")
	for _, c := range []struct {
		profile string
		args    []string
		limit   string
		value   int64
		count   string
	}{
		{"memory", []string{"python3", "-c", allocate}, "memory", 64 << 20, "PURPLE_OOM_KILLS"},
		{ample, []string{"python3", "-c", allocate}, "", 0, ""},
		{"tasks", []string{"bash", "-c", fill}, "tasks", 20, ""},
		{"tasks", []string{"bash", "-c", few}, "", 0, ""},
		{"cpu", []string{"python3", "-c", busy}, "cpu", 500_000, "PURPLE_CPU_THROTTLED"},
		{ample, []string{"python3", "-c", busy}, "", 0, ""},
		{"timeout", []string{"sleep", "60"}, "time", 3_000_000, ""},
	} {
		r, receipt, events := audited(t, c.profile, c.args...)
		what := fmt.Sprintf("%s %q: %+v", c.profile, c.args, r)
		var reached []entry
		for _, e := range events {
			// A slow machine's start alone can be throttled.
			if e.text("MESSAGE_ID") == idLimit && (e.text("PURPLE_LIMIT") != "cpu" || c.limit == "cpu" || c.profile == ample) {
				reached = append(reached, e)
			}
		}
		end := events[len(events)-1]
		if c.limit == "" {
			if len(reached) != 0 {
				t.Errorf("%s: %v", what, reached)
			}
			continue
		}
		if len(reached) != 1 || reached[0].text("PURPLE_LIMIT") != c.limit || reached[0].number(t, "PURPLE_LIMIT_VALUE") != c.value {
			t.Errorf("%s: %v of %s, receipt %v", what, reached, names(events), receipt)
			continue
		}
		if !slices.Contains(strings.Fields(end.text("PURPLE_LIMITS_REACHED")), c.limit) || !strings.Contains(fmt.Sprint(receipt["limits_reached"]), c.limit) {
			t.Errorf("%s: %v, %v", what, end.own(), receipt)
		}
		if c.count != "" && (end.number(t, c.count) < 1 || reached[0].number(t, "PURPLE_COUNT") < 1) {
			t.Errorf("%s: %v, %v", what, reached[0].own(), end.own())
		}
	}
}

// lastEvent waits for the end of a detached run to be in the journal.
func lastEvent(t *testing.T, unit string) entry {
	t.Helper()
	var end entry
	eventually(t, "the end of "+unit, 30*time.Second, func() bool {
		events := journalOf(t, unit)
		if len(events) == 0 {
			return false
		}
		end = events[len(events)-1]
		return end.text("MESSAGE_ID") == idEnded
	})
	return end
}

func TestStoppedRunsSaySo(t *testing.T) {
	for script, status := range map[string]int64{"exec sleep 300": 143, `trap "" TERM; while :; do sleep 1; done`: 137, "trap 'exit 5' TERM; while :; do sleep 0.1; done": 5} {
		unit := detach(t, "plain", "bash", "-c", script)
		time.Sleep(time.Second) // until the trap is set
		sh(t, "systemctl stop "+unit)
		if end := lastEvent(t, unit); end.text("PURPLE_REASON") != "stopped" || end.number(t, "PURPLE_STATUS") != status || end.text(unitField) != unit {
			t.Errorf("%s: %v", script, end.own())
		}
	}
	cmd, unit := start(t, "sleep 300")
	sh(t, fmt.Sprintf("kill -KILL %d", cmd.Process.Pid))
	_ = cmd.Wait() // it was killed
	if end := lastEvent(t, unit); end.text("PURPLE_REASON") != "stopped" || end.text(unitField) != unit {
		t.Errorf("without purple: %v", end.own())
	}
}

// The supervisor cannot tell of its own death; purple can, and systemd's
// journalctl finds it by the unit.
func TestKilledSupervisorsAreTold(t *testing.T) {
	cmd, unit := start(t, "sleep 300")
	sh(t, "systemctl kill -s KILL "+unit)
	_ = cmd.Wait() // 137
	end := lastEvent(t, unit)
	if end.text("PURPLE_REASON") != "killed" || end.number(t, "PURPLE_STATUS") != 137 || end.text(aboutField) != unit || end.text(unitField) == unit {
		t.Errorf("%v", end)
	}
	if logs := (call{args: []string{"logs", unit}}).run(t).mustSucceed(t).stdout; !strings.Contains(logs, "purple  Killed with its supervisor") {
		t.Errorf("%s", logs)
	}
}

// Neither an argument nor the output can make a field, an event, or steer a
// terminal.
func TestRunEventsCannotBeForged(t *testing.T) {
	forged := "x\nPURPLE_REASON=exited\nMESSAGE_ID=" + idEnded + "\n\x1b]0;title\x07\xff"
	print := "printf '%s\\n' 'PURPLE_EVENT=run-ended' 'MESSAGE_ID=" + idEnded + "' \"$1\"; logger --journald </dev/null; :"
	unit := detach(t, "plain", "bash", "-c", print, "bash", forged)
	end := lastEvent(t, unit)
	// Under this profile bash is denied the socket by which it asks for users' names.
	events := slices.DeleteFunc(journalOf(t, unit), func(e entry) bool { return strings.HasPrefix(e.text("PURPLE_EVENT"), "syscall") })
	if got := names(events); got != "run-started run-ended" || end.text("PURPLE_STATUS") != "0" {
		t.Fatalf("%s\n%v", got, events)
	}
	began := events[0].own()
	// Two of them are limits that a user has not got where profiles are without.
	if fields := 13 - len(liftedFields()); len(began) != fields || began["MESSAGE_ID"] != idStarted || strings.ContainsFunc(began["PURPLE_COMMAND"]+began["MESSAGE"], func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("%q", began)
	}
	// bash reads back what was run.
	out := sh(t, "set -- "+began["PURPLE_COMMAND"]+"; printf '%s' \"$5\"")
	if out != forged {
		t.Errorf("%q became %q", forged, out)
	}
}

func TestEnvironmentIsNotRecorded(t *testing.T) {
	const secret = "s3cr3t-of-the-environment"
	log := logFile(t)
	profile := writeProfile(t, "extends: offline\naudit:\n  log_path: "+log+"\n")
	receipt := filepath.Join(tempDir(t), "r.json")
	call{args: []string{"run", "--env", "TOKEN=" + secret, "--receipt", receipt, "--profile", profile, "--", "sh", "-c", "test $TOKEN"}}.run(t).mustSucceed(t)
	unit := readReceipt(t, receipt).text("unit")
	if all := sh(t, "cat "+log+" "+receipt+"; journalctl --sync; journalctl --no-pager -o verbose -u "+unit); strings.Contains(all, secret) || !strings.Contains(all, "run-started") {
		t.Errorf("%s", all)
	}
}

// logFile is a place for a log; its directory is not there yet.
func logFile(t *testing.T) string { return filepath.Join(tempDir(t), "logs", "audit.log") }

// withLog has no CPU limit: under emulation the shortest run reaches it, which
// is an event more.
func withLog(t *testing.T, base, log string) string {
	return writeProfile(t, "extends: "+base+"\nresources:\n  cpu_shares: unlimited\naudit:\n  log_path: \""+log+"\"\n")
}

func readLog(t *testing.T, log string) []entry {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return parseLines(t, string(data))
}

// The log has what the journal has, of one run after the other.
func TestLogHasTheSameEvents(t *testing.T) {
	log := logFile(t)
	profile := withLog(t, "offline", log)
	var all []entry
	for range 2 {
		r, _, events := audited(t, profile, "sh", "-c", "ls -l /proc/self/fd; exit 3")
		if r.status != 3 || strings.Contains(r.stdout, "audit.log") {
			t.Errorf("%+v", r)
		}
		all = append(all, events...)
	}
	got := readLog(t, log)
	if len(got) < 4 || len(got) != len(all) {
		t.Fatalf("%d in the log, %d in the journal", len(got), len(all))
	}
	for i := range got {
		if fmt.Sprint(got[i].own()) != fmt.Sprint(all[i].own()) {
			t.Errorf("log     %v\njournal %v", got[i].own(), all[i].own())
		}
		at, err := time.Parse(time.RFC3339Nano, got[i].text("time"))
		if err != nil || time.Since(at) > limit || time.Since(at) < 0 {
			t.Errorf("time %q, %v", got[i].text("time"), err)
		}
	}
	if got := sh(t, "stat -c '%a %U %G' "+log+" "+filepath.Dir(log)); got != fmt.Sprintf("640 %[1]s %[1]s\n750 %[1]s %[1]s\n", caller) {
		t.Errorf("%q", got)
	}
}

// While it runs, no process of the sandbox has the log open.
func TestSandboxDoesNotHaveTheLog(t *testing.T) {
	log := logFile(t)
	unit := detach(t, withLog(t, "offline", log), "sleep", "300")
	holders := func() string {
		return sh(t, "for p in $(cat $(find /sys/fs/cgroup -path '*"+unit+"/cgroup.procs' | head -1)); do ls -l /proc/$p/fd | grep -q audit.log && echo $p; done; :")
	}
	main := sh(t, "systemctl show --value -p MainPID "+unit)
	if got := holders(); got != main {
		t.Errorf("held by %q, the supervisor is %q", got, main)
	}
}

func TestLogInTheWayIsRefused(t *testing.T) {
	refused := func(log string, texts ...string) {
		t.Helper()
		call{args: []string{"run", "--profile", withLog(t, "offline", log), "--", "echo", "ran"}}.run(t).mustRefuse(t, 125, append(texts, "audit.log_path")...)
	}
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cd %q; ln -s /etc/passwd link; ln -s . here; mkfifo fifo; mkdir -m 0777 open; touch a; ln a b; chown -h %s *", dir, caller))
	before := sh(t, "md5sum /etc/passwd")
	refused(dir+"/link", "symbolic link")
	refused(dir+"/here/log", "it is a link")
	refused(dir+"/fifo", "not a regular file")
	refused(dir+"/a", "it has 2 names")
	refused(dir+"/open/log", "others may write to it")
	refused("/proc/self/log", "is no place for a log file")
	if after := sh(t, "md5sum /etc/passwd"); after != before {
		t.Error("it was written through a link")
	}
	workspace := tempDir(t)
	c := call{dir: workspace, args: []string{"run", "--workspace", workspace, "--profile", withLog(t, "offline", workspace+"/log"), "--", "echo", "ran"}}
	c.run(t).mustRefuse(t, 125, "it holds the log")
	// The control: the same profile where the workspace is not writable.
	c.args = append([]string{"run"}, c.args[3:]...)
	c.run(t).mustSucceed(t)
}

// smallDisk is a file system that is easily full.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := tempDir(t)
	sh(t, fmt.Sprintf("mount -t tmpfs -o size=64k,mode=0755 none %q", dir))
	t.Cleanup(func() { sh(t, "umount "+dir) })
	return dir
}

const fillDisk = "head -c 1M /dev/zero >%[1]s/filler 2>/dev/null || :; "

func TestLogOnAFullDisk(t *testing.T) {
	dir := smallDisk(t)
	profile := withLog(t, "offline", dir+"/log")
	sh(t, fmt.Sprintf(fillDisk, dir))
	r, receipt, events := audited(t, profile, "echo", "ran")
	r.mustRefuse(t, 125, "cannot write the audit log", "no space left")
	if names(events) != "log-failed run-ended" || receipt.text("reason") != "refused" {
		t.Errorf("%s, %v", names(events), receipt)
	}
	sh(t, "rm "+dir+"/filler")
	if r, _, events := audited(t, profile, "echo", "ran"); r.stdout != "ran\n" || names(events) != "run-started run-ended" {
		t.Errorf("control: %+v, %s", r, names(events))
	}
	// Later it is told, and the run goes on.
	unit := detach(t, profile, "sh", "-c", "while ! test -e /tmp/never; do sleep 1; done")
	// The rest of the log's last page is space of its own.
	sh(t, fmt.Sprintf("cd %q; head -c $((4095 - $(stat -c %%s log) %% 4096)) /dev/zero | tr '\\0' ' ' >>log; echo >>log; "+fillDisk, dir, dir))
	sh(t, "systemctl stop "+unit)
	end := lastEvent(t, unit)
	events = journalOf(t, unit)
	if names(events) != "run-started log-failed run-ended" || end.number(t, "PURPLE_LOG_LOST") != 1 || end.text("PURPLE_REASON") != "stopped" {
		t.Fatalf("%s, %v", names(events), end.own())
	}
	if failed := events[1]; failed.text("MESSAGE_ID") != idLogFailed || failed.text("PURPLE_LOG_PATH") != dir+"/log" || !strings.Contains(failed.text("PURPLE_ERROR"), "no space left") {
		t.Errorf("%v", failed.own())
	}
}

// Without an audit nothing is recorded, and the limits hold.
func TestAuditThatIsNotEnabled(t *testing.T) {
	log := logFile(t)
	profile := writeProfile(t, "extends: offline\nresources:\n  memory_limit_bytes: 64M\naudit:\n  enabled: false\n  log_path: "+log+"\n")
	r, receipt, events := audited(t, profile, "python3", "-c", allocate)
	if r.status != 137 || len(events) != 0 {
		t.Errorf("%+v, %v", r, events)
	}
	if _, err := os.Stat(log); err == nil {
		t.Error("there is a log")
	}
	if receipt.text("reason") != "out-of-memory" || receipt["cpu_usec"] == nil {
		t.Errorf("the receipt is the caller's, not the policy's: %v", receipt)
	}
}

func TestDetailLevelWithoutResources(t *testing.T) {
	profile := writeProfile(t, "extends: offline\nresources:\n  memory_limit_bytes: 64M\naudit:\n  detail_level: [network]\n")
	_, _, events := audited(t, profile, "python3", "-c", allocate)
	if names(events) != "run-started run-ended" {
		t.Fatalf("%s", names(events))
	}
	for name := range events[1].own() {
		if strings.HasSuffix(name, "_BYTES") || name == "PURPLE_CPU_USEC" || name == "PURPLE_OOM_KILLS" {
			t.Errorf("there is a field %s", name)
		}
	}
}

func TestDeniedConnectionsAreCountedAtTheEnd(t *testing.T) {
	theWorld(t)
	profile := outgoing(t, "[443]")
	receipt := filepath.Join(tempDir(t), "r.json")
	call{dir: bin, args: []string{"run", "--receipt", receipt, "--profile", profile, "--", filepath.Join(bin, "probe"), "flood", publicWeb + "/9999", "500"}}.run(t).mustSucceed(t)
	told := readReceipt(t, receipt)
	end := lastEvent(t, told.text("unit"))
	if end.number(t, "PURPLE_DENIED_CONNECTIONS") != 500 || end.number(t, "PURPLE_NETWORK_SENT_BYTES") < 0 || end.number(t, "PURPLE_NETWORK_RECEIVED_BYTES") < 0 {
		t.Errorf("%v", end.own())
	}
	if denials, ok := told["denials"].(map[string]any); !ok || denials["connections"] != 500.0 || told["network_sent_bytes"] == nil {
		t.Errorf("%v", told)
	}
}

func TestReceiptOfWhatIsRefused(t *testing.T) {
	file := filepath.Join(tempDir(t), "r.json")
	run := func(args ...string) result {
		return call{args: append([]string{"run", "--receipt", file}, args...)}.run(t)
	}
	run("--profile", "no-such-profile", "--", "true").mustRefuse(t, 125)
	if r := readReceipt(t, file); r["status"] != 125.0 || r["reason"] != "refused" || !strings.Contains(r.text("error"), "no-such-profile") || r["unit"] != "" {
		t.Errorf("%v", r)
	}
	run("--", "no-such-command").mustRefuse(t, 127)
	if r := readReceipt(t, file); r["status"] != 127.0 || r["reason"] != "refused" {
		t.Errorf("%v", r)
	}
	file = "/proc/r.json"
	run("--", "echo", "ran").mustRefuse(t, 125, "cannot write the receipt")
	file = "/dev/null"
	run("--", "echo", "ran").mustRefuse(t, 125, "not a regular file")
	file = filepath.Join(tempDir(t), "r.json")
	run("--detach", "--", "echo", "ran").mustRefuse(t, 125, "--detach")
}

// What is written beside a run is written where the caller has said, or not at all: the
// command can neither change it nor put something in its way.
func TestPlacesTheCommandMayWriteTo(t *testing.T) {
	dir := tempDir(t)
	sh(t, fmt.Sprintf("cd %[1]q; mkdir -p work/deep out alias safe; ln -s work link; mount --bind work alias; chown -R %[2]s: .", dir, caller))
	t.Cleanup(func() { sh(t, "umount "+dir+"/alias") })
	profile := writeProfile(t, "name: places\nextends: offline\nfilesystem: {output_paths: [{host_path: "+dir+"/out, sandbox_path: /output, mode: read-write}]}\n")
	places := map[string]string{ // and what the refusal says
		"work/f.yaml": "where the command may write", "work/deep/f.yaml": "where the command may write", "./work/../work/f.yaml": "where the command may write",
		"out/f.yaml": "where the command may write", "alias/f.yaml": "where the command may write", "alias/deep/f.yaml": "where the command may write",
		"link/f.yaml": "symbolic link", "safe/f.yaml": "",
	}
	for place, want := range places {
		for what, c := range map[string][]string{
			"receipt": {"run", "--receipt", place, "--profile", profile},
			"learn":   {"learn", "--output", place, "--profile", profile},
		} {
			sh(t, fmt.Sprintf("rm -f %q/{work,out,safe}{,/deep}/f.yaml", dir))
			r := call{dir: dir, args: append(c, "--workspace", dir+"/work", "--", "sh", "-c", "echo ran >> deep/ran")}.run(t)
			switch {
			case want == "":
				r.mustSucceed(t)
			case r.status != 125 || !strings.Contains(r.stderr, want):
				t.Errorf("%s in %s: %+v", what, place, r)
			}
			if _, err := os.Stat(filepath.Join(dir, place)); (err == nil) != (want == "") {
				t.Errorf("%s in %s is there: %t", what, place, err == nil)
			}
		}
	}
	if got := sh(t, "cat "+dir+"/work/deep/ran"); got != "ran\nran\n" {
		t.Errorf("%q", got)
	}
	// By another name of the folder than the one that it is bound by.
	log := writeProfile(t, "name: log\nextends: offline\naudit: {log_path: "+dir+"/alias/log}\n")
	call{dir: dir, args: []string{"run", "--profile", log, "--workspace", dir + "/work", "--", "echo", "ran"}}.run(t).mustRefuse(t, 125, "audit.log_path", "where the command may write")
}

// A folder that is moved while the command runs takes nothing of Purple's along.
func TestPlacesThatAreReplaced(t *testing.T) {
	for _, verb := range []string{"run", "learn"} {
		dir := tempDir(t)
		sh(t, fmt.Sprintf("mkdir %[1]q/place %[1]q/work; chown -R %[2]s: %[1]q", dir, caller))
		flag := map[string]string{"run": "--receipt", "learn": "--output"}[verb]
		args := []string{verb, flag, dir + "/place/f.yaml", "--profile", "offline", "--workspace", dir + "/work", "--", "sh", "-c", "echo ran > began; until test -e go; do sleep 0.1; done"}
		r := waiting(t, filepath.Join(bin, "purple"), args, func() {
			eventually(t, "the command has begun", time.Minute, func() bool { _, err := os.Stat(dir + "/work/began"); return err == nil })
			sh(t, fmt.Sprintf("cd %q; mv place moved; mkdir place; chmod 777 place; touch work/go", dir))
		})
		if r.status != 123 || !strings.Contains(r.stderr, "its directory was replaced during the run") {
			t.Errorf("%+v", r)
		}
		if got := sh(t, fmt.Sprintf("ls -A %[1]q/place %[1]q/moved", dir)); strings.Contains(got, "yaml") {
			t.Errorf("%s", got)
		}
	}
}

// journalctl -x explains the events, with the values of their fields.
func TestEventsAreExplained(t *testing.T) {
	const installed = "/usr/local/lib/systemd/catalog/purple-test.catalog"
	sh(t, "install -D -m 0644 ../packaging/purple.catalog "+installed+"; journalctl --update-catalog")
	t.Cleanup(func() { sh(t, "rm "+installed+"; journalctl --update-catalog") })
	_, receipt, _ := audited(t, "memory", "python3", "-c", allocate)
	text := sh(t, "journalctl --sync; journalctl --no-pager -x -u "+receipt.text("unit"))
	for _, want := range []string{
		"A command was started in the sandbox " + receipt.text("unit"), "python3 -c 'b = bytearray", receipt.text("policy_hash"),
		"has reached its limit: memory", "is 67108864 (bytes", "has ended: out-of-memory, status 137",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "@PURPLE_") {
		t.Errorf("a field that is not there:\n%s", text)
	}
}

// Behind sudo, a log and a receipt are the user's, and go only where they may.
func TestLogAndReceiptUnderSudo(t *testing.T) {
	const user = "purple-audit-user"
	sh(t, "id "+user+" >/dev/null 2>&1 || useradd --create-home --uid 4322 "+user)
	t.Cleanup(func() {
		sh(t, "userdel --remove "+user+" 2>/dev/null || :; rm -rf /etc/purple/policies/audit-sudo.yaml /var/log/purple-audit-sudo")
	})
	dir := tempDir(t)
	sh(t, fmt.Sprintf("chmod 755 %q; install -d -o %s -g %s %q/mine", filepath.Dir(dir), user, user, dir))
	run := func(profile, receipt string) result {
		return call{dir: dir + "/mine", env: []string{"SUDO_UID=4322"}, args: []string{"run", "--receipt", receipt, "--profile", profile, "--", "echo", "ran"}}.run(t)
	}
	run(withLog(t, "offline", dir+"/mine/logs/log"), dir+"/mine/r.json").mustSucceed(t)
	if got := sh(t, fmt.Sprintf("cd %q/mine; stat -c '%%U %%G' logs logs/log r.json", dir)); got != strings.Repeat(user+" "+user+"\n", 3) {
		t.Errorf("%q", got)
	}
	run("offline", dir+"/r.json").mustRefuse(t, 125, "cannot write the receipt", "permission denied")
	run(withLog(t, "offline", dir+"/log"), dir+"/mine/r.json").mustRefuse(t, 125, "audit.log_path", "permission denied")
	// A profile of the system's is root's word.
	sh(t, fmt.Sprintf("mkdir -p /etc/purple/policies; cp %q /etc/purple/policies/audit-sudo.yaml", withLog(t, "offline", "/var/log/purple-audit-sudo/log")))
	run("audit-sudo", dir+"/mine/r.json").mustSucceed(t)
	if got := sh(t, "stat -c '%U %a' /var/log/purple-audit-sudo/log"); got != "root 640\n" {
		t.Errorf("%q", got)
	}
}

// Nothing that the caller's session would run is writable, by its own name or by a link's.
func TestSessionPlacesAreNotWritable(t *testing.T) {
	home := homeOf(caller)
	sh(t, fmt.Sprintf("cd %[1]s; mkdir -p .config/containers/systemd .local/share/dbus-1/services .local/bin dotfiles/shell mine; mv .inputrc .inputrc.kept 2>/dev/null || :; echo set > dotfiles/shell/inputrc; ln -s dotfiles/shell/inputrc .inputrc; chown -Rh %[2]s: .config .local dotfiles mine .inputrc; chmod 777 mine", home, caller))
	t.Cleanup(func() {
		sh(t, "cd "+home+"; rm -rf .config/containers .local/share/dbus-1 .local/bin dotfiles mine .inputrc; mv .inputrc.kept .inputrc 2>/dev/null || :")
	})
	for dir, want := range map[string]string{
		".config/containers/systemd": "podman", ".local/share/dbus-1/services": "session bus", ".local/bin": "who calls a program", "dotfiles/shell": "/.inputrc", "dotfiles": "/.inputrc",
	} {
		profile := writeProfile(t, "name: session\nextends: offline\nfilesystem: {output_paths: [{host_path: "+home+"/"+dir+", sandbox_path: /output, mode: read-write}]}\n")
		call{args: []string{"run", "--profile", profile, "--", "echo", "ran"}}.run(t).mustRefuse(t, 125, want, "outside of the sandbox")
		call{args: []string{"run", "--workspace", home + "/" + dir, "--", "echo", "ran"}}.run(t).mustRefuse(t, 125, want, "outside of the sandbox")
	}
	call{args: []string{"run", "--profile", "offline", "--workspace", home + "/mine", "--", "sh", "-c", "echo ran > made"}}.run(t).mustSucceed(t)
}
