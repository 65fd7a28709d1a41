package confine

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilityData is the two halves of the 64-bit sets, as capset(2) takes them.
type capabilityData [2]unix.CapUserData

//go:nosplit
func capabilitySets(mask, inheritable uint64) capabilityData {
	var d capabilityData
	for i := range d {
		shift := 32 * i
		d[i].Effective = uint32(mask >> shift)
		d[i].Permitted = uint32(mask >> shift)
		d[i].Inheritable = uint32(inheritable >> shift)
	}
	return d
}

// The securebits of <linux/securebits.h>; each one's lock is the bit above it.
const (
	secureNoRoot            = 1 << 0
	secureNoSetuidFixup     = 1 << 2
	secureKeepCaps          = 1 << 4
	secureNoCapAmbientRaise = 1 << 6
)

// lockedSecurebits keep uid 0 of any namespace from meaning anything at
// execve, for the process and all its children, for good (capabilities(7)).
const lockedSecurebits = secureNoRoot | secureNoRoot<<1 |
	secureNoSetuidFixup | secureNoSetuidFixup<<1 | secureKeepCaps<<1 |
	secureNoCapAmbientRaise | secureNoCapAmbientRaise<<1

// dropCapabilities leaves the process the policy's capabilities in all five sets
// and nothing else. Their reach is the command's own user namespace, to which no
// mount, network, host name or other process belongs.
//
//go:nosplit
func (c *command) dropCapabilities() syscall.Errno {
	for n := uintptr(0); n <= c.last; n++ {
		c.page.detail.Store(int32(n))
		if c.keep&(1<<n) != 0 {
			continue
		}
		if errno := prctl(unix.PR_CAPBSET_DROP, n, 0); errno != 0 {
			return errno
		}
	}
	c.page.detail.Store(inTheSets)
	if errno := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); errno != 0 {
		return errno
	}
	// The securebits need CAP_SETPCAP, which goes last.
	if errno := capset(c.keep|1<<unix.CAP_SETPCAP, c.keep); errno != 0 {
		return errno
	}
	for n := uintptr(0); n <= c.last; n++ {
		if c.keep&(1<<n) == 0 {
			continue
		}
		if errno := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n); errno != 0 {
			return errno
		}
	}
	c.page.detail.Store(inSecurebits)
	if errno := prctl(unix.PR_SET_SECUREBITS, lockedSecurebits, 0); errno != 0 {
		return errno
	}
	c.page.detail.Store(inTheSets)
	return capset(c.keep, c.keep)
}

// Where dropCapabilities has failed, but for the numbers of the bounding set.
const (
	inTheSets = 64 + iota
	inSecurebits
)

func (c *command) explainCapabilities(where int, errno syscall.Errno) error {
	switch where {
	case inTheSets:
		return fmt.Errorf("cannot set the capabilities: %w", errno)
	case inSecurebits:
		return fmt.Errorf("cannot lock the securebits: %w", errno)
	default:
		return fmt.Errorf("cannot drop capability %d from the bounding set: %w", where, errno)
	}
}

//go:nosplit
func capset(mask, inheritable uint64) syscall.Errno {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := capabilitySets(mask, inheritable)
	_, _, errno := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	return errno
}

// lastCapability is the kernel's: behind it PR_CAPBSET_READ says EINVAL.
func lastCapability() uintptr {
	n := uintptr(0)
	for n < 63 && prctl(unix.PR_CAPBSET_READ, n+1, 0) != unix.EINVAL {
		n++
	}
	return n
}

// dropProcessCapabilities leaves this process keep and no way to more, on
// every thread: Go has several, and each has sets of its own. The process
// executes nothing any more, so with no_new_privs, which loadOwnFilter sets, the
// bounding set, which only matters at execve, need not be walked: each call stops
// all threads.
func dropProcessCapabilities(keep uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := capabilitySets(keep, 0)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return fmt.Errorf("cannot set the capabilities: %w", errno)
	}
	return nil
}
