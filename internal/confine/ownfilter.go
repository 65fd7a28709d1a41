package confine

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// Once the command can run, the supervisor and init need few system calls. What else
// they ask for, somebody makes them ask for: what reads the command's memory, its
// packets and its signals has a bug. The kernel then answers EPERM, and says so in its
// log (SECCOMP_FILTER_FLAG_LOG; the audit of the kernel, type 1326). It does not kill:
// these processes are what ends a run and says why, and one call that this file has
// forgotten should not be the end of all that the command has done.

// ownCall is a system call that a process of Purple's own may still make.
type ownCall struct {
	nr   uint32
	only []condition // one of them holds; nil: whatever the arguments are
}

// condition: the low half of an argument has, of the bits of mask, those of value.
type condition struct {
	argument    int
	mask, value uint32
}

const allBits = ^uint32(0)

// anyOf are calls with any arguments.
func anyOf(numbers ...uint32) []ownCall {
	var calls []ownCall
	for _, nr := range numbers {
		calls = append(calls, ownCall{nr: nr})
	}
	return calls
}

// where is a call of which an argument is one of some values.
func where(nr uint32, argument int, values ...uint32) ownCall {
	c := ownCall{nr: nr}
	for _, v := range values {
		c.only = append(c.only, condition{argument, allBits, v})
	}
	return c
}

// without is a call of which an argument has none of some bits.
func without(nr uint32, argument int, bits uint32) ownCall {
	return ownCall{nr: nr, only: []condition{{argument, bits, 0}}}
}

// threadFlags are those by which Go's runtime makes a thread (cloneFlags in os_linux.go),
// on some architectures with CLONE_SETTLS: a new process has others.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// runtimeCalls are of Go's runtime: memory that is never code, threads, signals of its
// own, and the wait for descriptors.
func runtimeCalls(pid int) []ownCall {
	calls := anyOf(
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE,
		unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE,
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_RESTART_SYSCALL,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
		unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETRANDOM, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2,
		unix.SYS_SENDMSG, unix.SYS_RECVMSG, // the control sockets
	)
	return append(append(calls, archCalls...),
		without(unix.SYS_MMAP, 2, unix.PROT_EXEC),
		without(unix.SYS_MPROTECT, 2, unix.PROT_EXEC),
		ownCall{nr: unix.SYS_CLONE, only: []condition{{0, allBits &^ unix.CLONE_SETTLS, threadFlags}}},
		where(unix.SYS_TGKILL, 0, uint32(pid)),
	)
}

// initCalls are those of the sandbox's init from its last privilege on.
func initCalls(s *spec.Spec, pid int) []ownCall {
	calls := append(runtimeCalls(pid), anyOf(
		unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_KILL, unix.SYS_PREAD64, unix.SYS_DUP3,
		statCall, // threads
	)...)
	calls = append(calls,
		where(unix.SYS_PRCTL, 0, unix.PR_SET_VMA, unix.PR_GET_SECCOMP, unix.PR_SET_TIMERSLACK),
		where(unix.SYS_IOCTL, 1, unix.TIOCSPGRP),
	)
	if s.Uplink != nil && len(s.Published) > 0 {
		calls = append(calls, where(unix.SYS_SOCKET, 0, unix.AF_INET, unix.AF_INET6))
	}
	return calls
}

// changing are the flags of open(2) with which a file is written to, made or emptied.
// __O_TMPFILE is what O_TMPFILE has beside O_DIRECTORY.
const changing = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC | unix.O_TMPFILE&^unix.O_DIRECTORY

// supervisorCalls are those of the supervisor, before the command is let go: to read
// files of the kernel's, write to what is open already, and end init.
func (s *supervisor) supervisorCalls(pid int) []ownCall {
	calls := append(runtimeCalls(pid), anyOf(
		statCall, unix.SYS_FSTAT, unix.SYS_LSEEK, unix.SYS_PREAD64, unix.SYS_FCNTL,
		unix.SYS_WAIT4, unix.SYS_PPOLL,
		unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
		unix.SYS_MEMFD_CREATE,                                                                        // a long event for the journal
		unix.SYS_PIPE2, unix.SYS_SPLICE, unix.SYS_SENDFILE, unix.SYS_COPY_FILE_RANGE, unix.SYS_UNAME, // io.Copy, which asks for the version
	)...)
	sockets, requests := []uint32{unix.AF_UNIX}, []uint32{unix.SIOCOUTQ}
	if s.calls != nil {
		calls = append(calls, anyOf(unix.SYS_PROCESS_VM_READV, unix.SYS_OPENAT2, unix.SYS_READLINKAT, unix.SYS_FSTATFS)...)
		requests = append(requests, unix.SECCOMP_IOCTL_NOTIF_RECV, unix.SECCOMP_IOCTL_NOTIF_SEND, ioctlNotifIDValid, ioctlNotifSetFlags)
	}
	if s.trace != nil {
		calls = append(calls, anyOf(unix.SYS_PTRACE, unix.SYS_GETDENTS64)...)
	}
	if len(s.spec.Published) > 0 {
		calls = append(calls, anyOf(unix.SYS_ACCEPT4, unix.SYS_CONNECT, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKNAME)...)
		sockets = append(sockets, unix.AF_INET, unix.AF_INET6)
	}
	if s.uplink != nil {
		calls = append(calls, anyOf(unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_SEND_SIGNAL)...)
	}
	if s.spec.Learning || s.calls != nil {
		calls = append(calls, where(unix.SYS_SECCOMP, 1, 0)) // exemptThread
	}
	return append(calls, // of which the last is for restrictFiles
		without(unix.SYS_OPENAT, 2, changing),
		where(unix.SYS_SOCKET, 0, sockets...),
		where(unix.SYS_IOCTL, 1, requests...),
		where(unix.SYS_KILL, 0, uint32(s.initPID)),
		where(unix.SYS_PRCTL, 0, unix.PR_SET_VMA, unix.PR_GET_SECCOMP),
		ownCall{nr: unix.SYS_LANDLOCK_RESTRICT_SELF},
	)
}

// Where struct seccomp_data has what a filter looks at. Both architectures are
// little-endian: the low half of an argument comes first.
const (
	offsetOfNumber    = 0
	offsetOfArch      = 4
	offsetOfArguments = 16
)

// ownProgram is the filter that allows calls, and nothing else.
func ownProgram(calls []ownCall) []unix.SockFilter {
	calls = slices.Clone(calls)
	slices.SortFunc(calls, func(a, b ownCall) int { return int(a.nr) - int(b.nr) })
	program := []unix.SockFilter{
		{Code: loadWord, K: offsetOfArch},
		{Code: jumpEqual, K: ownArch, Jt: 1},
		{Code: returnConstant, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: loadWord, K: offsetOfNumber},
	}
	return append(program, searchCalls(calls)...)
}

// searchCalls halves the calls, which are sorted, until one or two are left: the kernel
// runs a filter for each number that there is, when it is loaded.
func searchCalls(calls []ownCall) []unix.SockFilter {
	if len(calls) > 2 {
		half := len(calls) / 2
		lower, upper := searchCalls(calls[:half]), searchCalls(calls[half:])
		program := []unix.SockFilter{{Code: jumpNotLess, K: calls[half].nr, Jt: jumpOver(lower)}}
		return append(append(program, lower...), upper...)
	}
	var program []unix.SockFilter
	for _, c := range calls {
		allowed := c.program()
		program = append(program, unix.SockFilter{Code: jumpEqual, K: c.nr, Jf: jumpOver(allowed)})
		program = append(program, allowed...)
	}
	return append(program, denyOwn)
}

var (
	allowOwn = unix.SockFilter{Code: returnConstant, K: unix.SECCOMP_RET_ALLOW}
	denyOwn  = unix.SockFilter{Code: returnConstant, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
)

// program decides about the call once its number is known.
func (c ownCall) program() []unix.SockFilter {
	if c.only == nil {
		return []unix.SockFilter{allowOwn}
	}
	var program []unix.SockFilter
	for _, o := range c.only {
		program = append(program,
			unix.SockFilter{Code: loadWord, K: offsetOfArguments + 8*uint32(o.argument)},
			unix.SockFilter{Code: andConstant, K: o.mask},
			unix.SockFilter{Code: jumpEqual, K: o.value, Jf: 1},
			allowOwn,
		)
	}
	return append(program, denyOwn)
}

// jumpOver is the length of a part of a program, which a jump has eight bits for.
func jumpOver(part []unix.SockFilter) uint8 {
	if len(part) > 255 {
		panic("internal error: a filter of Purple's own is too long")
	}
	return uint8(len(part))
}

// loadOwnFilter puts no_new_privs and a filter in force on all threads, and reads the
// filter back. With SECCOMP_FILTER_FLAG_TSYNC the other threads get both, at once and
// without being stopped (seccomp_sync_threads() in kernel/seccomp.c).
func loadOwnFilter(calls []ownCall) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	if err := loadProgram(ownProgram(calls), unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_LOG); err != nil {
		return err
	}
	mode, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_GET_SECCOMP, 0, 0, 0, 0, 0)
	if errno != 0 || mode != unix.SECCOMP_MODE_FILTER {
		return errors.New("the kernel says that there is none")
	}
	return nil
}

func loadProgram(program []unix.SockFilter, flags uintptr) error {
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	switch {
	case errno != 0:
		return errno
	case thread != 0: // seccomp(2), SECCOMP_FILTER_FLAG_TSYNC
		return fmt.Errorf("thread %d has another one", thread)
	}
	return nil
}
