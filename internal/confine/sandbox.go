package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// Descriptors that a child of purple-init starts with, above its standard streams.
const (
	specFD = 3
	connFD = 4
	// listenerFD leads to the supervisor, from the process that becomes the
	// command, if the filter is to have a listener.
	listenerFD = 5
)

// sandbox is PID 1 of the sandbox.
type sandbox struct {
	spec *spec.Spec
	conn *spec.Conn // to the supervisor

	root       int // the new root, a tmpfs
	sources    []source
	userns     int             // maps idmapped mounts; -1: not yet received
	ownDevices map[uint64]bool // st_dev of every tmpfs that this run made

	tty, master int // slave and master of the sandbox's pty, or -1

	cmd     int        // pid of the command
	cmdConn *spec.Conn // to it, until it executes the command
}

// Init runs as the sandbox's PID 1. It returns the exit status.
func Init() int {
	s := &sandbox{conn: spec.NewConn(connFD), userns: -1, tty: -1, master: -1, ownDevices: map[uint64]bool{}}
	unix.CloseOnExec(specFD)
	unix.CloseOnExec(connFD)
	unix.CloseOnExec(listenerFD)
	// The per-thread state of the building (umask, root, working directory)
	// is the process's; only signals to the right thread matter, so one
	// thread does it all.
	runtime.LockOSThread()
	if err := s.run(); err != nil {
		report(s.conn, err)
		return spec.StatusRefused
	}
	return 0
}

// report sends the failure up. If the peer is gone there is nobody to tell,
// and the run ends all the same.
func report(conn *spec.Conn, err error) {
	e := asStepError(err, "start the sandbox")
	if sendErr := conn.Send(spec.Message{Kind: spec.Failed, Step: e.Step, Error: e.Err.Error(), Status: e.Status}); sendErr != nil {
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
	if err := s.awaitReady(); err != nil {
		return err
	}
	if err := s.awaitGo(); err != nil {
		return err
	}
	return s.supervise()
}

// spawnCommand clones the process that becomes the command into the user
// namespace that is the command's alone. It starts as the sandbox's only user,
// with the two capabilities that its own steps need.
func (s *sandbox) spawnCommand() error {
	conn, theirs, err := spec.Pair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	id := s.spec.Identity
	attr := &syscall.ProcAttr{
		Env:   []string{quietEnv},
		Files: []uintptr{0, 1, 2, specFD, theirs.Fd()},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 syscall.CLONE_NEWUSER,
			UidMappings:                []syscall.SysProcIDMap{{ContainerID: int(id.UID), HostID: int(id.HostUID), Size: 1}},
			GidMappings:                []syscall.SysProcIDMap{{ContainerID: int(id.GID), HostID: int(id.HostGID), Size: 1}},
			GidMappingsEnableSetgroups: false,
			Credential:                 &syscall.Credential{Uid: id.UID, Gid: id.GID, NoSetGroups: true},
			AmbientCaps:                startingCapabilities(s.spec.Capabilities),
			// A process group of its own, in a session that init leads:
			// then the group is not orphaned and Ctrl-Z works (setpgid(2)).
			Setpgid: true,
		},
	}
	if s.spec.RecordSyscalls {
		attr.Files = append(attr.Files, listenerFD)
		defer unix.Close(listenerFD)
	}
	for fd, isTerminal := range s.spec.Terminal {
		if isTerminal {
			attr.Files[fd] = uintptr(s.tty)
			attr.Sys.Foreground, attr.Sys.Ctty = true, s.tty
		}
	}
	var pid int
	err = asUser(id.HostUID, id.HostGID, func() (err error) {
		pid, err = syscall.ForkExec("/proc/self/exe", []string{"purple-init", "command"}, attr)
		return err
	})
	if err != nil {
		conn.Close()
		return err
	}
	s.cmd, s.cmdConn = pid, conn
	return s.leaveStreams()
}

// asUser calls f with the effective ids of the command's user and all
// capabilities. Whoever makes a user namespace owns it, and the kernel charges
// to the owner, outside, what it counts per user: inotify instances, queued
// signals, timers, bytes in message queues (kernel/ucount.c). Made as root, it
// would let the command use up those of every root process of the host.
//
// The ids are the calling thread's, which Init has locked.
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

// startingCapabilities are the policy's and the two that the command's own
// steps need: CAP_SYS_ADMIN for Landlock, CAP_SETPCAP for the bounding set.
func startingCapabilities(mask uint64) []uintptr {
	mask |= 1<<unix.CAP_SETPCAP | 1<<unix.CAP_SYS_ADMIN
	var caps []uintptr
	for n := range uintptr(64) {
		if mask&(1<<n) != 0 {
			caps = append(caps, n)
		}
	}
	return caps
}

// leaveStreams gives up init's copies of the command's streams, so that a
// reader or writer at the other end sees the command's own close.
func (s *sandbox) leaveStreams() error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	for fd := range 3 {
		if err := unix.Dup2(null, fd); err != nil {
			return err
		}
	}
	return nil
}

// awaitReady waits until the command's process has read its confinement back.
func (s *sandbox) awaitReady() error {
	m, _, err := s.cmdConn.Recv()
	if errors.Is(err, io.EOF) {
		return s.commandDied()
	}
	if err != nil {
		return err
	}
	return expect(m, spec.Ready)
}

// commandDied explains an end without a word: a signal, or a crash of purple-init.
func (s *sandbox) commandDied() error {
	var ws unix.WaitStatus
	if _, err := unix.Wait4(s.cmd, &ws, 0, nil); err != nil {
		return fmt.Errorf("the command's process is gone: %w", err)
	}
	return fmt.Errorf("the command's process ended before it was confined (wait status %#x)", uint32(ws))
}

// expect turns a Failed message into its error, and any other kind than want
// into one.
func expect(m spec.Message, want spec.MessageKind) error {
	switch m.Kind {
	case want:
		return nil
	case spec.Failed:
		return &StepError{Step: m.Step, Err: errors.New(m.Error), Status: m.Status}
	default:
		return fmt.Errorf("got the message %q instead of %q", m.Kind, want)
	}
}

// awaitGo tells the supervisor that all is in force, waits for its word and
// passes it on. The child's end of the socket closes at execve: until then a
// failure can still arrive.
func (s *sandbox) awaitGo() error {
	var fds []int
	if s.master >= 0 {
		fds = []int{s.master}
	}
	if err := s.conn.Send(spec.Message{Kind: spec.Ready}, fds...); err != nil {
		return err
	}
	if s.master >= 0 {
		unix.Close(s.master)
	}
	// While the supervisor reads its part back.
	if err := dropProcessCapabilities(1 << unix.CAP_KILL); err != nil {
		return &StepError{Step: "drop the privileges of the sandbox's init", Err: err, Status: spec.StatusRefused}
	}
	m, _, err := s.conn.Recv()
	if err != nil {
		return err
	}
	if err := expect(m, spec.Go); err != nil {
		return err
	}
	if err := s.cmdConn.Send(spec.Message{Kind: spec.Go}); err != nil {
		return s.commandDied()
	}
	m, _, err = s.cmdConn.Recv()
	if err == nil {
		return expect(m, spec.Go) // only ever a failure
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return s.conn.Send(spec.Message{Kind: spec.Started})
}

// supervise forwards what the supervisor says and reaps, until the command
// has ended. Then PID 1 ends and the kernel kills whatever is left.
func (s *sandbox) supervise() error {
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
		if err := s.conn.Send(spec.Message{Kind: spec.Stopped}); err != nil {
			return err
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
		case spec.Continue:
			s.resume()
		}
	}
}

func (s *sandbox) dropGroups() error { return syscall.Setgroups(nil) }
