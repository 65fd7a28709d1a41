package confine

import "golang.org/x/sys/unix"

const (
	ownArch  = unix.AUDIT_ARCH_AARCH64
	statCall = unix.SYS_FSTATAT
)

// archCalls: none that the other architecture has not got.
var archCalls []ownCall
