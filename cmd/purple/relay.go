package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// drainTimeout bounds the wait for output that is still on its way when the
// unit is already gone.
const drainTimeout = 5 * time.Second

// relay copies between the caller's terminal and the sandbox's pty. The
// caller's terminal itself is never passed on.
type relay struct {
	terminal [3]bool
	master   *os.File
	saved    *term.State // of the caller's terminal; nil when it is not raw
	drained  chan struct{}
}

func newRelay(terminal [3]bool) *relay {
	return &relay{terminal: terminal, drained: make(chan struct{})}
}

func (r *relay) started() bool { return r.master != nil }

// start begins to copy. Output goes to the first of stdout and stderr that is
// a terminal; without one (only stdin is), to nowhere else but the terminal
// that stdin is.
func (r *relay) start(master int) error {
	r.master = os.NewFile(uintptr(master), "pty")
	if err := r.raw(); err != nil {
		return err
	}
	r.resize()
	if r.terminal[0] {
		go r.input()
	}
	go func() {
		// The error is EIO: the last process that held the pty is gone.
		_, _ = io.Copy(r.output(), r.master)
		close(r.drained)
	}()
	return nil
}

// input copies until the pty is gone. An error is the end of either side;
// purple itself ends with the run.
func (r *relay) input() { _, _ = io.Copy(r.master, os.Stdin) }

func (r *relay) output() *os.File {
	switch {
	case r.terminal[1]:
		return os.Stdout
	case r.terminal[2]:
		return standardError
	default:
		return os.Stdin
	}
}

// raw makes the caller's terminal pass every byte on: the line discipline is
// the pty's inside. In a pipeline, what reads purple's output writes to the
// terminal too, and its lines need their carriage returns.
func (r *relay) raw() error {
	if !r.terminal[0] {
		return nil
	}
	state, err := term.MakeRaw(0)
	if err != nil {
		return fmt.Errorf("cannot set the terminal raw: %w", err)
	}
	r.saved = state
	if r.terminal[1] {
		return nil
	}
	t, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err == nil {
		t.Oflag |= unix.OPOST
		err = unix.IoctlSetTermios(0, unix.TCSETS, t)
	}
	if err != nil {
		return fmt.Errorf("cannot set the terminal's output mode: %w", err)
	}
	return nil
}

// restore gives the caller's terminal back as it was.
func (r *relay) restore() {
	if r.saved != nil {
		// Nothing better can be done with a terminal that is gone.
		_ = term.Restore(0, r.saved)
		r.saved = nil
	}
}

// resize passes the window size on.
func (r *relay) resize() {
	if r.master == nil {
		return
	}
	for fd, is := range r.terminal {
		if !is {
			continue
		}
		if w, err := unix.IoctlGetWinsize(descriptorOf(fd), unix.TIOCGWINSZ); err == nil {
			_ = unix.IoctlSetWinsize(int(r.master.Fd()), unix.TIOCSWINSZ, w)
			return
		}
	}
}

// drain waits until all output of the sandbox is written.
func (r *relay) drain() {
	if r.master == nil {
		return
	}
	select {
	case <-r.drained:
	case <-time.After(drainTimeout):
	}
}
