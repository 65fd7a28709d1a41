package confine

import "golang.org/x/sys/unix"

const (
	ownArch  = unix.AUDIT_ARCH_X86_64
	statCall = unix.SYS_NEWFSTATAT
)

// archCalls are what Go's runtime and package unix use here. A thread sets the register
// of its own memory itself.
var archCalls = append(anyOf(unix.SYS_DUP2), where(unix.SYS_ARCH_PRCTL, 0, archSetFS))

const archSetFS = 0x1002 // ARCH_SET_FS, of <asm/prctl.h>
