package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// deniedErrno is the answer to every denied call; a filter that does not notify
// gives the same one.
const deniedErrno = unix.EPERM

// deniedCalls answers what the command's filter denies and turns it into events
// of the journal.
type deniedCalls struct {
	tally    *callTally
	listener chan *listener // to the thread that answers
	answered chan struct{}  // closed when that has ended
	err      error          // why, once it has
	stop     chan struct{}
	told     chan struct{} // closed when the teller has ended
}

// recordSyscalls starts the thread that will answer. That needs the privileges
// which this process drops soon.
func (s *supervisor) recordSyscalls() error {
	if !s.spec.RecordSyscalls {
		return nil
	}
	d := &deniedCalls{
		tally:    newCallTally(runOf(s.spec), s.audit.emit, time.Now()),
		listener: make(chan *listener), answered: make(chan struct{}),
		stop: make(chan struct{}), told: make(chan struct{}),
	}
	ready := make(chan error)
	go func() {
		// Never unlocked: with the goroutine ends the thread and what it may.
		runtime.LockOSThread()
		err := becomeOwner(s.spec.Identity)
		ready <- err
		if err == nil {
			d.answer(textArguments(runtime.GOARCH))
		}
	}()
	if err := <-ready; err != nil {
		return err
	}
	s.calls = d
	return nil
}

// becomeOwner lets the calling thread, which must be locked, read the memory of
// the command and nothing else of it that needs a privilege: it gets the
// effective uid that owns the command's user namespace, which is all that
// ptrace(2) and process_vm_readv(2) ask for in a namespace below
// (user_namespaces(7)). No process can signal or trace it for having that uid:
// the real and the saved one stay, and a change makes this process undumpable.
// A process of that uid outside, not one of a sandbox, can change its scheduling.
func becomeOwner(id spec.Identity) error {
	const keep = ^uintptr(0) // -1 leaves an id as it is
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(id.HostUID), keep); errno != 0 {
		return fmt.Errorf("cannot become uid %d: %w", id.HostUID, errno)
	}
	return nil
}

// expectListener makes the way on which the process that becomes the command
// will send the listener, past init. The end to pass on is in a list of one.
func (s *supervisor) expectListener() ([]*os.File, error) {
	if !s.spec.RecordSyscalls {
		return nil, nil
	}
	// What could keep this process from answering is found out before anything runs.
	if err := requireSizes(); err != nil {
		return nil, err
	}
	conn, theirs, err := spec.Pair()
	if err != nil {
		return nil, err
	}
	s.listening = conn
	return []*os.File{theirs}, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// takeListener gets the listener of the command's filter and begins to answer.
// If the command's process has ended without one, init says why; there is then
// nothing to answer, and nothing to wait for at the end.
func (s *supervisor) takeListener() error {
	if s.calls == nil {
		return nil
	}
	defer s.listening.Close()
	m, fds, err := s.listening.Recv()
	if errors.Is(err, io.EOF) {
		close(s.calls.listener)
		s.calls = nil
		return nil
	}
	if err != nil {
		return err
	}
	if err := expect(m, spec.Listening); err != nil {
		return err
	}
	if len(fds) != 1 {
		return fmt.Errorf("got %d descriptors instead of the filter's listener", len(fds))
	}
	l, err := newListener(fds[0])
	if err != nil {
		return &StepError{Step: "listen to the seccomp filter", Err: err, Status: spec.StatusRefused}
	}
	s.calls.listener <- l
	go func() {
		defer close(s.calls.told)
		s.calls.tally.follow(s.calls.stop)
	}()
	return nil
}

// answer is the thread that answers, from the listener's arrival, if there is
// one, until every process of the sandbox has ended.
func (d *deniedCalls) answer(texts [][]int) {
	defer close(d.answered)
	l, ok := <-d.listener
	if !ok {
		return
	}
	defer l.close()
	d.err = newAnswerer(l, texts).answerCalls(d.tally)
	if errors.Is(d.err, errNobodyLeft) {
		d.err = nil
	}
}

// reportCalls tells the journal and purple the final counts, and gives the
// total. The run has ended and its status is known: what goes wrong here is said
// and changes nothing.
func (s *supervisor) reportCalls() journal.Amount {
	if s.calls == nil {
		return journal.Amount{}
	}
	s.audit.complain(s.calls.end())
	refused := s.calls.tally.refused()
	if refused.Total > 0 {
		s.tell(spec.Message{Kind: spec.Refused, DeniedCalls: refused})
	}
	return journal.Known(refused.Total)
}

// end is for when the sandbox is gone: nothing is left to answer.
func (d *deniedCalls) end() error {
	var err error
	select {
	case <-d.answered:
		err = d.err
	case <-time.After(drainTime):
		err = errors.New("the filter's listener has not ended with the sandbox")
	}
	close(d.stop)
	<-d.told
	if err != nil {
		return fmt.Errorf("cannot count the denied system calls: %w", err)
	}
	return nil
}
