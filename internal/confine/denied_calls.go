package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
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
	tally        *callTally // of what the filter denies; nil: that is not recorded
	paths        *callTally // of what the mounts refuse; nil: not recorded
	capabilities *callTally // of what is refused for want of one; nil: not recorded

	listener chan *listener // to the thread that answers
	answered chan struct{}  // closed when that has ended
	err      error          // why, once it has
	stop     chan struct{}
	tellers  sync.WaitGroup
}

// tallies are those that there are.
func (d *deniedCalls) tallies() []*callTally {
	return slices.DeleteFunc([]*callTally{d.tally, d.paths, d.capabilities}, func(t *callTally) bool { return t == nil })
}

// recordSyscalls starts the thread that will answer. That needs the privileges
// which this process drops soon.
func (s *supervisor) recordSyscalls() error {
	if !s.spec.Notifies() {
		return nil
	}
	d := &deniedCalls{listener: make(chan *listener), answered: make(chan struct{}), stop: make(chan struct{})}
	for tally, kind := range map[**callTally]tallyKind{&d.tally: deniedByFilter, &d.paths: deniedPath, &d.capabilities: deniedCapability} {
		if s.records(kind) {
			*tally = newCallTally(kind, runOf(s.spec), s.audit.emit, time.Now())
		}
	}
	s.calls = d
	return s.startLooker(func() error { return nil }, func() { d.answer(s.spec, runtime.GOARCH) })
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

// expectListener makes the way on which init will send the listener: not the
// control socket, whose messages have to be read in their turn. It gives the end
// to pass on; nil: none is wanted.
func (s *supervisor) expectListener() (*os.File, error) {
	if !s.spec.Notifies() {
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
	return theirs, nil
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
	for _, tally := range s.calls.tallies() {
		s.calls.tellers.Go(func() { tally.follow(s.calls.stop) })
	}
	return nil
}

// answer is the thread that answers, from the listener's arrival, if there is
// one, until every process of the sandbox has ended.
func (d *deniedCalls) answer(s *spec.Spec, arch string) {
	defer close(d.answered)
	l, ok := <-d.listener
	if !ok {
		return
	}
	defer l.close()
	d.err = newAnswerer(l).answerCalls(s, arch, d)
	if errors.Is(d.err, errNobodyLeft) {
		d.err = nil
	}
}

// records tells whether denials of a kind are recorded.
func (s *supervisor) records(kind tallyKind) bool {
	switch kind {
	case deniedByFilter:
		return s.spec.RecordSyscalls
	case deniedPath:
		return s.spec.RecordPaths || s.spec.RecordReads
	default:
		return s.spec.RecordCapabilities
	}
}

// reportCalls tells the journal and purple the final counts, and adds the totals.
// The run has ended and its status is known: what goes wrong here is said and
// changes nothing.
func (s *supervisor) reportCalls(totals *journal.Denials) {
	d := s.calls
	if d == nil {
		return
	}
	s.audit.complain(d.end())
	if d.tally != nil {
		refused := d.tally.refused()
		totals.Syscalls = journal.Known(refused.Total)
		if refused.Total > 0 {
			s.tell(spec.Message{Kind: spec.Refused, DeniedCalls: refused})
		}
	}
	access := refusedAccess(d.paths, d.capabilities)
	if d.paths != nil {
		totals.Paths = journal.Known(access.Paths)
	}
	if d.capabilities != nil {
		totals.Capabilities = journal.Known(access.Capabilities)
	}
	if access.Paths+access.Capabilities > 0 {
		s.tell(spec.Message{Kind: spec.Refused, DeniedAccess: access})
	}
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
	d.tellers.Wait()
	if err != nil {
		return fmt.Errorf("cannot count the denied system calls: %w", err)
	}
	return nil
}
