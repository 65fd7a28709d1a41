package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// command is the process that becomes the command.
type command struct {
	spec *spec.Spec
	conn *spec.Conn // to init; closes at execve
	tid  int        // the locked thread, which executes the command
}

// Command runs as the process that becomes the command. It returns only if
// that failed, with the exit status.
//
// It is called on the main thread, which init of package main has locked:
// capabilities, no_new_privs and the filter are per thread.
func Command() int {
	c := &command{conn: spec.NewConn(connFD), tid: unix.Gettid()}
	if err := c.run(); err != nil {
		report(c.conn, err)
		return spec.StatusRefused
	}
	return 0
}

func (c *command) run() error {
	err := quietRuntime()
	if err != nil {
		return err
	}
	if c.spec, err = spec.Decode(specFD); err != nil {
		return err
	}
	if err := runSteps(c, commandSteps); err != nil {
		return err
	}
	if err := c.awaitGo(); err != nil {
		return err
	}
	return c.exec()
}

// awaitGo tells init that this process is confined but for the filter, and
// waits. What spins later must not spin that long.
func (c *command) awaitGo() error {
	if err := c.conn.Send(spec.Message{Kind: spec.Ready}); err != nil {
		return err
	}
	m, _, err := c.conn.Recv()
	if err != nil {
		return err
	}
	return expect(m, spec.Go)
}

// closeDescriptors marks everything above 2 close-on-exec, whoever left it
// open (CVE-2024-21626): only then is the table that execve leaves known.
func (c *command) closeDescriptors() error {
	return unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
}

// enterDir starts where the policy says, as the command: a directory that it
// may not enter is an error here and not a surprise later.
func (c *command) enterDir() error {
	if err := unix.Chdir(c.spec.Command.Dir); err != nil {
		return fmt.Errorf("%q: %w", c.spec.Command.Dir, err)
	}
	return nil
}

// quietEnv turns asynchronous preemption off. It cannot be a go:debug line.
const quietEnv = "GODEBUG=asyncpreemptoff=1"

// quietRuntime keeps the Go runtime from wanting anything of the locked thread
// while that spins between the filter and execve: a preemption would make calls
// that the filter denies, a garbage collection would wait for it for ever, and
// with one processor the other thread would never run.
func quietRuntime() error {
	if !slices.Contains(os.Environ(), quietEnv) {
		return errors.New("internal error: the command's process was started without " + quietEnv)
	}
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(2)
	return nil
}
