//go:build integration

package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// screen is a terminal with purple on it.
type screen struct {
	cmd *exec.Cmd
	pty *os.File

	lock sync.Mutex
	seen bytes.Buffer
	done chan struct{}
}

func newScreen(t *testing.T, args ...string) *screen {
	t.Helper()
	return screenOf(t, call{dir: tempDir(t), env: []string{"TERM=xterm"}, args: append([]string{"run", "--profile", profilePath("groups"), "--"}, args...)}.command(context.Background()))
}

func screenOf(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	s := &screen{cmd: cmd, done: make(chan struct{})}
	s.cmd.Stdin = nil
	var err error
	if s.pty, err = pty.StartWithSize(s.cmd, &pty.Winsize{Rows: 33, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.pty.Close() })
	go func() {
		defer close(s.done)
		buf := make([]byte, 4096)
		for {
			n, err := s.pty.Read(buf)
			s.lock.Lock()
			s.seen.Write(buf[:n])
			s.lock.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) text() string {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.seen.String()
}

func (s *screen) expect(t *testing.T, text string) {
	t.Helper()
	eventually(t, "the terminal shows "+text, time.Minute, func() bool { return strings.Contains(s.text(), text) })
	if t.Failed() {
		t.Fatalf("the terminal shows %q", s.text())
	}
}

func (s *screen) typeIn(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.pty, text); err != nil {
		t.Fatal(err)
	}
}

// wait gives the exit status, after the last output; -1 if it had to be killed.
func (s *screen) wait() int {
	timer := time.AfterFunc(limit, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	_ = s.cmd.Wait()
	<-s.done
	return s.cmd.ProcessState.ExitCode()
}

func TestTerminalIsTheSandboxesOwn(t *testing.T) {
	s := newScreen(t, "sh", "-c", "tty; stty size; ls /dev/pts; echo $TERM; read line; echo got $line; stty size; exit 3")
	s.expect(t, "/dev/pts/0")
	s.expect(t, "33 77")
	s.expect(t, "xterm")
	if err := pty.Setsize(s.pty, &pty.Winsize{Rows: 20, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // SIGWINCH is on its way
	s.typeIn(t, "hello\r")
	s.expect(t, "got hello")
	s.expect(t, "20 100")
	if status := s.wait(); status != 3 {
		t.Errorf("status %d", status)
	}
}

func TestOutputOnATerminalIsNotLost(t *testing.T) {
	for range 10 {
		s := newScreen(t, "sh", "-c", "seq 300; echo last")
		s.wait()
		if !strings.Contains(s.text(), "300\r\nlast\r\n") {
			t.Fatalf("%q", s.text())
		}
	}
}

// Beside purple in a pipeline, others write to the same terminal.
func TestPipelineOnATerminal(t *testing.T) {
	cmd := exec.Command("bash", "-c", fmt.Sprintf("cd %q; %q run --profile %q -- sh -c 'seq 3; sleep 1' | cat", tempDir(t), filepath.Join(bin, "purple"), profilePath("groups")))
	s := screenOf(t, cmd)
	if status := s.wait(); status != 0 || s.text() != "1\r\n2\r\n3\r\n" {
		t.Errorf("status %d, %q", status, s.text())
	}
}

func TestInterruptOnATerminal(t *testing.T) {
	s := newScreen(t, "sh", "-c", "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.1; done")
	s.expect(t, "ready")
	s.typeIn(t, "\x03")
	s.expect(t, "interrupted")
	if status := s.wait(); status != 9 {
		t.Errorf("status %d", status)
	}
}

// Ctrl-Z stops the command and purple, so that the shell gets the terminal.
func TestSuspendOnATerminal(t *testing.T) {
	s := newScreen(t, "python3", "-c", "print('ready', flush=True); print('read', input(), flush=True)")
	s.expect(t, "ready")
	s.typeIn(t, "\x1a")
	s.expectStopped(t)
	// It must not have told purple-init to go on before it stopped itself.
	time.Sleep(300 * time.Millisecond)
	command, err := strconv.Atoi(strings.TrimSpace(sh(t, "pgrep -f '^python3 -c print'")))
	if err != nil || state(t, command) != "T" {
		t.Errorf("the command is in the state %q (%v)", state(t, command), err)
	}
	s.goOn(t)
	eventually(t, "purple goes on", time.Minute, func() bool { return state(t, s.cmd.Process.Pid) != "T" })
	time.Sleep(300 * time.Millisecond)
	s.typeIn(t, "again\r")
	s.expect(t, "read again")
	if status := s.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
}

// A process of the sandbox may stop and continue the command as often as it likes,
// while purple is stopped itself: the run obeys the manager all the same, and says
// how it has ended, to purple too once that goes on.
func TestEndlessStopsOnATerminal(t *testing.T) {
	s := newScreen(t, "sh", "-c", "(while :; do kill -STOP $$; kill -CONT $$; done) & sleep 1000")
	s.expectStopped(t)
	unit := runningUnit(t, "groups")
	time.Sleep(4 * time.Second) // more stops than a socket holds messages
	sh(t, "systemctl stop "+unit)
	events := journalOf(t, unit)
	if end := events[len(events)-1]; end.text("PURPLE_EVENT") != "run-ended" || end.text("PURPLE_REASON") != "stopped" {
		t.Errorf("the last event is %+v", end)
	}
	if s := state(t, s.cmd.Process.Pid); s != "T" {
		t.Errorf("purple is in the state %s", s)
	}
	s.goOn(t)
	if status := s.wait(); status != 143 {
		t.Errorf("status %d, %q", status, s.text())
	}
}

// One that was stopped by Ctrl-Z obeys, too: it is continued to do so.
func TestStopOfASuspendedCommand(t *testing.T) {
	s := newScreen(t, "sh", "-c", "echo ready; exec sleep 1000")
	s.expect(t, "ready")
	s.typeIn(t, "\x1a")
	s.expectStopped(t)
	unit := runningUnit(t, "groups")
	sh(t, "systemctl stop "+unit)
	s.goOn(t)
	if status := s.wait(); status != 143 { // and not 137, after a grace
		t.Errorf("status %d, %q", status, s.text())
	}
}

// Ctrl-C on the pty does not end init, which the command can make its foreground.
func TestInitInTheForeground(t *testing.T) {
	s := newScreen(t, "python3", "-c", `
import os, signal
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
try: os.tcsetpgrp(0, 1)
except OSError as e: print("refused", e.errno)
print("foreground", os.tcgetpgrp(0), flush=True)
while os.tcgetpgrp(0) == 1: signal.sigtimedwait([], 0.1)
`)
	s.expect(t, "foreground ")
	s.typeIn(t, "\x03")
	time.Sleep(time.Second)
	unit := strings.Fields(sh(t, "systemctl list-units --plain --no-legend 'purple-groups-*'"))
	if len(unit) == 0 {
		t.Fatalf("the run has ended: status %d, %q", s.wait(), s.text())
	}
	sh(t, "systemctl stop "+unit[0])
	s.wait() // the end was asked for
}

// expectStopped waits until purple is stopped.
func (s *screen) expectStopped(t *testing.T) {
	t.Helper()
	eventually(t, "purple is stopped", time.Minute, func() bool { return state(t, s.cmd.Process.Pid) == "T" })
}

// goOn continues purple, as `fg` does.
func (s *screen) goOn(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func state(t *testing.T, pid int) string {
	t.Helper()
	return strings.TrimSpace(sh(t, "ps -o s= -p "+strconv.Itoa(pid)))
}

// The kernel has 4096 for all: one run must not leave none to the others.
func TestTerminalsAreFew(t *testing.T) {
	const all = `
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
n = 0
try:
    while True: os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY); n += 1
except OSError: print(n)`
	if r := purple(t, "groups", "python3", "-c", all).mustSucceed(t); r.stdout != "256\n" {
		t.Errorf("it could open %s", r.stdout)
	}
}

// I7: input cannot be pushed into the caller's terminal, which is nowhere.
func TestTerminalInjection(t *testing.T) {
	const inject = `
import fcntl, os, termios
for fd in 0, 1, 2:
    try:
        fcntl.ioctl(fd, termios.TIOCSTI, b"x"); print("injected")
    except OSError as e:
        print("refused", e.errno)
print(os.listdir("/dev/pts"), os.open("/dev/tty", os.O_RDWR) >= 0)`
	s := newScreen(t, "python3", "-c", inject)
	s.wait()
	if strings.Count(s.text(), "refused 1\r\n") != 3 || strings.Contains(s.text(), "injected") {
		t.Errorf("%q", s.text())
	}
	// Without a terminal there is no controlling terminal at all.
	if r := purple(t, "groups", "sh", "-c", ": < /dev/tty"); r.status == 0 {
		t.Error("/dev/tty opens")
	}
}
