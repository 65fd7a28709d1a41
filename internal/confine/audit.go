package confine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// audit writes the events of a run to the journal and, where the policy names
// one, to a log. Several goroutines may use it.
type audit struct {
	run     journal.Run
	journal *journal.Writer
	log     *eventLog // nil: none
}

// openAudit makes the audit of a run; nil: nothing is recorded. log is the
// descriptor of the policy's log, if it names one.
func openAudit(s *spec.Spec, log int) (*audit, error) {
	if s.Audit == nil {
		return nil, nil
	}
	writer, err := journal.Open(append(journal.Invocation(), journal.AboutUnit(s.Unit, s.UserManager))...)
	if err != nil {
		return nil, err
	}
	a := &audit{run: runOf(s), journal: writer}
	if s.Audit.LogPath != "" {
		a.log = &eventLog{path: s.Audit.LogPath, fd: log}
	}
	return a, nil
}

func runOf(s *spec.Spec) journal.Run {
	return journal.Run{Unit: s.Unit, Profile: s.Profile, RunID: s.RunID, Learning: s.Learning}
}

// emit writes an event to both. An error means that it is not in the journal;
// a log that cannot be written is told of there, once.
func (a *audit) emit(e journal.Event) error {
	if a == nil {
		return nil
	}
	a.append(e)
	return a.journal.Send(e)
}

// append writes an event to the log, if there is one.
func (a *audit) append(e journal.Event) {
	if a.log == nil {
		return
	}
	if err := a.log.write(e); err != nil && a.log.isNews() {
		a.complain(a.journal.Send(journal.LogFailed{Run: a.run, Path: a.log.path, Error: err.Error()}))
	}
}

// finish writes the last event, which in the journal counts itself among those
// that are missing in the log.
func (a *audit) finish(e journal.RunEnded) {
	if a == nil {
		return
	}
	e.LogLost = a.lost()
	a.append(e)
	e.LogLost = a.lost()
	a.complain(a.journal.Send(e))
}

// begin records the start of a run before the command's first instruction. A
// log that takes nothing is an error while it still can be one.
func (a *audit) begin(e journal.RunStarted) error {
	if a == nil {
		return nil
	}
	if a.log != nil {
		if err := a.log.write(e); err != nil {
			return fmt.Errorf("%q: %w", a.log.path, err)
		}
	}
	a.complain(a.journal.Send(e))
	return nil
}

// complain says on the unit's own output, which is all that is left, that the
// journal has not taken an event. No run is lost for it.
func (a *audit) complain(err error) {
	if err != nil {
		say("%v", err)
	}
}

// say writes to the unit's own output, which leads to the journal. A journal that takes
// nothing must not hold up the supervisor, nor one that is gone end it by SIGPIPE.
func say(format string, args ...any) {
	line := fmt.Appendf(nil, "purple: "+format+"\n", args...)
	if _, err := unix.SendmsgN(2, line, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); errors.Is(err, unix.ENOTSOCK) {
		_, _ = os.Stderr.Write(line) // the manager's DefaultStandardError=
	}
}

// lost is how many events are missing in the log.
func (a *audit) lost() journal.Amount {
	if a.log == nil {
		return journal.Amount{}
	}
	a.log.mu.Lock()
	defer a.log.mu.Unlock()
	return journal.Known(a.log.lost)
}

// eventLog is the policy's log: a file, open for appending, that other runs may
// be writing to as well.
type eventLog struct {
	path string

	mu   sync.Mutex
	fd   int
	lost uint64
	torn bool // the last line has no end
	told bool // the journal has a failure
}

// write appends one line by one call, so that the lines of several runs do not
// mix.
func (l *eventLog) write(e journal.Event) error {
	line := journal.Line(e, time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := unix.Write(l.fd, line)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Write(l.fd, line)
	}
	if err == nil && n < len(line) {
		err = unix.ENOSPC // which the next call would have said
		l.torn = true
	} else if err == nil {
		l.torn = false
	}
	if err != nil {
		l.lost++
	}
	return err
}

// isNews is true for the first failure that is asked about.
func (l *eventLog) isNews() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := !l.told
	l.told = true
	return news
}

// started is the event of the start: all that it says has been read back.
func (s *supervisor) started() journal.RunStarted {
	limit := func(n uint64) journal.Amount { return journal.Amount{N: n, Known: n != 0} }
	l := s.spec.Limits
	return journal.RunStarted{
		Run: runOf(s.spec), PolicyHash: s.spec.PolicyHash, ProfileFile: s.spec.ProfileFile, Command: journal.CommandText(s.spec.Command.Argv),
		Limits: journal.Limits{Memory: limit(l.Memory), Tasks: limit(l.Tasks), CPU: limit(l.CPU), IO: limit(l.IO), Time: limit(l.Timeout)},
	}
}

// failed records why nothing of the command has run or, should the supervisor
// fail later, why it takes the command along. Before there is a spec there is
// no run to speak of.
func (s *supervisor) failed(err error, status int) {
	if s.audit == nil {
		return
	}
	reason := journal.ReasonRefused
	if s.released.Load() {
		reason = journal.ReasonLost
	}
	failure := asStepError(err, "start the sandbox")
	s.audit.finish(journal.RunEnded{
		Run: runOf(s.spec), PolicyHash: s.spec.PolicyHash, Reason: reason,
		Status: uint8(status), Error: shorten(failure.Error()),
	})
}

// shorten bounds a text that becomes a field.
func shorten(text string) string {
	const most = 1 << 10
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// ended records how the run has ended and tells purple, which may have no
// journal to look in.
func (s *supervisor) ended(ws unix.WaitStatus, wall time.Duration, denials journal.Denials) {
	e := journal.RunEnded{
		Run: runOf(s.spec), PolicyHash: s.spec.PolicyHash, Reason: s.reason(ws), Status: uint8(spec.ExitStatus(ws)),
		Wall: journal.Known(uint64(wall.Microseconds())), Usage: s.usage(), Denials: denials,
	}
	if ws.Signaled() {
		e.Signal = uint8(ws.Signal())
	}
	switch e.Reason {
	case journal.ReasonTimeout:
		e.Status = spec.StatusTimeout
	case journal.ReasonOOM:
		e.Status = spec.StatusOOM
	}
	e.Reached = s.limits.reached()
	s.record(e)
	m := spec.Message{Kind: spec.Ended}
	for _, f := range journal.Fields(e) {
		m.Event = append(m.Event, spec.Field(f))
	}
	s.tell(m)
}

// record writes the event of the end with what the policy wants of it.
func (s *supervisor) record(e journal.RunEnded) {
	if s.audit == nil {
		return
	}
	if !s.spec.Audit.Resources {
		e.Usage, e.Reached = journal.Usage{}, journal.Reached{}
	}
	s.audit.finish(e)
}

// reason is why the run has ended, as far as the supervisor has seen.
func (s *supervisor) reason(ws unix.WaitStatus) journal.Reason {
	switch {
	case s.outOfMemory || s.isOOM(ws):
		return journal.ReasonOOM
	case s.timedOut:
		return journal.ReasonTimeout
	case s.stopping || s.abandoned:
		return journal.ReasonStopped
	case ws.Signaled():
		return journal.ReasonSignal
	default:
		return journal.ReasonExited
	}
}

// isOOM tells whether the kernel has killed the command at the memory limit.
func (s *supervisor) isOOM(ws unix.WaitStatus) bool {
	return ws.Signaled() && ws.Signal() == unix.SIGKILL && s.accounts.oomKills().N > 0
}

func (s *supervisor) usage() journal.Usage {
	u := s.accounts.usage()
	if !u.IORead.Known {
		u.IORead, u.IOWritten = processIO()
	}
	switch {
	case s.uplink != nil:
		u.NetReceived, u.NetSent = parseLinks(s.uplink.linkBytes())
	case s.spec.NetworkNamespace != 0:
		u.NetReceived, u.NetSent = linkBytes()
	}
	return u
}
