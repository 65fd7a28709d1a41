package confine

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

var testRun = journal.Run{Unit: "purple-web-0123abcd.service", Profile: "web", RunID: "0123abcd"}

func numberOf(t *testing.T, name string) int32 {
	t.Helper()
	nr, ok := syscalls.Number(runtime.GOARCH, name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	return int32(nr)
}

func TestParseStatus(t *testing.T) {
	const status = "Name:\tnode\\n\\\\x\x1b\nUmask:\t0022\nTgid:\t4711\nNgid:\t0\nPid:\t4712\nNStgid:\t4711\t3\nNSpid:\t4712\t4\n"
	for text, want := range map[string]identity{
		status: {comm: [16]byte{'n', 'o', 'd', 'e', '\n', '\\', 'x', 0x1b}, pid: 4711, sandboxPID: 3},
		strings.Replace(status, "4711\t3\n", "4711\t3\t1\n", 1): {comm: [16]byte{'n', 'o', 'd', 'e', '\n', '\\', 'x', 0x1b}, pid: 4711, sandboxPID: 3},
		"Name:\t0123456789abcdefgh\nTgid:\t1\nNStgid:\t1\n":     {comm: [16]byte([]byte("0123456789abcde\x00")), pid: 1},
		"Name:\tx\\": {comm: [16]byte{'x', '\\'}},
		"Name:\t\nTgid:\t99999999999\nNStgid:\t1\t\n": {},
		"": {},
	} {
		if got := parseStatus([]byte(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestClaim(t *testing.T) {
	for text, want := range map[string]string{
		"/a b/é":         "/a b/é",
		"a\"b\\c":        `a\x22b\x5cc`,
		"\x1b[31m\n\x9b": `\x1b[31m\x0a\x9b`,
		"\u202e":         `\xe2\x80\xae`,
		"\xff":           `\xff`,
	} {
		if got := claim([]byte(text)); got != want || journal.Escape(got) != got {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func textOf(s string, whole bool) claimedText {
	t := claimedText{read: uint16(len(s)), whole: whole}
	copy(t.bytes[:], s)
	return t
}

func TestArgumentsInWords(t *testing.T) {
	for _, c := range []struct {
		call  string
		args  [6]uint64
		texts [maxTexts]claimedText
		want  string
	}{
		{"mount", [6]uint64{1, 2, 0, 0x1001, 5}, [maxTexts]claimedText{textOf("/dev/x\x1b", true), textOf("/mnt", true)},
			`dev_name="/dev/x\x1b", dir_name="/mnt", type=NULL, flags=0x1001, data=0x5`},
		{"openat", [6]uint64{0xffffff9c, 0xdead, 0x241, 0o600}, [maxTexts]claimedText{},
			`dfd=-100, filename=0xdead, flags=0x241, mode=0600`},
		{"openat", [6]uint64{1<<64 - 100, 0xdead, 0, 0}, [maxTexts]claimedText{textOf("cut", false)},
			`dfd=-100, filename="cut"…, flags=0x0, mode=0`},
		{"fchmod", [6]uint64{3, 0o4755}, [maxTexts]claimedText{}, `fd=3, mode=04755`},
		{"truncate", [6]uint64{1, 1 << 40}, [maxTexts]claimedText{textOf("", true)}, `path="", length=1099511627776`},
		{"getpid", [6]uint64{1, 2, 3, 4, 5, 6}, [maxTexts]claimedText{}, ""},
	} {
		d := denial{nr: numberOf(t, c.call), args: c.args, texts: c.texts}
		if got := d.arguments(); got != c.want {
			t.Errorf("%s: %s, want %s", c.call, got, c.want)
		}
	}
}

func TestTextArguments(t *testing.T) {
	all := textArguments(runtime.GOARCH)
	for name, want := range map[string]string{"mount": "[0 1 2]", "openat": "[1]", "renameat2": "[1 3]", "getpid": "[]", "write": "[]"} {
		if got := fmt.Sprint(all[numberOf(t, name)]); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func deniedBy(t *testing.T, call, comm string) *denial {
	t.Helper()
	d := &denial{nr: numberOf(t, call), who: identity{pid: 1, sandboxPID: 1}}
	copy(d.who.comm[:], comm)
	return d
}

// emitted collects events; failing makes the journal fail.
type emitted struct {
	events  []journal.Event
	failing bool
}

func (e *emitted) emit(event journal.Event) error {
	if e.failing {
		return errors.New("the journal is behind")
	}
	e.events = append(e.events, event)
	return nil
}

func TestCallTally(t *testing.T) {
	now := time.Unix(1000, 0)
	var e emitted
	tally := newCallTally(deniedByFilter, testRun, e.emit, now)
	for range 10000 {
		tally.add(deniedBy(t, "mount", "node"))
	}
	tally.tellDue(now)
	last := deniedBy(t, "mount", "node")
	last.who.pid, last.texts[0] = 7, textOf("/last", true)
	tally.add(last)
	tally.tellDue(now.Add(countInterval - 1))
	if len(e.events) != 1 {
		t.Fatalf("%d events", len(e.events))
	}
	if got := e.events[0].(journal.SyscallDenied); got.Syscall != "mount" || got.Comm != "node" || got.Errno != "EPERM" || got.Count != 10000 {
		t.Errorf("%+v", got)
	}
	tally.tellDue(now.Add(countInterval))
	tally.tellDue(now.Add(2 * countInterval)) // nothing is new
	if got := e.events[len(e.events)-1].(journal.SyscallDenied); len(e.events) != 2 || got.Count != 10001 || got.PID != 7 || !strings.HasPrefix(got.Arguments, `dev_name="/last"`) {
		t.Errorf("%d events, %+v", len(e.events), got)
	}
	// A journal that does not answer costs nothing but time.
	e.failing = true
	tally.add(deniedBy(t, "ptrace", "gdb"))
	tally.tellDue(now.Add(2 * countInterval))
	e.failing = false
	tally.finish()
	if len(e.events) != 4 {
		t.Fatalf("%d events: %+v", len(e.events), e.events)
	}
	if got := e.events[2].(journal.SyscallDenied); got.Syscall != "ptrace" || got.Count != 1 {
		t.Errorf("%+v", got)
	}
	if got := e.events[3]; got != (journal.SyscallsDenied{Run: testRun, Total: 10002, Syscalls: 2}) {
		t.Errorf("%+v", got)
	}
}

// Whatever names a command gives itself: the memory is bounded, each call has
// an event, and the counts add up.
func TestCallTallyIsBounded(t *testing.T) {
	var e emitted
	tally := newCallTally(deniedByFilter, testRun, e.emit, time.Unix(1000, 0))
	for i := range 5000 {
		tally.add(deniedBy(t, "mount", fmt.Sprint("name ", i)))
	}
	for range 3 {
		tally.add(deniedBy(t, "ptrace", "hidden"))
	}
	if n := len(tally.counted()); n != maxNamedCalls+2 {
		t.Errorf("%d counts", n)
	}
	tally.finish()
	var sum, hidden uint64
	for _, event := range e.events {
		if d, ok := event.(journal.SyscallDenied); ok {
			sum += d.Count
			if d.Syscall == "ptrace" {
				hidden = d.Count
			}
		}
	}
	if sum != 5003 || hidden != 3 {
		t.Errorf("the events add up to %d; %d of the last call", sum, hidden)
	}
	if got := e.events[len(e.events)-1]; got != (journal.SyscallsDenied{Run: testRun, Total: 5003, Syscalls: 2}) {
		t.Errorf("%+v", got)
	}
}

// A command that keeps every count growing does not hide the first denial of a
// further call behind the others until the run ends.
func TestFirstDenialIsToldAmongMany(t *testing.T) {
	var e emitted
	now := time.Unix(1000, 0)
	tally := newCallTally(deniedByFilter, testRun, e.emit, now)
	numbers := syscalls.Numbers(runtime.GOARCH)
	further := numbers[:2*eventsPerSecond*int(countInterval/time.Second)-maxNamedCalls]
	for range 60 {
		for i := range maxNamedCalls {
			tally.add(deniedBy(t, "mount", fmt.Sprint("name ", i)))
		}
		for _, nr := range further {
			tally.add(&denial{nr: int32(nr)})
		}
		now = now.Add(time.Second)
		tally.tellDue(now)
	}
	told := map[string]bool{}
	for _, event := range e.events {
		told[event.(journal.SyscallDenied).Syscall] = true
	}
	for _, nr := range further {
		if name := callName(int32(nr)); !told[name] {
			t.Errorf("nobody has heard of %s in a minute", name)
		}
	}
}

func TestRefusedCalls(t *testing.T) {
	tally := newCallTally(deniedByFilter, testRun, (&emitted{}).emit, time.Unix(1000, 0))
	for i := range 12 {
		for range i + 1 {
			tally.add(deniedBy(t, "mount", fmt.Sprint("n\x1b", i)))
		}
	}
	d := tally.refused()
	if d.Total != 78 || len(d.Most) != spec.MaxRefusedCalls || d.More != 12-spec.MaxRefusedCalls {
		t.Errorf("%+v", d)
	}
	if most := d.Most[0]; most.Count != 12 || most.Comm != `n\x1b11` || most.Errno != "EPERM" || most.Nr != uint32(numberOf(t, "mount")) {
		t.Errorf("%+v", most)
	}
}

// A descriptor that is no listener is not taken for one.
func TestNewListenerRefuses(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := newListener(fd); err == nil || !strings.Contains(err.Error(), "no listener") {
		t.Errorf("%v, %v", l, err)
	}
	if err := unix.Close(fd); !errors.Is(err, unix.EBADF) {
		t.Errorf("the descriptor was left open: %v", err)
	}
}
