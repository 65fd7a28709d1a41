package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

// asInvoker calls f with the rights that the user behind sudo has to files, on
// a thread of its own, which then ends: purple itself is root, and a path of
// that user's choice could lead anywhere. For plain root, and for a user who calls
// purple themselves, it just calls f.
func asInvoker(i translate.Invoker, f func() error) error {
	if int(i.UID) == os.Geteuid() {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := becomeForFiles(i.UID, i.GID); err != nil {
			done <- fmt.Errorf("cannot act as uid %d: %w", i.UID, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// becomeForFiles changes the ids that the kernel compares with a file's, of
// this thread alone. With the user id go the capabilities over files
// (capabilities(7), "Effect of user ID changes on capabilities").
func becomeForFiles(uid, gid uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); errno != 0 {
		return errno
	}
	// setfsuid(2) tells of no failure; an impossible id tells what holds.
	now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0)
	if uint32(now) != uid {
		return fmt.Errorf("the file system's uid is %d", uint32(now))
	}
	return nil
}
