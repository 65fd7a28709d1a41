package confine

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// relayOutput takes the output of a detached command and passes it on to the unit's
// own, which leads to the journal: there it is this process's, and not the command's.
// journald keeps a file of its own for each uid that is not of the system, made with
// 8 MB (SplitMode= in journald.conf(5)): that would be one for each run, as each has
// its own uid. And it looks up by the writer's pid which unit a line is of, and may find
// nothing for a process that has ended by then: a short run's last lines would be
// nobody's, see awaitJournal.
//
// One pipe stands for both streams where they are one, so that lines stay in order.
func (s *supervisor) relayOutput() error {
	same, err := isSameFile(1, 2)
	if err != nil {
		return err
	}
	var relaying sync.WaitGroup
	for fd := 1; fd <= 2; fd++ {
		if fd == 2 && same {
			if s.streams[2], err = unix.FcntlInt(uintptr(s.streams[1]), unix.F_DUPFD_CLOEXEC, 3); err != nil {
				return fmt.Errorf("cannot relay the command's output: %w", err)
			}
			break
		}
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("cannot relay the command's output: %w", err)
		}
		s.streams[fd] = ends[1]
		// Or it could not open its own /dev/stdout.
		if err := unix.Fchown(ends[1], int(s.spec.Identity.HostUID), int(s.spec.Identity.HostGID)); err != nil {
			return fmt.Errorf("cannot relay the command's output: %w", err)
		}
		from, err := pollable(ends[0])
		if err != nil {
			return fmt.Errorf("cannot relay the command's output: %w", err)
		}
		to := [3]*os.File{1: os.Stdout, 2: os.Stderr}[fd]
		relaying.Go(func() {
			_, _ = io.Copy(to, from) // without a journal there is nobody to tell
			from.Close()
		})
	}
	s.output = make(chan struct{})
	go func() {
		relaying.Wait()
		close(s.output)
	}()
	return nil
}

func isSameFile(x, y int) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(x, &a); err != nil {
		return false, fmt.Errorf("cannot examine descriptor %d: %w", x, err)
	}
	if err := unix.Fstat(y, &b); err != nil {
		return false, fmt.Errorf("cannot examine descriptor %d: %w", y, err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// awaitOutput waits until everything has been passed on. Every process of the sandbox
// is gone, so that nothing can come any more; a journal that takes nothing is not
// waited for long.
func (s *supervisor) awaitOutput() {
	if s.output == nil {
		return
	}
	deadline := time.Now().Add(outputWait)
	select {
	case <-s.output:
	case <-time.After(outputWait):
	}
	awaitJournal(deadline)
}

// outputWait is less than what the manager leaves this process after grace.
const outputWait = 3 * time.Second

// takenInterval is how often a journal that is behind is looked at.
const takenInterval = time.Millisecond

// awaitJournal waits until journald has what was written to the unit's own output: it
// then looks up this process, which has to be there.
func awaitJournal(deadline time.Time) {
	for fd := 1; fd <= 2; fd++ {
		for time.Now().Before(deadline) {
			if waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err != nil || waiting == 0 {
				break // or it is no socket
			}
			time.Sleep(takenInterval)
		}
	}
}
