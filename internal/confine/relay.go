package confine

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// outputWait bounds how long the end of a run waits for its output to reach the
// journal. It is less than what the manager leaves this process after grace.
const outputWait = 2 * time.Second

// output is what a detached command prints, on its way to the journal.
type output struct {
	fd     int // of the stream
	stream *os.File
	passed chan struct{} // closed when there is no more of it
}

// relayOutput takes the output of a detached command and passes it on to the journal:
// there it is this process's, and not the command's. journald keeps a file of its own
// for each uid that is not of the system, made with 8 MB (SplitMode= in
// journald.conf(5)): that would be one for each run, as each of root's has its own uid.
// And it may look up by the writer's pid which unit a line is of, and finds nothing for
// a process that has ended by then: a short run's last lines would be nobody's.
//
// One pipe stands for both streams, so that lines stay in order.
func (s *supervisor) relayOutput() error {
	fd, err := journal.OpenStream(journal.OutputIdentifier, s.spec.Unit)
	if err != nil {
		return err
	}
	stream, err := pollable(fd)
	if err != nil {
		return cannotRelay(err)
	}
	read, write, err := s.newPipe()
	if err != nil {
		return cannotRelay(err)
	}
	from, err := pollable(read)
	if err != nil {
		return cannotRelay(err)
	}
	s.streams[1] = write
	if s.streams[2], err = unix.FcntlInt(uintptr(write), unix.F_DUPFD_CLOEXEC, 3); err != nil {
		return cannotRelay(err)
	}
	s.output = &output{fd: fd, stream: stream, passed: make(chan struct{})}
	addProcessor()
	go s.output.pass(from)
	return nil
}

func cannotRelay(err error) error { return fmt.Errorf("cannot relay the command's output: %w", err) }

// newPipe makes a pipe that belongs to the command's user: or the command could not
// open its own /dev/stdout.
func (s *supervisor) newPipe() (read, write int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("cannot make a pipe: %w", err)
	}
	if err := unix.Fchown(ends[1], int(s.spec.Identity.HostUID), int(s.spec.Identity.HostGID)); err != nil {
		return -1, -1, fmt.Errorf("cannot give a pipe to the command: %w", err)
	}
	return ends[0], ends[1], nil
}

// pass passes all on. Where the journal is gone for good there is nobody to tell, and
// the command must not be stopped by a pipe that is full.
func (o *output) pass(from *os.File) {
	defer close(o.passed)
	defer from.Close()
	if _, err := io.Copy(o.stream, newPaced(from)); err != nil {
		_, _ = io.Copy(io.Discard, from)
	}
}

// A command that prints without end has journald throw away the oldest entries, events
// among them: journald counts lines, not bytes. So in the long run no more than
// outputRate bytes a second are passed on, and who prints faster waits. What a pipe
// holds at the most, 1 MiB (pipe(7)), is passed on within outputWait.
const outputRate, outputBurst = 1 << 20, 16 << 20

// paced reads outputBurst bytes at any speed, and more at outputRate.
type paced struct {
	from  io.Reader
	left  int64 // of the burst; negative: it was exceeded
	at    time.Time
	now   func() time.Time
	sleep func(time.Duration)
}

func newPaced(from io.Reader) *paced {
	return &paced{from: from, left: outputBurst, at: time.Now(), now: time.Now, sleep: time.Sleep}
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.from.Read(b)
	now := p.now()
	p.left = min(outputBurst, p.left+int64(now.Sub(p.at).Seconds()*outputRate)) - int64(n)
	p.at = now
	if p.left < 0 {
		p.sleep(time.Duration(-p.left) * time.Second / outputRate)
	}
	return n, err
}

// awaitOutput waits until what the command has printed is where it belongs.
func (s *supervisor) awaitOutput() {
	s.awaitJournaled()
	s.awaitRelayed()
}

// awaitJournaled waits until the journal has everything. Every process of the sandbox is
// gone, so that nothing can come any more, unless the command has given its end of the
// pipe to a process outside; and a journal that takes nothing is not waited for long.
func (s *supervisor) awaitJournaled() {
	if s.output == nil {
		return
	}
	deadline := time.Now().Add(outputWait)
	select {
	case <-s.output.passed:
		awaitJournal(s.output.fd, deadline)
	case <-time.After(outputWait):
	}
}

// takenInterval is how often a journal that is behind is looked at.
const takenInterval = time.Millisecond

// awaitJournal waits until journald has received what was written: it then looks up
// this process, which has to be there.
func awaitJournal(fd int, deadline time.Time) {
	for time.Now().Before(deadline) {
		waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ) // of unix sockets: unix_ioctl() in net/unix/af_unix.c
		if err != nil || waiting == 0 {
			return
		}
		time.Sleep(takenInterval)
	}
}
