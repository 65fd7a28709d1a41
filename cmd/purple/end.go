package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
	"golang.org/x/sys/unix"
)

// endTimeout is how long the unit may take to be gone once its command is.
const endTimeout = 30 * time.Second

// refusal is the error of a step of purple-init that could not be done.
func refusal(m spec.Message) error {
	status := m.Status
	if status == 0 {
		status = spec.StatusRefused
	}
	return &statusError{status, fmt.Errorf("cannot %s: %s", m.Step, m.Error)}
}

// ending is how the unit ended, or why that could not be learnt: the bus may
// be restarted during a run, which harms the run in no way.
type ending struct {
	units.End
	err error
}

// watchUnit waits for the unit's end from now on.
func (s *session) watchUnit(ctx context.Context) <-chan ending {
	ended := make(chan ending, 1)
	go func() {
		end, err := s.unit.Wait(ctx)
		ended <- ending{end, err}
	}()
	return ended
}

// hear waits for the next message of purple-init while the unit starts. A unit
// that never begins sends none, and systemd keeps its end of the socket open: if
// it is silent, its end ends the wait.
func (s *session) hear(ctx context.Context) (spec.Message, error) {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			return
		case <-time.After(silence):
		}
		if end := <-s.watchUnit(ctx); end.err == nil {
			_ = unix.Shutdown(s.conn.FD(), unix.SHUT_RD) // what has arrived can still be read
		}
	}()
	m, fds, err := s.conn.Recv()
	if m.Kind == spec.Released {
		s.released = true
		m, fds, err = s.conn.Recv()
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	// Two that watch would take each other's signals.
	cancel()
	<-watched
	return m, err
}

// unexplained is the error when purple-init left without a message: killed, or
// never executed. reading is what came instead of one.
func (s *session) unexplained(ctx context.Context, reading error) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	return s.statusError(outcome(seen{released: s.released, broken: brokenBy(reading)}, <-s.watchUnit(ctx)))
}

// brokenBy is nil for the end of a socket, as it should be.
func brokenBy(reading error) error {
	if errors.Is(reading, io.EOF) {
		return nil
	}
	return reading
}

// verdict is how a run has ended for the caller.
type verdict struct {
	status int
	reason journal.Reason
	err    error // what there is to say; nil: nothing
}

// statusError ends purple with a verdict.
func (s *session) statusError(v verdict) error {
	if v.err == nil {
		return &statusError{status: v.status}
	}
	return &statusError{v.status, fmt.Errorf("%s: %w", s.plan.Unit, v.err)}
}

// outcome of an attached run.
func (at *attachment) outcome() verdict {
	came := seen{released: at.released, exited: at.exited, failure: at.failure, broken: at.broken}
	return withRecorded(outcome(came, *at.ending), at.ended)
}

// seen is what came over the control socket until its end, in which nothing is lost
// unless it is broken.
type seen struct {
	released bool          // the command may have run
	exited   *spec.Message // how it ended
	failure  error         // a step could not be done, and nothing of the command has run
	broken   error         // Purple failed when the command may have run, or this end of the socket did
}

// withRecorded adds what purple-init knows and the verdict does not: who asked
// for the end. Where systemd could not be asked, that is the timeout, too.
func withRecorded(v verdict, ended *journal.RunEnded) verdict {
	switch {
	case ended == nil || v.reason != journal.ReasonExited && v.reason != journal.ReasonSignal:
		return v
	case ended.Reason == journal.ReasonTimeout:
		return timedOut()
	default:
		v.reason = ended.Reason
		return v
	}
}

func timedOut() verdict {
	return verdict{spec.StatusTimeout, journal.ReasonTimeout, errors.New("stopped at the timeout (resources.session_timeout_seconds)")}
}

// What systemd's ExecMainCode may be: nothing has run, or CLD_EXITED of waitid(2).
const (
	codeNone   = 0
	codeExited = 1
)

// outcome turns both truths into a verdict, whose status is a contract:
// purple-init's, which is exact, and systemd's, which knows the reason.
//
// 125 is said only where nothing of the command can have run.
func outcome(s seen, end ending) verdict {
	switch {
	case s.failure != nil:
		return verdict{refusalStatus(s.failure), journal.ReasonRefused, s.failure}
	case !s.released && s.exited == nil && s.broken == nil:
		return verdict{spec.StatusRefused, journal.ReasonRefused, whyNotStarted(end)}
	case end.Overran:
		return timedOut()
	case s.exited != nil && s.exited.OutOfMemory, end.Result == "oom-kill": // the latter by an administrator's OOMPolicy= only
		return verdict{spec.StatusOOM, journal.ReasonOOM, errors.New("killed: out of memory (resources.memory_limit_bytes)")}
	case s.exited != nil:
		return exitVerdict(unix.WaitStatus(s.exited.WaitStatus))
	case s.broken != nil:
		return lost(s.broken)
	case end.err != nil:
		return lost(end.err)
	case end.Code == codeNone:
		return lost(errors.New("systemd knows nothing of it any more"))
	case end.Code == codeExited && (end.Status == crashStatus || end.Status == spec.StatusLost):
		return lost(fmt.Errorf("purple-init ended early (result %s, status %d)", end.Result, end.Status))
	case end.Code == codeExited:
		return verdict{status: int(end.Status), reason: journal.ReasonExited}
	default:
		return verdict{128 + int(end.Status), journal.ReasonKilled, fmt.Errorf("purple-init was killed by signal %d, the command with it", end.Status)}
	}
}

// purple-init's exit status is the command's if it gets so far. It is crashStatus if
// its Go runtime crashes; from systemdStatus on it is systemd's own for what could not be
// done before execve (systemd.exec(5), "Process exit codes").
const (
	crashStatus   = 2
	systemdStatus = 200
)

// whyNotStarted is what systemd knows of a purple-init that has let no command go and
// has not said why.
func whyNotStarted(end ending) error {
	switch {
	case end.err != nil:
		return fmt.Errorf("purple-init is gone, and systemd cannot be asked why: %w", end.err)
	case end.Result == "timeout":
		return errors.New("the sandbox was not ready within systemd's time for a start (TimeoutStartSec=)")
	case end.Code == codeNone:
		return fmt.Errorf("systemd has not started it (result %s): it was stopped before, or `journalctl -u` has the reason", end.Result)
	case end.Code == codeExited && end.Status >= systemdStatus:
		return fmt.Errorf("systemd could not start purple-init (result %s, status %d); `journalctl -u` has the reason", end.Result, end.Status)
	case end.Code == codeExited:
		return fmt.Errorf("purple-init ended early (result %s, status %d); `journalctl -u` has the reason", end.Result, end.Status)
	default:
		return fmt.Errorf("purple-init was killed by signal %d before it had started the command", end.Status)
	}
}

func lost(err error) verdict {
	return verdict{spec.StatusLost, journal.ReasonLost, fmt.Errorf("the command may have run, and how it ended is not known: %w; `journalctl -u` may tell", err)}
}

// refusalStatus is the status of a step's error: 125, or the shell's for a command that
// cannot be executed.
func refusalStatus(err error) int {
	if s := (*statusError)(nil); errors.As(err, &s) {
		return s.status
	}
	return spec.StatusRefused
}

// orLost is the status of a run of which something was to be kept, and is lost: its
// own, unless that says that all is well.
func orLost(status int) int {
	if status == 0 {
		return spec.StatusLost
	}
	return status
}

func exitVerdict(ws unix.WaitStatus) verdict {
	v := verdict{status: spec.ExitStatus(ws), reason: journal.ReasonExited}
	if ws.Signaled() {
		v.reason = journal.ReasonSignal
	}
	return v
}

// readEnd takes what purple-init has recorded of the end.
func (at *attachment) readEnd(event []spec.Field) error {
	fields := map[string]string{}
	for _, f := range event {
		fields[f.Name] = f.Value
	}
	e, err := journal.FromFields(fields)
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	end, ok := e.(journal.RunEnded)
	if !ok {
		return fmt.Errorf("internal error: got %T for the end", e)
	}
	at.ended = &end
	return nil
}

// recordKilled writes the event of the end in place of a supervisor that was
// killed before it could. It has another sender, and not what the run has used.
func (at *attachment) recordKilled(end verdict) error {
	if at.ended != nil || !at.started || at.plan.Spec.Audit == nil {
		return nil
	}
	s := &at.plan.Spec
	writer, err := journal.Open(journal.AboutUnit(s.Unit, s.UserManager))
	if err != nil {
		return err
	}
	defer writer.Close()
	event := journal.RunEnded{
		Run:        journal.Run{Unit: s.Unit, Profile: s.Profile, RunID: s.RunID, Learning: s.Learning},
		PolicyHash: s.PolicyHash, Reason: end.reason, Status: uint8(end.status),
	}
	if end.err != nil {
		event.Error = end.err.Error()
	}
	return writer.Send(event)
}
