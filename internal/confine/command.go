package confine

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// command is the process that becomes the command, and what it does it with. It
// is a fork of init and shares init's table of descriptors until it is executed:
// so the listener of its filter, which it could not send, is in init's hands.
type command struct {
	page *page

	tty       int  // the sandbox's pty, or -1
	traced    bool // of a learning run
	uid, gid  uintptr
	keep      uint64 // capabilities
	last      uintptr
	ruleset   int // Landlock's, or -1
	writeOnly []*byte
	dir       *byte
	tasks     unix.Rlimit // 0: no limit

	// Of execve(2).
	path       *byte
	argv, envv []*byte

	filter      unix.SockFprog
	filterFlags uintptr

	names names // for errors
}

// names are what is in messages: the process itself has no use for them.
type names struct {
	dir, path string
	writeOnly []string
}

// newCommand makes all that the process needs, as init of the sandbox.
func newCommand(s *spec.Spec, tty int) (*command, error) {
	id := s.Identity
	c := &command{
		tty: tty, traced: s.Learning, uid: uintptr(id.UID), gid: uintptr(id.GID), keep: s.Capabilities, last: lastCapability(), ruleset: -1,
		tasks: unix.Rlimit{Cur: s.TasksLimit, Max: s.TasksLimit},
		names: names{dir: s.Command.Dir, path: s.Command.Path, writeOnly: s.WriteOnly},
	}
	var err error
	if c.page, err = newPage(); err != nil {
		return nil, err
	}
	if err := c.takeArguments(&s.Command); err != nil {
		return nil, err
	}
	if err := c.takeFilter(s.Filter); err != nil {
		return nil, err
	}
	if s.Notifies() {
		c.filterFlags = listenerFlags()
	}
	return c, c.makeRuleset(s.WriteOnly)
}

func (c *command) takeArguments(s *spec.Command) error {
	var err error
	if c.dir, err = unix.BytePtrFromString(s.Dir); err != nil {
		return fmt.Errorf("cannot pass the working directory: %w", err)
	}
	if c.path, err = unix.BytePtrFromString(s.Path); err != nil {
		return fmt.Errorf("cannot pass the command's path: %w", err)
	}
	if c.argv, err = pointers(s.Argv); err != nil {
		return fmt.Errorf("cannot pass the arguments: %w", err)
	}
	if c.envv, err = pointers(s.Env); err != nil {
		return fmt.Errorf("cannot pass the environment: %w", err)
	}
	return nil
}

// pointers makes the null-terminated array that execve(2) takes.
func pointers(list [][]byte) ([]*byte, error) {
	out := make([]*byte, 0, len(list)+1)
	for _, b := range list {
		p, err := unix.BytePtrFromString(string(b))
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return append(out, nil), nil
}

func (c *command) takeFilter(filter []byte) error {
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(filter) == 0 || len(filter)%size != 0 {
		return fmt.Errorf("cannot load the seccomp filter: it has %d bytes", len(filter))
	}
	program := newProgram(filter)
	c.filter = unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return nil
}

// listenerFlags ask for a listener and, from Linux 5.19 on, that no signal but a
// fatal one interrupts a call that the supervisor has received: it would be made
// anew after the handler, and be counted twice.
func listenerFlags() uintptr {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	// Without a program it loads nothing. The flags are looked at first.
	_, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0)
	if errno == unix.EINVAL {
		return unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return flags
}

// sharing is CLONE_VM where the process may share the memory of init, which has
// the privileges of the whole sandbox. One that lets itself be traced may not, nor
// one that the kernel leaves traceable when it changes its ids.
func (c *command) sharing() uintptr {
	if !canShare || c.traced || leftDumpable() {
		return 0
	}
	return unix.CLONE_VM
}

// leftDumpable tells whether a process stays dumpable that changes its ids: "an
// insecure mode", says proc_sys_fs(5) of fs.suid_dumpable=1.
func leftDumpable() bool {
	text, ok := readKernelFile("/proc/sys/fs/suid_dumpable")
	return !ok || strings.TrimSpace(text) == "1"
}

// run is the whole life of the process, up to the command's first instruction.
//
//go:nosplit
func (c *command) run() {
	c.page.await(mapped)
	for i := range commandSteps {
		if errno := commandSteps[i].run(c); errno != 0 {
			c.fail(i, errno)
		}
	}
	c.page.advance(ready)
	c.page.await(released)
	c.launch()
}

// launch loads the filter, which may allow next to no call, and from then on makes
// none but execve: it spins until init, which has no filter, has read it back.
//
//go:nosplit
func (c *command) launch() {
	listener, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, c.filterFlags, uintptr(unsafe.Pointer(&c.filter)))
	if errno != 0 {
		c.fail(loading, errno)
	}
	c.page.listener.Store(int32(listener))
	c.page.state.Store(filtered)
	for c.page.state.Load() != execute {
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.path)), uintptr(unsafe.Pointer(&c.argv[0])), uintptr(unsafe.Pointer(&c.envv[0])))
	c.fail(executing, errno)
}

// What can fail after the steps, numbered behind them.
const (
	loading = len(commandSteps) + iota
	executing
)

// fail tells init which step could not be done, and waits for its end.
//
//go:nosplit
func (c *command) fail(step int, errno syscall.Errno) {
	c.page.step.Store(int32(step))
	c.page.errno.Store(int32(errno))
	if step == executing {
		c.page.state.Store(failed) // under the filter
	} else {
		c.page.advance(failed)
	}
	for {
		// After the filter's, a call could be one that it denies: there init looks often
		// and ends the process.
		if step != executing {
			syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
}

// failure is what the process has said of its failed step.
func (c *command) failure() error {
	step, errno := int(c.page.step.Load()), syscall.Errno(c.page.errno.Load())
	e := &StepError{Status: spec.StatusRefused, Err: errno}
	switch step {
	case loading:
		e.Step, e.Err = "load the seccomp filter", loadError(errno)
	case executing:
		e.Step, e.Status = fmt.Sprintf("execute %q", c.names.path), spec.StatusNotExecutable
		if errno == unix.ENOENT {
			e.Status = spec.StatusNotFound
		}
	default:
		e.Step = commandSteps[step].name
		if explain := commandSteps[step].explain; explain != nil {
			e.Err = explain(c, int(c.page.detail.Load()), errno)
		}
	}
	return e
}

// loadError explains the one error that is of the machine: a process may have
// one listener only, and a container's manager may have been first.
func loadError(errno syscall.Errno) error {
	if errno == unix.EBUSY {
		return fmt.Errorf("%w: Purple itself is under a filter with a listener, as in some containers; leave syscall out of audit.detail_level", errno)
	}
	return errno
}

// --- the steps, in the order of commandSteps ---------------------------------

// watchForExec lets init hear of execve, see page.
//
//go:nosplit
func (c *command) watchForExec() syscall.Errno {
	pid, _, errno := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	c.page.owner.tid.Store(uint32(pid) | futexWaiters)
	_, _, errno = syscall.RawSyscall(unix.SYS_SET_ROBUST_LIST, uintptr(unsafe.Pointer(&c.page.list)), unsafe.Sizeof(c.page.list), 0)
	return errno
}

// closeDescriptors marks everything above 2 close-on-exec, whoever left it
// open (CVE-2024-21626): only then is the table that execve leaves known. The
// table is also init's, which executes nothing any more.
//
//go:nosplit
func (c *command) closeDescriptors() syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 3, ^uintptr(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	return errno
}

// leadGroup makes a process group of its own, in a session that init leads: then
// the group is not orphaned and Ctrl-Z works (setpgid(2)).
//
//go:nosplit
func (c *command) leadGroup() syscall.Errno {
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETPGID, 0, 0, 0); errno != 0 {
		return errno
	}
	if c.tty < 0 {
		return 0
	}
	// Signals are blocked, so SIGTTOU does not stop what is in the background.
	pid := c.page.owner.tid.Load() &^ futexWaiters
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(c.tty), unix.TIOCSPGRP, uintptr(unsafe.Pointer(&pid)))
	return errno
}

// takeIDs becomes the sandbox's only user. The capabilities are kept for the steps
// below.
//
//go:nosplit
func (c *command) takeIDs() syscall.Errno {
	if errno := prctl(unix.PR_SET_SECUREBITS, secureNoSetuidFixup, 0); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESGID, c.gid, c.gid, c.gid); errno != 0 {
		return errno
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, c.uid, c.uid, c.uid)
	return errno
}

// allowTracer undoes what the change of the ids has done: the supervisor's tracer
// is of the command's user, and nothing more. At execve it is so for every process
// (PR_SET_DUMPABLE).
//
//go:nosplit
func (c *command) allowTracer() syscall.Errno {
	if !c.traced {
		return 0
	}
	return prctl(unix.PR_SET_DUMPABLE, 1, 0)
}

//go:nosplit
func (c *command) setNoNewPrivs() syscall.Errno { return prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0) }

// enterDir starts where the policy says, as the command: a directory that it
// may not enter is an error here and not a surprise later.
//
//go:nosplit
func (c *command) enterDir() syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0)
	return errno
}

func (c *command) explainDir(_ int, errno syscall.Errno) error {
	return fmt.Errorf("%q: %w", c.names.dir, errno)
}

//go:nosplit
func prctl(option int, arg2, arg3 uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_PRCTL, uintptr(option), arg2, arg3, 0, 0, 0)
	return errno
}

// --- init's side -------------------------------------------------------------

// awaitState waits for a state of the process, and explains why it does not come.
func (s *sandbox) awaitState(state uint32) error {
	return s.explain(s.command.page.awaitFork(s.cmd, state))
}

func (s *sandbox) explain(err error) error {
	if errors.Is(err, errStepFailed) {
		_ = unix.Kill(s.cmd, unix.SIGKILL) // it waits for that
		return s.command.failure()
	}
	if errors.Is(err, errForkDied) {
		return s.commandDied()
	}
	return err
}

// commandDied explains an end without a word: a signal, or a crash of purple-init.
func (s *sandbox) commandDied() error {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(s.cmd, &ws, 0, nil); err != nil {
		return fmt.Errorf("the command's process is gone: %w", err)
	}
	return fmt.Errorf("the command's process ended before it was confined (wait status %#x)", uint32(ws))
}

// launch lets the command go: it loads the filter, which is read back before it
// is executed.
func (s *sandbox) launch() error {
	c := s.command
	c.page.advance(released)
	if err := s.explain(c.page.awaitFilter()); err != nil {
		return err
	}
	if c.page.isOver() {
		return s.commandDied()
	}
	if err := s.posture.verifyFiltered(); err != nil {
		return &StepError{Step: "verify the confinement", Err: err, Status: spec.StatusRefused}
	}
	if err := s.sendListener(); err != nil {
		return &StepError{Step: "pass on the seccomp filter's listener", Err: err, Status: spec.StatusRefused}
	}
	c.page.state.Store(execute)
	if err := s.explain(c.page.awaitExec()); err != nil {
		return err
	}
	s.executed = true
	if c.ruleset >= 0 {
		unix.Close(c.ruleset)
	}
	return s.posture.close()
}

// sendListener gives the listener to the supervisor: it then lies in that one's
// own socket. If the command's first call is one that the filter denies, it waits
// there until it is received, or is gone with the supervisor.
func (s *sandbox) sendListener() error {
	if !s.spec.Notifies() {
		return nil
	}
	fd := int(s.command.page.listener.Load())
	if err := spec.NewConn(listenerFD).Send(spec.Message{Kind: spec.Listening}, fd); err != nil {
		return err
	}
	unix.Close(listenerFD)
	return unix.Close(fd)
}
