package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// tries makes calls that anybody may make of whom no profile denies them, and
// does with them what they are for; and one that the floor denies.
func tries(targets []string) any {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, badFD, unix.TIOCSTI, 0)
	return map[string]any{
		"pidfd_getfd": copyDescriptor(), "mlock": lockPage(), "TIOCSTI": unix.ErrnoName(errno), "dial": dial(targets),
	}
}

// copyDescriptor gets a copy of this process's own standard output.
func copyDescriptor() string {
	self, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return answer(err)
	}
	defer unix.Close(self)
	stdout, err := unix.PidfdGetfd(self, 1, 0)
	if err != nil {
		return answer(err)
	}
	defer unix.Close(stdout)
	var st [2]unix.Stat_t
	if unix.Fstat(1, &st[0]) != nil || unix.Fstat(stdout, &st[1]) != nil || st[0].Ino != st[1].Ino {
		return "another file"
	}
	return "ok"
}

func lockPage() string {
	page := make([]byte, unix.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MLOCK, uintptr(unsafe.Pointer(&page[0])), uintptr(len(page)), 0)
	if errno != 0 {
		return answer(errno)
	}
	return "ok"
}
