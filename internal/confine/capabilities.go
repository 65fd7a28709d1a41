package confine

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilityData is the two halves of the 64-bit sets, as capset(2) takes them.
type capabilityData [2]unix.CapUserData

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

// dropCapabilities leaves the calling thread the policy's capabilities in all
// five sets and nothing else. Their reach is the command's own user namespace,
// to which no mount, network, host name or other process belongs.
func (c *command) dropCapabilities() error {
	keep := c.spec.Capabilities
	if err := dropBounding(keep); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot clear the ambient set: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// The securebits need CAP_SETPCAP, which goes last.
	interim := capabilitySets(keep|1<<unix.CAP_SETPCAP, keep)
	if err := unix.Capset(&header, &interim[0]); err != nil {
		return fmt.Errorf("cannot set the capabilities: %w", err)
	}
	if err := raiseAmbient(keep); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, lockedSecurebits, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot lock the securebits: %w", err)
	}
	final := capabilitySets(keep, keep)
	if err := unix.Capset(&header, &final[0]); err != nil {
		return fmt.Errorf("cannot set the capabilities: %w", err)
	}
	return nil
}

// dropBounding drops every capability that this kernel has and keep has not.
// The kernel's last one is where PR_CAPBSET_READ says EINVAL.
func dropBounding(keep uint64) error {
	for n := uintptr(0); n < 64; n++ {
		if err := unix.Prctl(unix.PR_CAPBSET_READ, n, 0, 0, 0); errors.Is(err, unix.EINVAL) {
			return nil
		}
		if keep&(1<<n) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot drop capability %d from the bounding set: %w", n, err)
		}
	}
	return nil
}

func raiseAmbient(mask uint64) error {
	for n := uintptr(0); n < 64; n++ {
		if mask&(1<<n) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n, 0, 0); err != nil {
			return fmt.Errorf("cannot raise capability %d: %w", n, err)
		}
	}
	return nil
}

func (c *command) setNoNewPrivs() error {
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// dropProcessCapabilities leaves this process keep and no way to more, on
// every thread: Go has several, and each has sets of its own. The process
// executes nothing any more, so with no_new_privs the bounding set, which only
// matters at execve, need not be walked: each call stops all threads.
func dropProcessCapabilities(keep uint64) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot set no_new_privs: %w", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := capabilitySets(keep, 0)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return fmt.Errorf("cannot set the capabilities: %w", errno)
	}
	return nil
}
