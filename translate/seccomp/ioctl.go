package seccomp

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// An ioctl(2) request has the type of its driver in its second byte, and a number in its
// first (<linux/ioctl.h>). Of the types that file systems have, a command needs what asks
// about a file, and what shares its blocks; the rest sets keys, seals, quotas and flags on
// the host's files, or works on the file system as a whole
// (Documentation/userspace-api/ioctl/ioctl-number.rst).
const (
	ioctlTypeMask = 0xff00

	ioctlOfFiles = 'f' << 8  // ext4, fs-verity, fscrypt
	ioctlOfXFS   = 'X' << 8  // FSSETXATTR, FIFREEZE, FITRIM
	ioctlOfBtrfs = 0x94 << 8 // FS_IOC_SETFSLABEL too
	ioctlOfF2FS  = 0xf5 << 8
)

var fileSystemTypes = []uint32{ioctlOfFiles, ioctlOfXFS, ioctlOfBtrfs, ioctlOfF2FS}

// fileRequests are those of these types that the floor lets pass.
var fileRequests = []uint32{
	unix.FS_IOC_GETFLAGS, 0x80046601, // and as a program of 32 bits asks
	0x80087601, // FS_IOC_GETVERSION
	0xc020660b, // FS_IOC_FIEMAP
	0x801c581f, // FS_IOC_FSGETXATTR
	unix.FICLONE, unix.FICLONERANGE, unix.FIDEDUPERANGE,
	unix.FS_IOC_GET_ENCRYPTION_POLICY_EX, 0x400c6615, // FS_IOC_GET_ENCRYPTION_POLICY
	unix.FS_IOC_GET_ENCRYPTION_KEY_STATUS, unix.FS_IOC_GET_ENCRYPTION_NONCE,
	0xc0046686, // FS_IOC_MEASURE_VERITY
	0xc0286687, // FS_IOC_READ_VERITY_METADATA
}

// refusedRequests are of no type that is refused as a whole: input into a terminal, which
// the shell outside would then read (CVE-2017-5226), and FS_IOC_SETVERSION.
var refusedRequests = []uint32{unix.TIOCSTI, tiocLinux, 0x40087602, 0x40047602}

// checkIoctl denies requests. The kernel takes one as 32 bits: a comparison of 64 lets it
// pass with an upper half (CVE-2019-10063).
func checkIoctl(a *assembler) {
	a.load(offLow(1))
	for _, request := range refusedRequests {
		a.returnIf(bpf.JumpEqual, request, Deny)
	}
	for _, request := range fileRequests {
		a.jump(bpf.JumpEqual, request, "ioctl.pass")
	}
	a.and(ioctlTypeMask)
	for _, kind := range fileSystemTypes {
		a.returnIf(bpf.JumpEqual, kind, Deny)
	}
}

// whyNotIoctl is why checkIoctl denies a request; empty: it does not.
func whyNotIoctl(request uint32) string {
	switch {
	case request == unix.TIOCSTI || request == tiocLinux:
		return "it puts input into a terminal"
	case slices.Contains(refusedRequests, request):
		return changesFiles
	case !slices.Contains(fileRequests, request) && slices.Contains(fileSystemTypes, request&ioctlTypeMask):
		return changesFiles
	}
	return ""
}

const changesFiles = "it changes keys, seals or flags of the host's files, or a file system as a whole"
