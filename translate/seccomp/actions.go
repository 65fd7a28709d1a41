package seccomp

import (
	"syscall"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// Action is what happens to a call.
type Action string

// The actions. Deny is for what the policy or the floor forbids: the kernel
// answers, or, in a program that notifies, the supervisor does, with the same
// errno. NoSys says "this kernel has no such call", for calls that libraries do
// without only on that answer. Kill ends the whole process.
const (
	Allow Action = "allow"
	Deny  Action = "EPERM"
	NoSys Action = "ENOSYS"
	Kill  Action = "kill"
)

// encoding is an action as a BPF program returns it and as libseccomp takes it.
type encoding struct {
	ret  uint32
	scmp libseccomp.ScmpAction
}

// encode is the one place that says what the kernel does for an action.
func (a Action) encode() encoding {
	switch a {
	case Allow:
		return encoding{unix.SECCOMP_RET_ALLOW, libseccomp.ActAllow}
	case Deny:
		return errno(unix.EPERM)
	case NoSys:
		return errno(unix.ENOSYS)
	default: // a value that is none of the above must not allow
		return encoding{unix.SECCOMP_RET_KILL_PROCESS, libseccomp.ActKillProcess}
	}
}

func errno(e syscall.Errno) encoding {
	return encoding{unix.SECCOMP_RET_ERRNO | uint32(e), libseccomp.ActErrno.SetReturnCode(int16(e))}
}
