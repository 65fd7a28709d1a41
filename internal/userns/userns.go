// Package userns writes the maps of a user namespace (user_namespaces(7)).
package userns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Map is the only user and the only group of a namespace, inside and outside.
type Map struct{ UID, GID, OuterUID, OuterGID uint32 }

// Write gives a new user namespace, that of the process pid, its only user and
// group. Nobody in it can change the list of supplementary groups from then on.
// The caller has CAP_SETUID and CAP_SETGID, or is the outer user.
func Write(pid int, m Map) error {
	for _, f := range []struct{ file, text string }{
		{"setgroups", "deny"},
		{"gid_map", fmt.Sprintf("%d %d 1\n", m.GID, m.OuterGID)},
		{"uid_map", fmt.Sprintf("%d %d 1\n", m.UID, m.OuterUID)},
	} {
		if err := writeFile(fmt.Sprintf("/proc/%d/%s", pid, f.file), f.text); err != nil {
			return err
		}
	}
	return nil
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
