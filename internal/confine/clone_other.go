//go:build !amd64

package confine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// canShare: here a fork has memory of its own, and a copy of this stack.
const canShare = false

// clone is clone(2). The fork begins with runChild; stack is 0.
//
//go:nosplit
func clone(flags, stack uintptr, c child) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	if errno == 0 && pid == 0 {
		runChild(c)
	}
	return pid, errno
}
