package confine

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

var testEvent = journal.LogFailed{Run: journal.Run{Unit: testUnit, Profile: "web", RunID: "0123abcd"}, Path: "/x", Error: "y"}

// lines reads a log whose every line must be an event.
func lines(t *testing.T, file string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(data) {
		var fields map[string]string
		if err := json.Unmarshal(line, &fields); err != nil || fields["PURPLE_EVENT"] == "" {
			t.Errorf("%q: %v", line, err)
		}
		n++
	}
	return n
}

// Several runs share a log; each has goroutines of its own.
func TestLogsDoNotMix(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	var all sync.WaitGroup
	for range 4 {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l := &eventLog{fd: int(f.Fd())}
		for range 4 {
			all.Go(func() {
				for range 50 {
					if err := l.write(testEvent); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	if n := lines(t, file); n != 800 {
		t.Errorf("%d lines", n)
	}
}

// A disk that is full in the middle of a line: the limit on a file's size does
// the same.
func TestLogAfterAFullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := &eventLog{fd: int(f.Fd())}
	if err := l.write(testEvent); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	full := unix.Rlimit{Cur: uint64(info.Size()) + 10, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.write(testEvent); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EFBIG) {
			t.Errorf("%v", err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if !l.isNews() || l.isNews() || l.lost != 2 {
		t.Errorf("%+v", l)
	}
	if err := l.write(testEvent); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(got) != 3 || len(got[1]) != 10 || !json.Valid([]byte(got[0])) || !json.Valid([]byte(got[2])) {
		t.Errorf("%q", got)
	}
}

func TestReason(t *testing.T) {
	killed, exited := unix.WaitStatus(unix.SIGKILL), unix.WaitStatus(3<<8)
	oom := fakeAccounts(t, v2Groups, v2Files)
	none := fakeAccounts(t, v2Groups, nil)
	for _, c := range []struct {
		what string
		s    *supervisor
		ws   unix.WaitStatus
		want journal.Reason
	}{
		{"by itself", &supervisor{accounts: none}, exited, journal.ReasonExited},
		{"killed", &supervisor{accounts: none}, killed, journal.ReasonSignal},
		{"killed out of memory", &supervisor{accounts: oom}, killed, journal.ReasonOOM},
		{"terminated, while a child was out of memory", &supervisor{accounts: oom}, unix.WaitStatus(unix.SIGTERM), journal.ReasonSignal},
		{"by itself, though a child was out of memory", &supervisor{accounts: oom}, exited, journal.ReasonExited},
		{"ended for a child out of memory", &supervisor{accounts: oom, outOfMemory: true, stopping: true}, killed, journal.ReasonOOM},
		{"timeout", &supervisor{accounts: none, stopping: true, timedOut: true}, killed, journal.ReasonTimeout},
		{"stopped", &supervisor{accounts: none, stopping: true}, exited, journal.ReasonStopped},
		{"purple gone", &supervisor{accounts: none, abandoned: true}, killed, journal.ReasonStopped},
	} {
		if got := c.s.reason(c.ws); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestShorten(t *testing.T) {
	if got := shorten(strings.Repeat("é", 4096)); len(got) > 1030 || !strings.HasSuffix(got, "é…") {
		t.Errorf("%d bytes, %q", len(got), got[len(got)-8:])
	}
	if got := shorten("short"); got != "short" {
		t.Errorf("%q", got)
	}
}
