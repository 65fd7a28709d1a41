package confine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/internal/stdio"
	"golang.org/x/sys/unix"
)

// relayBuffer is what is copied at once: as much as a pipe holds (pipe(7)).
const relayBuffer = 64 << 10

// relayedOutput is an output stream of the caller's that the command has a pipe
// instead of. It is copied here and not by purple: what it costs, bytes written to a
// disk first of all, is then charged to the unit, whose limits hold.
type relayedOutput struct {
	name   string
	to     int           // the caller's
	passed chan struct{} // closed when there is no more of it
	err    error         // why not all was passed on; once passed is closed
}

// relayStream gives the command a pipe, and copies between that and the caller's stream.
func (s *supervisor) relayStream(n int) error {
	if n == 2 && s.isRelayed(1) && sameDescription(s.callers[1], s.callers[2]) {
		// One pipe for both keeps lines in order.
		var err error
		s.streams[2], err = unix.FcntlInt(uintptr(s.streams[1]), unix.F_DUPFD_CLOEXEC, 3)
		return err
	}
	read, write, err := s.newPipe()
	if err != nil {
		return err
	}
	addProcessor()
	if n == 0 {
		s.streams[0] = read
		go relayInput(s.callers[0], write)
		return nil
	}
	from, err := pollable(read)
	if err != nil {
		return err
	}
	s.streams[n] = write
	r := &relayedOutput{name: stdio.Names[n], to: s.callers[n], passed: make(chan struct{})}
	s.relayed = append(s.relayed, r)
	go r.pass(from)
	return nil
}

func (s *supervisor) isRelayed(n int) bool {
	for _, r := range s.relayed {
		if r.to == s.callers[n] {
			return true
		}
	}
	return false
}

// sameDescription tells whether two descriptors are one open file, as `>log 2>&1`
// makes them (kcmp(2), KCMP_FILE). A kernel that does not compare says no: then only
// the order of lines is not kept.
func sameDescription(a, b int) bool {
	const kcmpFile = 0
	pid := uintptr(os.Getpid())
	order, _, errno := unix.RawSyscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	return errno == 0 && order == 0
}

// pass copies until no process has the other end of the pipe. Where the caller's
// stream takes no more, the command's own writing fails from then on.
func (r *relayedOutput) pass(from *os.File) {
	defer close(r.passed)
	defer from.Close()
	buf := make([]byte, relayBuffer)
	for {
		n, err := from.Read(buf)
		if n == 0 || err != nil {
			return // io.EOF: a pipe has no other end
		}
		if r.err = writeAll(r.to, buf[:n]); r.err != nil {
			return
		}
	}
}

// relayInput copies until the end of the caller's stream, or until nobody reads. It
// reads ahead of the command: how much that wants of it nobody can know. It may wait
// for the caller when the run ends; so it ends with this process.
func relayInput(from, to int) {
	defer unix.Close(to)
	buf := make([]byte, relayBuffer)
	for {
		n, err := readSome(from, buf)
		if n <= 0 || err != nil || writeAll(to, buf[:n]) != nil {
			return
		}
	}
}

// readSome and writeAll block in the call: O_NONBLOCK of the caller's descriptions
// is the caller's to set, and may be set by others at any time.

func readSome(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err = retry(fd, unix.POLLIN, err); err != errAgain {
			return n, err
		}
	}
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err = retry(fd, unix.POLLOUT, err); err == errAgain {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

var errAgain = errors.New("again")

// retry turns an error that is none into errAgain, once the descriptor is ready.
func retry(fd int, events int16, err error) error {
	switch err {
	case unix.EAGAIN:
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		return errAgain
	case unix.EINTR:
		return errAgain
	default:
		return err
	}
}

// awaitRelayed waits until the caller's streams have everything. Every process of the
// sandbox is gone. Whoever reads slowly is waited for, as a command would wait that
// writes itself, until the run is to end sooner: by a signal, or purple's end.
func (s *supervisor) awaitRelayed() {
	var hurry <-chan time.Time
	if s.stopping || s.abandoned || s.signalled {
		hurry = time.After(outputWait)
	}
	for _, r := range s.relayed {
		for waiting := true; waiting; {
			select {
			case <-r.passed:
				waiting = false
				s.tellLost(r.name, r.err)
			case <-s.signals:
				hurry = time.After(outputWait)
			case <-s.fromPurple:
				hurry = time.After(outputWait)
			case <-hurry:
				waiting = false
				s.tellLost(r.name, errors.New("nobody has read it in time"))
			}
		}
	}
}

// tellLost tells purple of output that did not come through. That the reader has gone,
// the command has been told.
func (s *supervisor) tellLost(name string, err error) {
	if err == nil || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return
	}
	s.tell(spec.Message{Kind: spec.Lost, Error: fmt.Sprintf("cannot write all of the command's output to %s: %v", name, err)})
}
