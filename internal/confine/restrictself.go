package confine

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restrictSelf leaves the supervisor, which is outside of the sandbox and has the
// manager's uid, what it needs from the command's start on: a filter of system calls,
// and no file that it could write to or execute. It comes before the command is let go,
// so there is no moment in which that meets another supervisor.
func (s *supervisor) restrictSelf() error {
	ruleset, err := newOwnRuleset()
	if err != nil {
		return err
	}
	if err := loadOwnFilter(s.supervisorCalls(unix.Getpid())); err != nil {
		return fmt.Errorf("cannot load its filter of system calls: %w", err)
	}
	for _, l := range s.lookers {
		if err := l.exempt(); err != nil {
			return fmt.Errorf("cannot exempt a thread from Landlock: %w", err)
		}
	}
	if ruleset < 0 {
		return nil // `purple doctor` says so, and the filter is there
	}
	defer unix.Close(ruleset)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0); errno != 0 {
		return fmt.Errorf("cannot restrict its files with Landlock: %w", errno)
	}
	return nil
}

// newOwnRuleset makes a ruleset that governs all changes to files, and execution, and
// allows none of them anywhere. -1: this kernel has no Landlock.
func newOwnRuleset() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return -1, nil
	}
	if errno != 0 {
		return -1, fmt.Errorf("cannot ask for Landlock: %w", errno)
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: changingRights(int(abi))}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0) // the first ABI's size
	if errno != 0 {
		return -1, fmt.Errorf("cannot make a Landlock ruleset: %w", errno)
	}
	return int(fd), nil
}

// changingRights are all that a version of Landlock knows but those to read.
func changingRights(abi int) uint64 {
	const reading = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	last := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM) // of version 1
	switch {
	case abi >= 5:
		last = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	case abi >= 3:
		last = unix.LANDLOCK_ACCESS_FS_TRUNCATE
	case abi == 2:
		last = unix.LANDLOCK_ACCESS_FS_REFER
	}
	return (last<<1 - 1) &^ reading
}

// looker is a thread of the supervisor's that looks into the command's processes, which
// Landlock forbids to a thread that it restricts ("Ptrace restrictions" in
// landlock(7)). The filter holds for it too, and it has the effective uid of the
// command's user, which it cannot change any more: it opens what that user could.
type looker struct {
	filtered chan struct{}
	exempted chan error
}

// startLooker starts a locked thread, which becomes the owner of the command's user
// namespace, and then what f does.
func (s *supervisor) startLooker(prepare func() error, f func()) error {
	l := &looker{filtered: make(chan struct{}), exempted: make(chan error)}
	ready := make(chan error)
	go func() {
		// Never unlocked: with the goroutine ends the thread and what it may.
		runtime.LockOSThread()
		err := prepare()
		if err == nil {
			err = becomeOwner(s.spec.Identity)
		}
		ready <- err
		if err != nil {
			return
		}
		<-l.filtered
		l.exempted <- exemptThread()
		f()
	}()
	s.lookers = append(s.lookers, l)
	return <-ready
}

func (l *looker) exempt() error {
	l.filtered <- struct{}{}
	return <-l.exempted
}

// exemptThread lets landlock_restrict_self(2) do nothing on this thread, and say that it
// has: by a filter, whose answer may be the error 0. Go calls it on all threads or none
// (syscall.AllThreadsSyscall), and wants the same answer of all.
func exemptThread() error {
	program := []unix.SockFilter{
		{Code: loadWord, K: offsetOfNumber},
		{Code: jumpEqual, K: unix.SYS_LANDLOCK_RESTRICT_SELF, Jf: 1},
		{Code: returnConstant, K: unix.SECCOMP_RET_ERRNO},
		allowOwn,
	}
	return loadProgram(program, 0)
}
