package confine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restrictPaths makes the spec's write-only paths what they say. Landlock has
// no deny rules, only allowed hierarchies: reading, listing and executing are
// allowed below everything but the write-only paths. What lies on the way to
// one, the root directory first of all, can be entered but not listed.
//
// Not covered: names and metadata. stat(2) of a name that the command guesses
// works in a write-only path.
func (c *command) restrictPaths() error {
	if len(c.spec.WriteOnly) == 0 {
		return nil
	}
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	l := landlock{rights: handledRights(abi), writeOnly: c.spec.WriteOnly}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: l.rights}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0) // the first ABI's size
	if errno != 0 {
		return fmt.Errorf("cannot make a ruleset: %w", errno)
	}
	l.ruleset = int(fd)
	defer unix.Close(l.ruleset)
	if err := l.allowBelow("/"); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return errno
	}
	return l.verify()
}

func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("this kernel has no Landlock, which a write-only output path needs: %w", errno)
	}
	return int(abi), nil
}

// handledRights are the rights that the ruleset governs. REFER (ABI 2): a
// ruleset without it forbids every rename between directories, and with it the
// kernel refuses only those that would make a file more readable.
func handledRights(abi int) uint64 {
	rights := uint64(unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE)
	if abi >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	return rights
}

// landlock is a ruleset being made.
type landlock struct {
	ruleset   int
	rights    uint64
	writeOnly []string
}

// allowBelow allows dir as a whole, or, where a write-only path lies below it,
// each of its entries. An entry made later in such a directory is not readable:
// it fails closed.
func (l *landlock) allowBelow(dir string) error {
	if slices.Contains(l.writeOnly, dir) {
		return nil
	}
	if !l.leadsToWriteOnly(dir) {
		return l.allow(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list %q: %w", dir, err)
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			continue // a link is followed, what it leads to has its own rule
		}
		if err := l.allowBelow(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (l *landlock) leadsToWriteOnly(dir string) bool {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	return slices.ContainsFunc(l.writeOnly, func(p string) bool { return strings.HasPrefix(p, prefix) })
}

func (l *landlock) allow(name string) error {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	rights := l.rights
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(l.ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("cannot allow %q: %w", name, errno)
	}
	return nil
}

// verify lists each write-only path, which must fail with the error that is
// Landlock's.
func (l *landlock) verify() error {
	for _, name := range l.writeOnly {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			return fmt.Errorf("%q is write-only and can still be listed", name)
		}
		if !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("cannot try to list %q: %w", name, err)
		}
	}
	return nil
}
