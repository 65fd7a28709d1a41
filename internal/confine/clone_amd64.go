package confine

import "syscall"

// canShare: a fork can have a stack of its own.
const canShare = true

// clone is clone(2). The fork begins with runChild on the stack that ends at stack;
// if that is 0, on its copy of this one.
func clone(flags, stack uintptr, c child) (pid uintptr, errno syscall.Errno)
