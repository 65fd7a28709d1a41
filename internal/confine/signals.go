package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelSigaction is struct sigaction as rt_sigaction(2) takes it on both
// architectures; only the handler matters here.
type kernelSigaction struct {
	handler, flags, restorer, mask uintptr
}

const (
	ignored     = 1 // SIG_IGN
	lastSignal  = 64
	sigsetBytes = 8
)

// resetSignals gives the command default dispositions and an empty mask. What
// is ignored or blocked survives execve, and the caller of systemd may have
// left anything: systemd resets with glibc's sigaction, which does not touch
// the two signals that glibc keeps for itself.
//
// Handlers are the Go runtime's, which needs them until execve resets them.
func (c *command) resetSignals() error {
	for n := uintptr(1); n <= lastSignal; n++ {
		var now kernelSigaction
		if errno := sigaction(n, nil, &now); errno != 0 {
			return fmt.Errorf("cannot read the disposition of signal %d: %w", n, errno)
		}
		if now.handler != ignored {
			continue
		}
		if errno := sigaction(n, &kernelSigaction{}, nil); errno != 0 {
			return fmt.Errorf("cannot reset signal %d: %w", n, errno)
		}
	}
	var none [sigsetBytes]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, sigsetBytes, 0, 0)
	if errno != 0 {
		return fmt.Errorf("cannot empty the signal mask: %w", errno)
	}
	return nil
}

func sigaction(signal uintptr, set, old *kernelSigaction) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), sigsetBytes, 0, 0)
	return errno
}
