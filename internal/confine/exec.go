package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// The last step has two threads. The locked one loads the filter, spins until
// the other lets it go, and executes the command, without a single system call
// in between: the filter may allow next to none. The other, which has no
// filter, reads the locked thread's confinement back.
type launch struct {
	program unix.SockFprog
	flags   uintptr // of seccomp(2)
	path    *byte
	argv    []*byte
	envv    []*byte

	loaded atomic.Int32 // 0: not yet; 1: the filter is on; else -errno
	// listener is the descriptor of the filter's, if it was asked for one; it is
	// close-on-exec. Valid once loaded is 1.
	listener uintptr
	goOn     atomic.Int32 // 1: execute
	failed   atomic.Int32 // errno of execve
}

// exec does not return when it succeeds.
func (c *command) exec() error {
	l, err := c.newLaunch()
	if err != nil {
		return err
	}
	go func() { os.Exit(c.watch(l)) }()
	l.run()
	return nil
}

func (c *command) newLaunch() (*launch, error) {
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	filter := c.spec.Filter
	if len(filter) == 0 || len(filter)%size != 0 {
		return nil, fmt.Errorf("cannot load the seccomp filter: it has %d bytes", len(filter))
	}
	program := make([]unix.SockFilter, len(filter)/size)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&program[0])), len(filter)), filter)
	l := &launch{program: unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}}
	if c.spec.RecordSyscalls {
		l.flags = listenerFlags()
	}
	var err error
	if l.path, err = unix.BytePtrFromString(c.spec.Command.Path); err != nil {
		return nil, fmt.Errorf("cannot pass the command's path: %w", err)
	}
	if l.argv, err = pointers(c.spec.Command.Argv); err != nil {
		return nil, fmt.Errorf("cannot pass the arguments: %w", err)
	}
	if l.envv, err = pointers(c.spec.Command.Env); err != nil {
		return nil, fmt.Errorf("cannot pass the environment: %w", err)
	}
	return l, nil
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

// run loads the filter and executes the command. From the seccomp call on,
// this thread makes no call but execve: everything here is a raw system call
// or an inlined atomic operation. syscall.Exec would restore RLIMIT_NOFILE
// first, by a call that the filter may deny.
//
//go:nosplit
func (l *launch) run() {
	listener, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, l.flags, uintptr(unsafe.Pointer(&l.program)))
	if errno != 0 {
		l.loaded.Store(-int32(errno))
		for {
		}
	}
	l.listener = listener
	l.loaded.Store(1)
	for l.goOn.Load() == 0 {
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(l.path)), uintptr(unsafe.Pointer(&l.argv[0])), uintptr(unsafe.Pointer(&l.envv[0])))
	l.failed.Store(int32(errno))
	for {
	}
}

// watch is the other thread. It returns an exit status if the command was not
// executed; otherwise execve ends this thread with the rest.
func (c *command) watch(l *launch) int {
	runtime.LockOSThread()
	err := c.release(l)
	if err == nil {
		err = c.executionError(l)
	}
	report(c.conn, err)
	return spec.StatusRefused
}

// release reads the locked thread back and lets it go on.
func (c *command) release(l *launch) error {
	for l.loaded.Load() == 0 {
		syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	if got := l.loaded.Load(); got != 1 {
		return &StepError{Step: "load the seccomp filter", Err: loadError(syscall.Errno(-got)), Status: spec.StatusRefused}
	}
	if err := c.verifyFiltered(); err != nil {
		return &StepError{Step: "verify the confinement", Err: err, Status: spec.StatusRefused}
	}
	if err := c.sendListener(l); err != nil {
		return &StepError{Step: "pass on the seccomp filter's listener", Err: err, Status: spec.StatusRefused}
	}
	if err := c.setTasksLimit(); err != nil {
		return &StepError{Step: "set the tasks limit", Err: err, Status: spec.StatusRefused}
	}
	l.goOn.Store(1)
	return nil
}

// loadError explains the one error that is of the machine: a process may have
// one listener only, and a container's manager may have been first.
func loadError(errno syscall.Errno) error {
	if errno == unix.EBUSY {
		return fmt.Errorf("%w: Purple itself is under a filter with a listener, as in some containers; leave syscall out of audit.detail_level", errno)
	}
	return errno
}

// sendListener gives the listener to the supervisor: it then lies in that one's
// own socket. If the command's first call is one that the filter denies, it waits
// there until it is received, or is gone with the supervisor.
func (c *command) sendListener(l *launch) error {
	if !c.spec.RecordSyscalls {
		return nil
	}
	return spec.NewConn(listenerFD).Send(spec.Message{Kind: spec.Listening}, int(l.listener))
}

// executionError waits for execve to fail; if it succeeds nobody comes back.
func (c *command) executionError(l *launch) error {
	for l.failed.Load() == 0 {
		syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	errno := syscall.Errno(l.failed.Load())
	status := spec.StatusNotExecutable
	if errors.Is(errno, unix.ENOENT) {
		status = spec.StatusNotFound
	}
	return &StepError{Step: fmt.Sprintf("execute %q", c.spec.Command.Path), Err: errno, Status: status}
}
