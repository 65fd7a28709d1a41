package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

const testUnit = "purple-web-0123abcd.service"

// fakeAccounts are control groups with these files, as /proc/self/cgroup names
// the groups.
func fakeAccounts(t *testing.T, groups map[string]string, files map[string]string) *accounts {
	t.Helper()
	a := &accounts{unit: testUnit, groups: groups, root: t.TempDir()}
	for name, content := range files {
		file := filepath.Join(a.root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

const own, slice = "/purple.slice/" + testUnit, "/purple.slice"

var (
	v2Groups = map[string]string{"": own}
	v2Files  = map[string]string{
		own + "/cpu.stat":      "usage_usec 123456\nuser_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 5000\n",
		own + "/memory.peak":   "4096\n",
		own + "/memory.events": "low 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n",
		own + "/io.stat":       "254:0 rbytes=4096 wbytes=100 rios=1 wios=1 dbytes=7 dios=0\n8:0 rbytes=1 wbytes=2\n8:16\n",
		own + "/pids.current":  "12\n",
		own + "/pids.peak":     "40\n",
	}
	v1Groups = map[string]string{"": own, "name=systemd": own, "memory": own, "pids": own, "cpu": own, "cpuacct": slice, "blkio": own}
	v1Files  = map[string]string{
		"unified" + own + "/cpu.stat":                        "usage_usec 123456\n",
		"memory" + own + "/memory.max_usage_in_bytes":        "4096\n",
		"memory" + own + "/memory.oom_control":               "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"cpu" + own + "/cpu.stat":                            "nr_periods 9\nnr_throttled 4\nthrottled_time 5000999\n",
		"blkio" + own + "/blkio.throttle.io_service_bytes":   "8:0 Read 4097\n8:0 Write 60\n8:0 Sync 9\n8:16 Write 42\n8:0 Total 4157\nTotal 4199\n",
		"pids" + own + "/pids.current":                       "12\n",
		"pids" + own + "/pids.peak":                          "40\n",
		"memory" + slice + "/memory.max_usage_in_bytes":      "999999\n",
		"cpuacct" + slice + "/cpuacct.usage":                 "999999\n",
		"blkio" + slice + "/blkio.throttle.io_service_bytes": "8:0 Read 999999\n",
	}
)

func TestAccounts(t *testing.T) {
	for name, a := range map[string]*accounts{"v2": fakeAccounts(t, v2Groups, v2Files), "hybrid": fakeAccounts(t, v1Groups, v1Files)} {
		want := journal.Usage{
			CPU: journal.Known(123456), MemoryPeak: journal.Known(4096), IORead: journal.Known(4097), IOWritten: journal.Known(102),
		}
		if got := a.usage(); got != want {
			t.Errorf("%s: %+v", name, got)
		}
		periods, usec := a.throttled()
		now, peak := a.tasks(), a.mostTasks()
		got := []journal.Amount{a.oomKills(), periods, usec, now, peak}
		for i, want := range []uint64{1, 4, 5000, 12, 40} {
			if got[i] != journal.Known(want) {
				t.Errorf("%s: %d: %+v, want %d", name, i, got[i], want)
			}
		}
	}
}

// What is not there is not known, and what is there of others is not told.
func TestAccountsOfOthers(t *testing.T) {
	groups := map[string]string{}
	for controller := range v1Groups {
		groups[controller] = slice
	}
	for name, a := range map[string]*accounts{
		"empty":  fakeAccounts(t, v2Groups, nil),
		"broken": fakeAccounts(t, v2Groups, map[string]string{own + "/cpu.stat": "usage_usec -1\n", own + "/memory.peak": "max\n"}),
		"others": fakeAccounts(t, groups, v1Files),
	} {
		periods, usec := a.throttled()
		now, peak := a.tasks(), a.mostTasks()
		if u := a.usage(); u != (journal.Usage{}) || a.oomKills().Known || periods.Known || usec.Known || now.Known || peak.Known {
			t.Errorf("%s: %+v", name, u)
		}
	}
	// Nothing was read or written, which is not the same.
	idle := fakeAccounts(t, v2Groups, map[string]string{own + "/io.stat": ""}).usage()
	if idle.IORead != journal.Known(0) || idle.IOWritten != journal.Known(0) {
		t.Errorf("%+v", idle)
	}
}

func TestParseProcessIO(t *testing.T) {
	const text = "rchar: 9\nwchar: 9\nsyscr: 9\nsyscw: 9\nread_bytes: 4096\nwrite_bytes: 12288\ncancelled_write_bytes: 8192\n"
	if read, written := parseProcessIO(text); read != journal.Known(4096) || written != journal.Known(4096) {
		t.Errorf("%+v, %+v", read, written)
	}
	if read, written := parseProcessIO(""); read.Known || written.Known {
		t.Errorf("%+v, %+v", read, written)
	}
	// This process can see its own.
	if read, written := processIO(); !read.Known || !written.Known {
		t.Errorf("%+v, %+v", read, written)
	}
}

func TestParseLinks(t *testing.T) {
	const heading = "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
	const lo = "    lo:     900       9    0    0    0     0          0         0      900       9    0    0    0     0       0          0\n"
	received, sent := parseLinks(heading + lo + "  eth0:1234 5 0 0 0 0 0 0 567 8 0 0 0 0 0 0\n")
	if received != journal.Known(1234) || sent != journal.Known(567) {
		t.Errorf("%+v, %+v", received, sent)
	}
	if received, sent := parseLinks(heading + lo); received.Known || sent.Known {
		t.Errorf("%+v, %+v", received, sent)
	}
}

// told collects what a limitWatch tells.
type told map[journal.Limit]journal.Amount

func (t told) add(limit journal.Limit, _ uint64, count journal.Amount) {
	if _, again := t[limit]; again {
		panic("told twice: " + limit)
	}
	t[limit] = count
}

var testLimits = spec.Limits{Memory: 1 << 20, Tasks: 20, CPU: 500_000, Timeout: 1e6}

func TestLimitWatchTellsOnce(t *testing.T) {
	files := map[string]string{own + "/pids.peak": "1000\n", own + "/pids.current": "1000\n"}
	for name, content := range v2Files {
		if _, ok := files[name]; !ok {
			files[name] = content
		}
	}
	got := told{}
	w := newLimitWatch(fakeAccounts(t, v2Groups, files), testLimits, unix.Getpid(), 0, got.add)
	for range 3 {
		w.look()
	}
	w.reach(journal.LimitTime, 1, journal.Amount{})
	w.finish(1)
	if len(got) != 4 || got[journal.LimitMemory] != journal.Known(1) || got[journal.LimitCPU] != journal.Known(4) {
		t.Errorf("%+v", got)
	}
	r := w.reached()
	if r.Limits != "memory tasks cpu time" || r.OOMKills != journal.Known(1) || r.ThrottledTime != journal.Known(5000) {
		t.Errorf("%+v", r)
	}
}

func TestLimitWatchOfARunThatReachesNone(t *testing.T) {
	files := map[string]string{
		own + "/memory.events": "oom_kill 0\n", own + "/cpu.stat": "nr_throttled 0\nthrottled_usec 0\n",
		own + "/pids.current": "20\n", own + "/pids.peak": "20\n",
	}
	got := told{}
	w := newLimitWatch(fakeAccounts(t, v2Groups, files), testLimits, unix.Getpid(), 0, got.add)
	w.look()
	w.finish(5)
	if len(got) != 0 || w.reached().Limits != "" {
		t.Errorf("%+v", got)
	}
	// What is not limited is not reached, whatever the machine was out of.
	w = newLimitWatch(fakeAccounts(t, v2Groups, v2Files), spec.Limits{}, unix.Getpid(), 0, got.add)
	w.finish(5)
	if len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// A disk that has moved all that it may, for long enough, is at its limit.
func TestIOWatch(t *testing.T) {
	const v1Name = "/blkio.throttle.io_service_bytes"
	for _, host := range []struct {
		groups map[string]string
		file   string
		text   string
	}{
		{v2Groups, own + "/io.stat", "254:0 rbytes=%d wbytes=%d rios=1 wios=1 dbytes=0 dios=0\n8:0 rbytes=0 wbytes=0\n"},
		{v1Groups, "blkio" + own + v1Name, "254:0 Read %d\n254:0 Write %d\n254:0 Total 99999999\nTotal 99999999\n"},
	} {
		for _, c := range []struct {
			read, written int
			after         time.Duration
			want          bool
		}{
			{read: 1000, after: time.Second, want: true},
			{written: 900, after: time.Second, want: true},
			{read: 899, written: 899, after: time.Second},
			{read: 1000, after: 1200 * time.Millisecond},
			{written: 600, after: 600 * time.Millisecond, want: true},
			{written: 5000, after: 400 * time.Millisecond}, // a slice of the kernel's, perhaps
		} {
			// What was moved before the command started is not its own.
			a := fakeAccounts(t, host.groups, map[string]string{host.file: fmt.Sprintf(host.text, 5000, 5000)})
			begin := time.Now()
			w := newIOWatch(a, 1000, begin)
			text := fmt.Sprintf(host.text, 5000+c.read, 5000+c.written)
			if err := os.WriteFile(filepath.Join(a.root, host.file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := w.look(begin.Add(c.after)); got != c.want {
				t.Errorf("%s: %+v: %v", host.file, c, got)
			}
			if w.look(begin.Add(c.after+time.Second)) && c.after >= leastWindow {
				t.Errorf("%s: %+v: idle, and at the limit", host.file, c)
			}
		}
	}
	if a := fakeAccounts(t, v2Groups, nil); newIOWatch(a, 1, time.Now()).look(time.Now().Add(time.Hour)) {
		t.Error("nothing is known, and it is at the limit")
	}
}

// Between two looks the highest number of tasks tells, but not that of the start.
func TestLimitWatchRemembersThePeak(t *testing.T) {
	for _, c := range []struct {
		first, last string
		ofInit      uint64
		want        int
	}{
		{"10\n", "1000\n", 5, 1},
		{"1000\n", "1000\n", 5, 0}, // nothing but the start
		{"10\n", "1000\n", 0, 0},   // init could not say how many are its own
		{"10\n", "20\n", 5, 0},
		{"10\n", "", 5, 0},
	} {
		got := told{}
		a := fakeAccounts(t, v2Groups, map[string]string{own + "/pids.peak": c.first, own + "/pids.current": "10\n"})
		w := newLimitWatch(a, testLimits, unix.Getpid(), 0, got.add)
		if err := os.WriteFile(filepath.Join(a.root, own, "pids.peak"), []byte(c.last), 0o644); err != nil {
			t.Fatal(err)
		}
		if w.finish(c.ofInit); len(got) != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestThreads(t *testing.T) {
	if n := threads(unix.Getpid()); n == 0 {
		t.Error("of this process: 0")
	}
	if n := threads(1 << 30); n != 0 {
		t.Errorf("of none: %d", n)
	}
}
