package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
)

const (
	web1 = "purple-web-00000001.service"
	web2 = "purple-web-00000002.service"
	node = "purple-node-00000003.service"
	hex4 = "purple-00000001-00000004.service" // a profile that looks like a run id
)

func TestResolve(t *testing.T) {
	names := []string{web1, web2, node, hex4, "purplenet.service"}
	for arg, want := range map[string]string{
		web1: web1, strings.TrimSuffix(web1, ".service"): web1,
		"00000002": web2, "node": node, "00000003": node, "00000004": hex4,
	} {
		if got, err := resolve(arg, names); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", arg, got, err, want)
		}
	}
	for arg, want := range map[string]string{
		"web":                                 `cannot tell which run "web" is: purple-web-00000001.service, purple-web-00000002.service; name it by its unit or its run id`,
		"00000001":                            `cannot tell which run "00000001" is: purple-web-00000001.service, purple-00000001-00000004.service; name it`,
		"we":                                  `cannot find a run "we": what runs is purple-web-00000001.service, `,
		"purple-web-00000009":                 `cannot find a run "purple-web-00000009": what runs is`,
		"purple-web-00000001.service.service": `cannot find a run`,
		"purple-web":                          `cannot find a run`,
	} {
		if got, err := resolve(arg, names); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %q, %v", arg, got, err)
		}
	}
	if _, err := resolve("web", nil); err == nil || err.Error() != `cannot find a run "web": nothing runs` {
		t.Error(err)
	}
	many := slices.Repeat([]string{web1}, 12)
	if _, err := resolve("x", many); err == nil || !strings.HasSuffix(err.Error(), " and 7 more") {
		t.Error(err)
	}
}

func TestCheckRunName(t *testing.T) {
	for _, arg := range []string{web1, "00000001", "ai-dev-safe", "a.b_c"} {
		if err := checkRunName(arg); err != nil {
			t.Error(err)
		}
	}
	for _, arg := range []string{"", "a/b", "*", "purple-*", "a b", "a\x1b[2J", "-é", "A", "x@y", "UNIT=x"} {
		if err := checkRunName(arg); err == nil || strings.ContainsRune(err.Error(), '\x1b') {
			t.Errorf("%q: %v", arg, err)
		}
	}
}

func TestCompletions(t *testing.T) {
	var runs []units.Info
	for _, unit := range []string{web1, web2, node} {
		profile, id, _ := units.ParseName(unit)
		runs = append(runs, units.Info{Unit: unit, Profile: profile, RunID: id})
	}
	names := func(given []string, prefix string) (names []string) {
		for _, c := range completions(runs, given, prefix) {
			name, _, _ := strings.Cut(c, "\t")
			names = append(names, name)
		}
		return names
	}
	if got := names(nil, ""); !slices.Equal(got, []string{web1, web2, node, "node"}) {
		t.Errorf("%q", got)
	}
	if got := names(nil, "purple-w"); !slices.Equal(got, []string{web1, web2}) {
		t.Errorf("%q", got)
	}
	if got := names([]string{web1, "node"}, ""); !slices.Equal(got, []string{web2, node}) {
		t.Errorf("%q", got)
	}
	if got := names(nil, "x"); got != nil {
		t.Errorf("%q", got)
	}
}

// hostile has what could steer a terminal: C0, DEL, C1 as a byte and as a
// character, a change of direction.
const hostile = "a\x1b[31m\x7f\x9b\u009b\u202e\r\b\nb'\\"

func TestQuoteCommand(t *testing.T) {
	for want, argv := range map[string][]string{
		"":                         nil,
		"python3 -m http.server":   {"python3", "-m", "http.server"},
		"sh -c 'echo $HOME'":       {"sh", "-c", "echo $HOME"},
		`printf '' 'it'\''s' 'é'`:  {"printf", "", "it's", "é"},
		`'(active)' 'a b' '~' '#'`: {"(active)", "a b", "~", "#"},
		`$'a\033[31m\177\233\302\233\342\200\256\015\010\nb\'\\'`: {hostile},
	} {
		if got := journal.QuoteCommand(argv); got != want {
			t.Errorf("%q: %s, want %s", argv, got, want)
		}
	}
}

// bash reads the very same bytes back.
func TestQuoteCommandForBash(t *testing.T) {
	argv := []string{hostile, "", "\x01" + "1", "é", "a\tb", "\xff", "$x`y`", "!", "…"}
	out, err := exec.Command("bash", "-c", `printf '%s\0' `+journal.QuoteCommand(argv)).Output()
	if err != nil || string(out) != strings.Join(argv, "\x00")+"\x00" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1K", 1536: "1.5K", 512 << 20: "512M", 3<<20 + 1<<17: "3.1M", 1 << 40: "1T", 1<<64 - 1: "16E",
	} {
		if got := journal.Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0.00s", 1_234_000_000: "1.23s", 61_900_000_000: "1m1s", 3_600_000_000_000: "1h0m0s"} {
		if got := cpuText(&n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	n, limit := uint64(1024), uint64(4096)
	if got := ofLimit(journal.Bytes, &n, &limit) + " " + ofLimit(journal.Bytes, &n, nil) + " " + ofLimit(journal.Bytes, nil, &limit) + " " + cpuText(nil); got != "1K/4K 1K -/4K -" {
		t.Error(got)
	}
	if got := shareText(&n, &limit) + " " + shareText(nil, &limit) + " " + shareText(&n, nil); got != "25.0 - -" {
		t.Error(got)
	}
}

func TestSince(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.FixedZone("", 3600))
	morning, before := now.Add(-23*time.Hour).UTC(), now.Add(-24*time.Hour).UTC()
	if got := sinceText(nil, now) + " " + sinceText(&morning, now) + " " + sinceText(&before, now); got != "- 13:00:00 2026-03-03 12:00" {
		t.Error(got)
	}
}

func TestPsTable(t *testing.T) {
	n := uint64(7)
	got := psTable([]listedRun{
		{shownRun: shownRun{Unit: web1, Profile: "web", State: "active", Tasks: &n}, Denials: &n, Command: "sleep 1"},
		{shownRun: shownRun{Unit: node, Profile: "node", State: "activating"}},
	}, time.Now())
	want := []string{
		"UNIT                          PROFILE  SINCE  CPU  MEMORY  TASKS  DENIED  COMMAND",
		"purple-web-00000001.service   web      -      -    -       7      7       sleep 1",
		"purple-node-00000003.service  node     -      -    -       -      -       (activating)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

// Whatever is drawn fits the screen, or going up would end elsewhere.
func TestDrawOver(t *testing.T) {
	table := []string{"HEAD", "a long line", "b"}
	for _, c := range []struct {
		drawn, columns, rows, lines int
		want                        string
	}{
		{0, 80, 24, 3, "\r\x1b[JHEAD\na long line\nb\n"},
		{3, 6, 24, 3, "\x1b[3A\r\x1b[JHEAD\na lon…\nb\n"},
		{2, 80, 3, 2, "\x1b[2A\r\x1b[JHEAD\na long line\n"},
		{0, 80, 1, 1, "\r\x1b[JHEAD\n"},
	} {
		if got, lines := drawOver(c.drawn, table, c.columns, c.rows); got != c.want || lines != c.lines {
			t.Errorf("%+v: %q, %d", c, got, lines)
		}
	}
}

func TestCPUPercent(t *testing.T) {
	begin := time.Now()
	run := func(nsec uint64) units.Info { return units.Info{Unit: web1, Since: begin, CPUNSec: &nsec} }
	first := (*sample)(nil).next([]units.Info{run(1e9), {Unit: web2, Since: begin}}, begin.Add(4*time.Second))
	if p := first.runs[0].CPUPercent; p == nil || *p != 25 || first.runs[1].CPUPercent != nil {
		t.Errorf("%+v", first.runs)
	}
	second := first.next([]units.Info{run(2.5e9)}, begin.Add(5*time.Second))
	if p := second.runs[0].CPUPercent; p == nil || *p != 150 {
		t.Errorf("%v", p)
	}
	// Nothing is made up of a counter that went back.
	if p := second.next([]units.Info{run(0)}, begin.Add(6*time.Second)).runs[0].CPUPercent; p != nil {
		t.Errorf("%v", *p)
	}
}

func TestLoggedLine(t *testing.T) {
	for want, e := range map[string]journal.Entry{
		`output a\x1b[2J	b`: {"_SYSTEMD_UNIT": web1, "_TRANSPORT": "stdout", "MESSAGE": "a\x1b[2J\tb"},
		`output \x9b\x0ax`:  {"_SYSTEMD_UNIT": web1, "_TRANSPORT": "stdout", "MESSAGE": "\x9b\nx", "PURPLE_EVENT": "no"},
		`output <0>panic`:   {"_SYSTEMD_UNIT": web1, "MESSAGE": "<0>panic"},
		`purple purple: no`: {"_SYSTEMD_UNIT": web1, "_TRANSPORT": "stdout", "SYSLOG_IDENTIFIER": "purple-init", "MESSAGE": "purple: no"},
		`output purple: x`:  {"_SYSTEMD_UNIT": web1, "_TRANSPORT": "stdout", "SYSLOG_IDENTIFIER": "purple-command", "MESSAGE": "purple: x"},
		`purple Denied`:     {"_SYSTEMD_UNIT": web1, "_TRANSPORT": "journal", "PURPLE_EVENT": "connection-denied", "MESSAGE": "Denied"},
		`systemd Started`:   {"_SYSTEMD_UNIT": "init.scope", "_TRANSPORT": "journal", "PURPLE_EVENT": "x", "MESSAGE": "Started"},
		`purple Killed`:     {"_SYSTEMD_UNIT": "session-1.scope", "_UID": "0", "OBJECT_SYSTEMD_UNIT": web1, "_TRANSPORT": "journal", "PURPLE_EVENT": "run-ended", "MESSAGE": "Killed"},
		`systemd Killed`:    {"_SYSTEMD_UNIT": "session-1.scope", "_UID": "1000", "OBJECT_SYSTEMD_UNIT": web1, "_TRANSPORT": "journal", "PURPLE_EVENT": "run-ended", "MESSAGE": "Killed"},
	} {
		e["__REALTIME_TIMESTAMP"] = "1700000000000001"
		line, err := inSystem(web1).newLine(e)
		if err != nil || line.Source+" "+line.Message != want || line.Time.UnixMicro() != 1700000000000001 {
			t.Errorf("%+v, %v; want %s", line, err, want)
		}
		if (line.Event != "") != (line.Source == "purple" && e["_TRANSPORT"] == "journal") {
			t.Errorf("event %q of %s", line.Event, line.Source)
		}
	}
	if _, err := inSystem(web1).newLine(journal.Entry{}); err == nil {
		t.Error("an entry without a time")
	}
}

func TestEachEntry(t *testing.T) {
	var got []string
	each := func(e journal.Entry) error { got = append(got, e["A"]); return nil }
	if err := eachEntry(strings.NewReader("{\"A\":\"1\"}\n{\"A\":\"2\"}\n{\"A\":"), each); err != nil || !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("%q, %v", got, err)
	}
	if err := eachEntry(strings.NewReader("-- No entries --\n"), each); err == nil {
		t.Error("no JSON is read as an entry")
	}
}

// fakeProcess writes what commandLine reads of a process.
func fakeProcess(t *testing.T, proc string, pid, began int, name, cmdline, unit string, children ...string) {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	for file, content := range map[string]string{
		"stat":    fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0", pid, name, began),
		"cmdline": cmdline,
		"cgroup":  "9:name=systemd:/purple.slice/" + unit + "\n0::/\n",
	} {
		writeFake(t, filepath.Join(dir, file), content)
	}
	for i, list := range children {
		writeFake(t, filepath.Join(dir, "task", fmt.Sprint(pid+i), "children"), list)
	}
}

func writeFake(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCommandLine(t *testing.T) {
	proc := t.TempDir()
	run := units.Info{Unit: web1, MainPID: 10, Since: time.Now()}
	fakeProcess(t, proc, 10, 100, "purple-init", "purple-init\x00", web1, "", "20 ")
	fakeProcess(t, proc, 20, 101, "exe", "purple-init\x00init\x00", web1, "29 31 ", "30 ")
	// An orphan that init inherited, with a lower id and a name that poses as fields.
	fakeProcess(t, proc, 29, 900, "x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0", "orphan\x00", web1)
	fakeProcess(t, proc, 31, 901, "x", "orphan\x00", web1)
	fakeProcess(t, proc, 30, 102, "sh", "sh\x00-c\x00\x00a b\x00", web1)
	if got := commandLine(proc, run); !slices.Equal(got, []string{"sh", "-c", "", "a b"}) {
		t.Errorf("%q", got)
	}
	writeFake(t, filepath.Join(proc, "30", "cmdline"), strings.Repeat("x", 9000))
	if got := commandLine(proc, run); len(got) != 2 || len(got[0]) != mostCommandLine || got[1] != "…" {
		t.Errorf("%q", got)
	}
	writeFake(t, filepath.Join(proc, "30", "cmdline"), "")
	if got := commandLine(proc, run); got != nil {
		t.Errorf("of a process that is gone: %q", got)
	}
}

func TestCommandLineOfNoRun(t *testing.T) {
	proc := t.TempDir()
	fakeProcess(t, proc, 10, 100, "purple-init", "purple-init\x00", web1, "20 ")
	fakeProcess(t, proc, 20, 101, "exe", "purple-init\x00init\x00", web1, "30 ")
	fakeProcess(t, proc, 30, 102, "bash", "bash\x00--secret\x00", "x"+web1)
	for name, run := range map[string]units.Info{
		"other unit":    {Unit: web1, MainPID: 10, Since: time.Now()},
		"not started":   {Unit: "x" + web1, MainPID: 10},
		"no process":    {Unit: "x" + web1, Since: time.Now()},
		"gone":          {Unit: "x" + web1, MainPID: 11, Since: time.Now()},
		"without child": {Unit: "x" + web1, MainPID: 30, Since: time.Now()},
	} {
		if got := commandLine(proc, run); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}
