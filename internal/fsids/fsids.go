// Package fsids gives a thread of root's the rights to files that a user has: what a path
// of that user's choice leads to, they could open themselves.
package fsids

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Become changes the effective ids, those that the kernel compares with a file's with
// them, and the supplementary groups, of the calling thread alone, which must be locked
// (runtime.LockOSThread). All capabilities go from the effective set with the user
// (capabilities(7), "Effect of user ID changes on capabilities"); that they are gone is
// read back.
//
// setfsuid(2) would not do: with CAP_SYS_PTRACE the thread goes through /proc/PID/cwd to
// where another user stands, and to root as the effective uid /proc/sys opens what is
// root's alone.
//
// The real and the saved uid stay root's: the user can neither trace nor signal the
// thread, and Return has a way back.
func Become(uid, gid uint32, groups []uint32) error {
	if err := setGroups(groups); err != nil {
		return err
	}
	if err := setEffective(unix.SYS_SETRESGID, gid); err != nil {
		return fmt.Errorf("cannot change the gid: %w", err)
	}
	if err := setEffective(unix.SYS_SETRESUID, uid); err != nil {
		return fmt.Errorf("cannot change the uid: %w", err)
	}
	if uid == 0 {
		return nil
	}
	return requireNone()
}

// Return makes the thread root's again, without supplementary groups. The effective
// capabilities come back with the uid.
func Return() error {
	if err := setEffective(unix.SYS_SETRESUID, 0); err != nil {
		return fmt.Errorf("cannot become root again: %w", err)
	}
	if err := setEffective(unix.SYS_SETRESGID, 0); err != nil {
		return fmt.Errorf("cannot take root's gid again: %w", err)
	}
	return setGroups(nil)
}

func setGroups(groups []uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
		return fmt.Errorf("cannot set the groups: %w", errno)
	}
	return nil
}

// setEffective changes one of three ids. Go's own function would change all threads.
func setEffective(call uintptr, id uint32) error {
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(call, same, uintptr(id), same); errno != 0 {
		return errno
	}
	return nil
}

// requireNone: with the securebit SECBIT_NO_SETUID_FIXUP the kernel takes none away.
func requireNone() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("cannot read the capabilities: %w", err)
	}
	if left := uint64(data[1].Effective)<<32 | uint64(data[0].Effective); left != 0 {
		return fmt.Errorf("capabilities are left (%#x)", left)
	}
	return nil
}
