// Package userns writes the maps of a user namespace (user_namespaces(7)).
package userns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Map is the only user and the only group of a namespace, inside and outside.
type Map struct {
	UID, GID, OuterUID, OuterGID uint32
	// Others maps every other id to itself, but for the outer ones, which are nobody's
	// inside. It takes privileges over all ids of the outer namespace, and is for
	// idmapped mounts: the files of others in a folder stay theirs.
	Others bool
}

// Write gives a new user namespace, that of the process pid, its only user and
// group. Nobody in it can change the list of supplementary groups from then on.
// The caller has CAP_SETUID and CAP_SETGID, or is the outer user.
func Write(pid int, m Map) error {
	for _, f := range []struct{ file, text string }{
		{"setgroups", "deny"},
		{"gid_map", mapText(m.GID, m.OuterGID, m.Others)},
		{"uid_map", mapText(m.UID, m.OuterUID, m.Others)},
	} {
		if err := writeFile(fmt.Sprintf("/proc/%d/%s", pid, f.file), f.text); err != nil {
			return err
		}
	}
	return nil
}

// noID is no id: (uid_t) -1.
const noID = 1<<32 - 1

// mapText is a map as the kernel takes it: first inside, first outside, how many.
func mapText(inner, outer uint32, others bool) string {
	text := fmt.Sprintf("%d %d 1\n", inner, outer)
	if !others {
		return text
	}
	from := uint64(0)
	for _, taken := range []uint64{uint64(min(inner, outer)), uint64(max(inner, outer)), noID} {
		if taken > from {
			text += fmt.Sprintf("%d %d %d\n", from, from, taken-from)
		}
		from = taken + 1
	}
	return text
}

// writeFile writes a file of the kernel's, which takes its content in one piece.
func writeFile(name, text string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", name, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return fmt.Errorf("cannot write %q: %w", name, err)
	}
	return nil
}
