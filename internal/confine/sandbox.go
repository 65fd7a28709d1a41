package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/internal/userns"
	"golang.org/x/sys/unix"
)

// Descriptors that a child of purple-init starts with, above its standard streams.
const (
	specFD = 3
	connFD = 4
	// errorFD becomes standard error once that is connected: until then what Go's
	// runtime prints if it crashes goes where the supervisor's goes, to the journal.
	errorFD = 5
	// listenerFD leads to the supervisor, if the filter is to have a listener.
	listenerFD = 6
	// socketsFD leads to the supervisor, if init is to make sockets for it.
	socketsFD = 7
)

// sandbox is PID 1 of the sandbox.
type sandbox struct {
	spec *spec.Spec
	conn *spec.Conn // to the supervisor

	sealed     bool // purple-init was executed from a read-only mount of its own
	root       int  // the new root, a tmpfs
	sources    []source
	idmaps     []int           // user namespaces of idmapped mounts; nil: not yet received
	ownDevices map[uint64]bool // st_dev of every tmpfs that this run made
	pinned     map[string]bool // pinnedDirs, and whether they are

	inputPath string // of the regular file that standard input is copied from; empty: it is not
	input     int    // the copy, or -1

	tty, master int // slave and master of the sandbox's pty, or -1

	suspended atomic.Bool // purple was told that the command is stopped, and has not continued it

	command  *command // the process that becomes the command, until that is executed
	cmd      int      // its pid, and the command's
	executed bool     // the command runs, or has run
	posture  *posture // of it
}

// Init runs as the sandbox's PID 1; sealed is told by sealSelf. It returns the exit
// status.
func Init(sealed bool) int {
	s := &sandbox{sealed: sealed, conn: spec.NewConn(connFD), input: -1, tty: -1, master: -1, ownDevices: map[uint64]bool{}}
	unix.CloseOnExec(specFD)
	unix.CloseOnExec(connFD)
	unix.CloseOnExec(errorFD)
	unix.CloseOnExec(listenerFD)
	unix.CloseOnExec(socketsFD)
	// It was executed as /proc/self/exe, and would be called "exe".
	_ = os.WriteFile("/proc/self/comm", []byte("purple-init"), 0) // for people only
	// The per-thread state of the building (umask, root, working directory)
	// is the process's; only signals to the right thread matter, so one
	// thread does it all.
	runtime.LockOSThread()
	err := s.run()
	if err != nil && !errors.Is(err, io.EOF) { // that the supervisor has gone, it has explained
		kind := spec.Failed
		if s.executed {
			kind = spec.Broken
		}
		report(s.conn, kind, err)
	}
	if err != nil {
		return spec.StatusRefused
	}
	return 0
}

// report sends the failure up. If the peer is gone there is nobody to tell,
// and the run ends all the same.
func report(conn *spec.Conn, kind spec.MessageKind, err error) {
	e := asStepError(err, "start the sandbox")
	if sendErr := conn.Send(spec.Message{Kind: kind, Step: e.Step, Error: e.Err.Error(), Status: e.Status}); sendErr != nil {
		fmt.Fprintf(os.Stderr, "purple: %v (%v)\n", err, sendErr)
	}
}

func (s *sandbox) run() error {
	var err error
	if s.spec, err = spec.Decode(specFD); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := runSteps(s, initSteps); err != nil {
		return err
	}
	unix.Close(specFD) // not before: sealSelf passes it on
	if err := s.awaitGo(); err != nil {
		return err
	}
	return s.supervise()
}

// spawnCommand forks the process that becomes the command into the user namespace
// that is the command's alone, as the sandbox's only user.
func (s *sandbox) spawnCommand() error {
	var err error
	if s.command, err = newCommand(s.spec, s.tty); err != nil {
		return err
	}
	err = s.asCommandsUser(func() (err error) {
		if s.cmd, err = fork(unix.CLONE_NEWUSER|unix.CLONE_FILES|s.command.sharing(), s.command); err != nil {
			return err
		}
		id := s.spec.Identity
		return userns.Write(s.cmd, userns.Map{UID: id.UID, GID: id.GID, OuterUID: id.HostUID, OuterGID: id.HostGID})
	})
	if err != nil {
		return err
	}
	s.command.page.advance(mapped)
	return nil
}

// verifyCommand waits for the command's process and reads back how it is confined,
// but for the filter, which comes last.
func (s *sandbox) verifyCommand() error {
	if err := s.awaitState(ready); err != nil {
		return err
	}
	var err error
	if s.posture, err = openPosture(s.spec, s.cmd); err != nil {
		return err
	}
	if err := s.posture.verify(); err != nil {
		return err
	}
	if err := verifyTasksLimit(s.cmd, s.spec.TasksLimit); err != nil {
		return err
	}
	return s.verifyCommandNamespaces()
}

// asCommandsUser calls f with the effective ids of the command's user and all
// capabilities. Whoever makes a user namespace owns it, and the kernel charges
// to the owner, outside, what it counts per user: inotify instances, queued
// signals, timers, bytes in message queues (kernel/ucount.c). Made as root, it
// would let the command use up those of every root process of the host.
//
// The ids are the calling thread's, which Init has locked. Under a user manager
// they are the user's from the start.
func (s *sandbox) asCommandsUser(f func() error) error {
	if s.spec.UserManager {
		return f()
	}
	return asUser(s.spec.Identity.HostUID, s.spec.Identity.HostGID, f)
}

// asUser is for a thread of root's.
func asUser(uid, gid uint32, f func() error) error {
	const keep = ^uintptr(0) // -1 leaves an id as it is
	setIDs := func(uid, gid uint32) error {
		// Without the securebit the kernel would take the effective capabilities.
		if _, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureNoSetuidFixup, 0); errno != 0 {
			return fmt.Errorf("cannot keep the capabilities: %w", errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, keep, uintptr(gid), keep); errno != 0 {
			return fmt.Errorf("cannot become gid %d: %w", gid, errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			return fmt.Errorf("cannot become uid %d: %w", uid, errno)
		}
		return nil
	}
	if err := setIDs(uid, gid); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, setIDs(0, 0))
}

// leaveStreams gives up init's copies of the command's streams, so that a
// reader or writer at the other end sees the command's own close.
func (s *sandbox) leaveStreams(null int) error {
	defer unix.Close(null)
	for fd := range 3 {
		if err := unix.Dup2(null, fd); err != nil {
			return err
		}
	}
	return nil
}

// expect turns a Failed message into its error, and any other kind than want
// into one.
func expect(m spec.Message, want spec.MessageKind) error {
	switch m.Kind {
	case want:
		return nil
	case spec.Failed, spec.Broken:
		return &StepError{Step: m.Step, Err: errors.New(m.Error), Status: m.Status}
	default:
		return fmt.Errorf("got the message %q instead of %q", m.Kind, want)
	}
}

// awaitGo tells the supervisor that all is in force, waits for its word and lets
// the command go.
func (s *sandbox) awaitGo() error {
	var fds []int
	for _, fd := range []int{s.input, s.master} {
		if fd >= 0 {
			fds = append(fds, fd)
		}
	}
	if err := s.conn.Send(spec.Message{Kind: spec.Ready}, fds...); err != nil {
		return err
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err := s.hide(); err != nil {
		return &StepError{Step: "hide the sandbox's init", Err: err, Status: spec.StatusRefused}
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open \"/dev/null\": %w", err)
	}
	ignoreSignals() // the command's first act may be to send one
	// While the supervisor reads its part back.
	if err := dropProcessCapabilities(1 << unix.CAP_KILL); err != nil {
		return &StepError{Step: "drop the privileges of the sandbox's init", Err: err, Status: spec.StatusRefused}
	}
	if err := loadOwnFilter(initCalls(s.spec, unix.Getpid())); err != nil {
		return &StepError{Step: "filter the system calls of the sandbox's init", Err: err, Status: spec.StatusRefused}
	}
	m, _, err := s.conn.Recv()
	if err != nil {
		return err
	}
	if err := expect(m, spec.Go); err != nil {
		return err
	}
	if err := s.launch(); err != nil {
		return err
	}
	// Not before: until then the descriptors were the fork's as well.
	if err := s.leaveStreams(null); err != nil {
		return err
	}
	return s.conn.Send(spec.Message{Kind: spec.Started})
}

// hide gives what /proc has of init to root. Under a user manager it would be the
// command's uid's own, outside of which only the user namespace of init, above the
// command's, keeps that one from what is in it (ptrace(2), PTRACE_MODE_*).
func (s *sandbox) hide() error {
	if !s.spec.UserManager {
		return nil
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// supervise forwards what the supervisor says and reaps, until the command
// has ended. Then PID 1 ends and the kernel kills whatever is left.
func (s *sandbox) supervise() error {
	if s.spec.Uplink != nil && len(s.spec.Published) > 0 {
		go serveSockets(spec.NewConn(socketsFD))
	}
	go s.forward()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WUNTRACED, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot wait for the command: %w", err)
		}
		if pid != s.cmd {
			continue
		}
		if !ws.Stopped() {
			return s.conn.Send(spec.Message{Kind: spec.Exited, WaitStatus: uint32(ws), Threads: threads(unix.Getpid())})
		}
		if err := s.suspend(); err != nil {
			return err
		}
	}
}

// suspend tells purple that the command was stopped. It is told again only once
// it has continued the command: a process of the sandbox may stop and continue
// the command for ever, while purple, stopped itself, reads nothing of it.
func (s *sandbox) suspend() error {
	if s.suspended.Swap(true) {
		return nil
	}
	return s.conn.Send(spec.Message{Kind: spec.Stopped})
}

// ignoreSignals makes init deaf to the command, which under a user manager has
// the same uid outside and may signal it: `kill -TERM 1` must not be the end of
// PID 1 and of all with it. On a pty it may make init the foreground (TIOCSPGRP),
// whom Ctrl-C and Ctrl-Z then meet. What init obeys comes over its socket.
func ignoreSignals() {
	for n := unix.Signal(1); n <= lastSignal; n++ {
		if n != unix.SIGCHLD && n != unix.SIGURG { // waited for; the Go runtime's own
			signal.Ignore(n)
		}
	}
}

// forward obeys the supervisor. Its end is the sandbox's end: PID 1 exits.
func (s *sandbox) forward() {
	for {
		m, _, err := s.conn.Recv()
		if err != nil {
			os.Exit(spec.StatusRefused)
		}
		switch m.Kind {
		case spec.Signal:
			// ESRCH: it has just ended, and supervise will say so.
			_ = unix.Kill(-s.cmd, unix.Signal(m.Signal))
		case spec.StopAll:
			_ = unix.Kill(-1, unix.Signal(m.Signal))
			// A stopped process obeys once it goes on (so does systemd it, systemd.kill(5)).
			_ = unix.Kill(-1, unix.SIGCONT)
		case spec.Continue:
			s.resume()
		}
	}
}

// dropGroups leaves init, and all that comes after it, no supplementary group.
// An ordinary user may not give one up: a group can also take a permission away
// (user_namespaces(7)). Under a user manager the command therefore keeps those
// of the user, and what it sees of the host's files is what they let it.
func (s *sandbox) dropGroups() error {
	if s.spec.UserManager {
		return nil
	}
	return syscall.Setgroups(nil)
}
