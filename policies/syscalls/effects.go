package syscalls

import (
	"iter"
	"maps"
)

// Effect is what a call does to the file system by a path that it is given.
type Effect byte

// The effects. A read-only mount refuses each of them in its own way: see
// internal/confine, which decides what would have been refused.
const (
	Writes  Effect = 'w' // to what is there
	Creates Effect = 'c' // what is not there yet
	Removes Effect = 'r' // a name from its directory, whether or not it is there
)

// Path is one path of a call.
type Path struct {
	Argument int // of the text
	Dir      int // of the descriptor that a relative path begins at; -1: the working directory
	Effect   Effect
	NoFollow bool // a link at the end is itself meant
}

// pathCalls are the calls that change the file system by a path. The flags of
// openat2 are behind a pointer; every filter answers it with ENOSYS.
var pathCalls = map[string][]Path{
	"open":   {{0, -1, Writes, false}},
	"openat": {{1, 0, Writes, false}},
	"creat":  {{0, -1, Writes, false}},

	"mkdir": {{0, -1, Creates, true}}, "mkdirat": {{1, 0, Creates, true}},
	"mknod": {{0, -1, Creates, true}}, "mknodat": {{1, 0, Creates, true}},
	"symlink": {{1, -1, Creates, true}}, "symlinkat": {{2, 1, Creates, true}},
	"link": {{1, -1, Creates, true}}, "linkat": {{3, 2, Creates, true}},

	"unlink": {{0, -1, Removes, true}}, "unlinkat": {{1, 0, Removes, true}}, "rmdir": {{0, -1, Removes, true}},
	"rename":    {{0, -1, Removes, true}, {1, -1, Removes, true}},
	"renameat":  {{1, 0, Removes, true}, {3, 2, Removes, true}},
	"renameat2": {{1, 0, Removes, true}, {3, 2, Removes, true}},

	"truncate": {{0, -1, Writes, false}},
	"chmod":    {{0, -1, Writes, false}}, "fchmodat": {{1, 0, Writes, false}}, "fchmodat2": {{1, 0, Writes, false}},
	"chown": {{0, -1, Writes, false}}, "lchown": {{0, -1, Writes, true}}, "fchownat": {{1, 0, Writes, false}},
	"utime": {{0, -1, Writes, false}}, "utimes": {{0, -1, Writes, false}}, "futimesat": {{1, 0, Writes, false}}, "utimensat": {{1, 0, Writes, false}},
	"setxattr": {{0, -1, Writes, false}}, "lsetxattr": {{0, -1, Writes, true}},
	"removexattr": {{0, -1, Writes, false}}, "lremovexattr": {{0, -1, Writes, true}},
}

// Paths are the paths by which a call changes the file system; none: it does not.
// They are not to be changed.
func Paths(name string) []Path { return pathCalls[name] }

// PathCalls goes through all calls that have any, in no order.
func PathCalls() iter.Seq2[string, []Path] { return maps.All(pathCalls) }

// OpenFlags is the argument of a call that opens files with the flags of open(2);
// ok: it is such a call. Only some flags make it one that changes anything.
func OpenFlags(name string) (argument int, ok bool) {
	switch name {
	case "open":
		return 1, true
	case "openat":
		return 2, true
	}
	return 0, false
}

// neededCapabilities are the calls that a process without a capability is always
// refused (capabilities(7)), by the capability's number. bind(2) is one for a port
// below 1024 only.
var neededCapabilities = map[string]int{
	"bind": 10, // CAP_NET_BIND_SERVICE

	"setgroups": 6, // CAP_SETGID
	"chroot":    18,

	"init_module": 16, "finit_module": 16, "delete_module": 16,
	"ioperm": 17, "iopl": 17,
	"acct": 20,

	// CAP_SYS_ADMIN
	"mount": 21, "umount2": 21, "pivot_root": 21, "swapon": 21, "swapoff": 21, "sethostname": 21, "setdomainname": 21, "setns": 21,
	"fsopen": 21, "fsmount": 21, "open_tree_attr": 21, "move_mount": 21, "mount_setattr": 21, "fspick": 21,

	"reboot": 22, "kexec_load": 22, "kexec_file_load": 22,
	"settimeofday": 25, "clock_settime": 25,
	"vhangup":           26, // CAP_SYS_TTY_CONFIG
	"open_by_handle_at": 2,  // CAP_DAC_READ_SEARCH
}

// NeededCapability is the number of the capability without which a call is
// refused.
func NeededCapability(name string) (number int, ok bool) {
	number, ok = neededCapabilities[name]
	return number, ok
}
