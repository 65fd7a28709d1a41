// Package fsids gives a thread of root's the rights to files that a user has: what a path
// of that user's choice leads to, they could open themselves.
package fsids

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// overFiles are the capabilities that pass over the permissions of files.
const overFiles = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID

// Become changes the ids that the kernel compares with a file's, and the supplementary
// groups, of the calling thread alone, which must be locked (runtime.LockOSThread). With
// the user go the capabilities over files, and with uid 0 they come back (capabilities(7),
// "Effect of user ID changes on capabilities"); that they are gone is read back.
//
// Not changed are the effective and real ids: signals, ptrace and what else does not
// open a file is root's as before.
func Become(uid, gid uint32, groups []uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
		return fmt.Errorf("cannot set the groups: %w", errno)
	}
	for _, id := range []struct {
		call uintptr
		name string
		want uint32
	}{{unix.SYS_SETFSGID, "gid", gid}, {unix.SYS_SETFSUID, "uid", uid}} {
		_, _, _ = unix.RawSyscall(id.call, uintptr(id.want), 0, 0)
		// Neither tells of a failure. An impossible id tells what holds (setfsuid(2)).
		if now, _, _ := unix.RawSyscall(id.call, ^uintptr(0), 0, 0); uint32(now) != id.want {
			return fmt.Errorf("the file system's %s is %d, not %d", id.name, uint32(now), id.want)
		}
	}
	if uid == 0 {
		return nil
	}
	return requireNone()
}

// requireNone: with the securebit SECBIT_NO_SETUID_FIXUP the kernel takes none away.
func requireNone() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("cannot read the capabilities: %w", err)
	}
	if left := data[0].Effective & overFiles; left != 0 {
		return fmt.Errorf("capabilities over files are left (%#x)", left)
	}
	return nil
}
