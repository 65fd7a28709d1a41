package syscalls

import (
	"maps"
	"slices"
)

// namespaceFlags is the flag of clone(2) and unshare(2) for each kind of
// namespace (include/uapi/linux/sched.h).
func namespaceFlags() map[string]uint64 {
	return map[string]uint64{
		"CLONE_NEWTIME":   0x00000080, // unshare only: in clone these bits are the exit signal
		"CLONE_NEWNS":     0x00020000,
		"CLONE_NEWCGROUP": 0x02000000,
		"CLONE_NEWUTS":    0x04000000,
		"CLONE_NEWIPC":    0x08000000,
		"CLONE_NEWUSER":   0x10000000,
		"CLONE_NEWPID":    0x20000000,
		"CLONE_NEWNET":    0x40000000,
	}
}

// NamespaceFlag is the bit of a flag that makes a namespace ("CLONE_NEWUSER"),
// false for any other name.
func NamespaceFlag(name string) (uint64, bool) {
	bit, ok := namespaceFlags()[name]
	return bit, ok
}

// NamespaceFlags are the names that NamespaceFlag knows, sorted.
func NamespaceFlags() []string { return slices.Sorted(maps.Keys(namespaceFlags())) }
