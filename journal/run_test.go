package journal

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var hash = strings.Repeat("0123456789abcdef", 4)

var (
	started = RunStarted{
		Run: run, PolicyHash: hash, ProfileFile: "/etc/purple/policies/w\n.yaml", Command: `sh -c $'a\nMESSAGE=forged'`,
		Limits: Limits{Memory: Known(256 << 20), Tasks: Known(64), CPU: Known(500_000), IO: Known(2_000_000), Time: Known(3600e6)},
	}
	ended = RunEnded{
		Run: run, PolicyHash: hash, Reason: ReasonSignal, Status: 143, Signal: 15, Error: "x", Wall: Known(1_234_567),
		Usage:   Usage{CPU: Known(50_000), MemoryPeak: Known(12 << 20), IORead: Known(0), IOWritten: Known(4096), NetReceived: Known(7), NetSent: Known(8)},
		Reached: Reached{Limits: "memory cpu", OOMKills: Known(1), Throttled: Known(9), ThrottledTime: Known(12345)},
		Denials: Denials{Connections: Known(3), Syscalls: Known(14), Paths: Known(3), Capabilities: Known(1)}, LogLost: Known(2),
	}
	learning     = Run{Unit: run.Unit, Profile: run.Profile, RunID: run.RunID, Learning: true}
	lifeExamples = []Event{
		started, RunStarted{Run: run, PolicyHash: hash},
		LimitReached{Run: run, Limit: LimitMemory, Value: 256 << 20, Count: Known(1)},
		LimitReached{Run: run, Limit: LimitTime, Value: 2e6},
		RunStarted{Run: learning, PolicyHash: hash}, RunEnded{Run: learning, PolicyHash: hash, Reason: ReasonExited},
		ended, RunEnded{Run: run, PolicyHash: hash, Reason: ReasonExited},
		LogFailed{Run: run, Path: "/var/log/x\n", Error: "no space left on device"},
	}
)

// optional tells whether an event may lack a field: an amount that is not
// known, a signal or an error that there was not.
func optional(e Event, name string) bool {
	if name == FieldLearning {
		return true
	}
	switch e.(type) {
	case RunStarted:
		return strings.HasPrefix(name, FieldLimit+"_") || name == FieldProfileFile
	case LimitReached:
		return name == FieldCount
	case RunEnded:
		needed := []string{FieldUnit, FieldProfile, FieldRunID, FieldPolicyHash, FieldReason, FieldStatus, FieldLimitsReached}
		return strings.HasPrefix(name, "PURPLE_") && name != FieldEvent && !slices.Contains(needed, name)
	}
	return false
}

func TestMessagesOfARun(t *testing.T) {
	unlimited, short := started, ended
	unlimited.Limits = Limits{}
	short.Usage, short.Reached, short.Denials, short.Wall = Usage{}, Reached{}, Denials{}, Amount{}
	with := func(reason Reason, status uint8) RunEnded {
		e := short
		e.Reason, e.Status = reason, status
		return e
	}
	for want, e := range map[string]Event{
		`Started under the profile web: sh -c $'a\nMESSAGE=forged'; limits: memory 256M, 64 tasks, 50% CPU, IO 1.9M/s, time 1h0m0s`: started,
		`Started under the profile web: sh -c $'a\nMESSAGE=forged'; limits: none`:                                                   unlimited,
		"Started to learn which system calls it makes, NOT confined to those of the profile web: x; limits: none":                   RunStarted{Run: learning, Command: "x"},
		"Learning run: Ended with status 0":        RunEnded{Run: learning, Reason: ReasonExited},
		"Out of memory: the limit is 256M":         LimitReached{Limit: LimitMemory, Value: 256 << 20},
		"Reached the limit of 64 tasks":            LimitReached{Limit: LimitTasks, Value: 64},
		"Throttled: the limit is 12.5% CPU":        LimitReached{Limit: LimitCPU, Value: 125_000},
		"Throttled: the limit of block IO is 2M/s": LimitReached{Limit: LimitIO, Value: 2 << 20},
		"Reached the limit of time, 2s":            LimitReached{Limit: LimitTime, Value: 2_000_000},
		"Ended with status 3":                      with(ReasonExited, 3),
		"Ended by signal 15":                       short,
		"Stopped at the timeout":                   with(ReasonTimeout, 124),
		"Killed: out of memory":                    with(ReasonOOM, 137),
		"Stopped":                                  with(ReasonStopped, 143),
		"Killed with its supervisor":               with(ReasonKilled, 137),
		"The outcome is not known: x":              with(ReasonLost, 123),
		"Refused with status 126: x":               with(ReasonRefused, 126),
		`Cannot write to the log /x\x0a: no disk`:  LogFailed{Path: "/x\n", Error: "no disk"},
		"Ended by signal 15 after 1.23s, CPU 50ms, memory peak 12M, read 0B, written 4K, received 7B, sent 8B; limits reached: memory cpu; denied packets: 3; denied system calls: 14; denied accesses to paths: 3; denied capabilities: 1": ended,
	} {
		if got := Fields(e)[0].Value; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

func TestFromFieldsRefusesOfARun(t *testing.T) {
	for _, c := range []struct {
		e                 Event
		name, value, want string
	}{
		{started, FieldPolicyHash, strings.Repeat("A", 64), "is no SHA-256"},
		{started, FieldPolicyHash, "", "is no SHA-256"},
		{started, FieldLimitMemory, "infinity", FieldLimitMemory},
		{started, FieldLearning, "0", "is not 1"},
		{ended, FieldReason, "bored\x1b[2J", "is not known"},
		{ended, FieldStatus, "256", "out of range"},
		{ended, FieldSignal, "0", "is no signal"},
		{ended, FieldCPU, "", FieldCPU},
		{ended, FieldLimitsReached, "cpu memory", "is no list"},
		{ended, FieldLimitsReached, "cpu\x1b[2J", "is no list"},
		{LimitReached{Run: run, Limit: LimitCPU}, FieldLimit, "patience", "is not known"},
	} {
		m := asMap(Fields(c.e))
		m[c.name] = c.value
		if e, err := FromFields(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%q: %v, %v, want %q", c.name, c.value, e, err, c.want)
		}
	}
}

func TestLineHasTheFields(t *testing.T) {
	at := time.Date(2026, 11, 25, 1, 2, 3, 4000, time.UTC)
	for _, e := range examples {
		line := Line(e, at)
		if strings.Count(string(line), "\n") != 1 {
			t.Fatalf("%q", line)
		}
		var got map[string]string
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		if got["time"] != "2026-11-25T01:02:03.000004Z" {
			t.Errorf("%s", line)
		}
		if again, err := FromFields(got); err != nil || again != e {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	}
	if line := string(Line(LogFailed{Path: "/\xff", Error: "x"}, at)); !strings.Contains(line, `"PURPLE_LOG_PATH":"/\\xff"`) {
		t.Errorf("%s", line)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\"\\\n\x7f\u2028<é")
	f.Fuzz(func(t *testing.T, text string) {
		var got map[string]string
		line := Line(LogFailed{Path: text}, time.Unix(0, 0))
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want := text
		if !utf8.ValidString(text) {
			want = Escape(text)
		}
		if got[FieldLogPath] != want || strings.Count(string(line), "\n") != 1 {
			t.Errorf("%q became %q", want, got[FieldLogPath])
		}
	})
}

func TestCommandText(t *testing.T) {
	argv := [][]byte{[]byte("sh"), []byte("-c"), []byte("a\nb"), []byte("…"), {0xff}}
	got := CommandText(argv)
	if want := `sh -c $'a\nb' '…' $'\377'`; got != want {
		t.Errorf("%q", got)
	}
	out, err := exec.Command("bash", "-c", `printf '%s\0' `+got).Output()
	if err != nil || string(out) != "sh\x00-c\x00a\nb\x00…\x00\xff\x00" {
		t.Errorf("%q, %v", out, err)
	}
	many := make([][]byte, 100_000)
	for i := range many {
		many[i] = []byte("x")
	}
	for _, argv := range [][][]byte{many, {[]byte(strings.Repeat("x", 1<<20)), []byte("y")}} {
		if got := CommandText(argv); len(got) > mostCommand+10 || !strings.HasSuffix(got, "…") {
			t.Errorf("%d bytes: …%q", len(got), got[len(got)-10:])
		}
	}
}

func TestJoinLimits(t *testing.T) {
	if got := JoinLimits(map[Limit]bool{LimitTime: true, LimitMemory: true, LimitCPU: false}); got != "memory time" {
		t.Errorf("%q", got)
	}
}
