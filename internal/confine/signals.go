package confine

import (
	"fmt"
	"syscall"
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
// the two signals that glibc keeps for itself. Handlers are those of the Go
// runtime, which the fork has not got: they go, too, before the mask is emptied.
//
//go:nosplit
func (c *command) resetSignals() syscall.Errno {
	var standard kernelSigaction
	for n := uintptr(1); n <= lastSignal; n++ {
		c.page.detail.Store(int32(n))
		if n == uintptr(unix.SIGKILL) || n == uintptr(unix.SIGSTOP) {
			continue
		}
		if errno := sigaction(n, &standard, nil); errno != 0 {
			return errno
		}
	}
	var none [sigsetBytes]byte
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, sigsetBytes, 0, 0)
	return errno
}

func (c *command) explainSignals(n int, errno syscall.Errno) error {
	return fmt.Errorf("signal %d: %w", n, errno)
}

//go:nosplit
func sigaction(signal uintptr, set, old *kernelSigaction) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), sigsetBytes, 0, 0)
	return errno
}
