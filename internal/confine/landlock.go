package confine

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/stdio"
	"golang.org/x/sys/unix"
)

// makeRuleset makes what lets the spec's write-only paths be what they say. Landlock has
// no deny rules, only allowed hierarchies: reading, listing and executing are
// allowed below everything but the write-only paths. What lies on the way to
// one, the root directory first of all, can be entered but not listed.
//
// Not covered: names and metadata. stat(2) of a name that the command guesses
// works in a write-only path.
func (c *command) makeRuleset(writeOnly []string) error {
	if len(writeOnly) == 0 {
		return nil
	}
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	l := landlock{rights: handledRights(abi), writeOnly: writeOnly}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: l.rights}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0) // the first ABI's size
	if errno != 0 {
		return fmt.Errorf("cannot make a Landlock ruleset: %w", errno)
	}
	l.ruleset = int(fd)
	for _, name := range writeOnly {
		p, err := unix.BytePtrFromString(name)
		if err != nil {
			return err
		}
		c.writeOnly = append(c.writeOnly, p)
	}
	c.ruleset = l.ruleset
	if err := l.allowInput(); err != nil {
		return err
	}
	return l.allowBelow("/")
}

// restrictPaths puts the ruleset in force. Then each write-only path is listed,
// which must fail with the error that is Landlock's.
//
//go:nosplit
func (c *command) restrictPaths() syscall.Errno {
	if c.ruleset < 0 {
		return 0
	}
	c.page.detail.Store(notRestricted)
	if _, _, errno := syscall.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(c.ruleset), 0, 0); errno != 0 {
		return errno
	}
	for i, name := range c.writeOnly {
		c.page.detail.Store(int32(i))
		const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
		_, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, cwd, uintptr(unsafe.Pointer(name)), flags, 0, 0, 0)
		if errno == 0 {
			return stillListed
		}
		if errno != unix.EACCES {
			return errno
		}
	}
	return 0
}

const (
	notRestricted = -1                // of restrictPaths: no path's fault
	stillListed   = unix.EEXIST       // an error that open(2) does not give here
	cwd           = ^uintptr(100) + 1 // AT_FDCWD
)

func (c *command) explainPaths(i int, errno syscall.Errno) error {
	switch {
	case i == notRestricted:
		return errno
	case errno == stillListed:
		return fmt.Errorf("%q is write-only and can still be listed", c.names.writeOnly[i])
	default:
		return fmt.Errorf("cannot try to list %q: %w", c.names.writeOnly[i], errno)
	}
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
	entries, err := listNoLinks(dir)
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

// allowInput lets standard input be opened by its name, /dev/stdin: a copy of a
// regular file is below no directory.
func (l *landlock) allowInput() error {
	var st unix.Stat_t
	if err := unix.Fstat(0, &st); err != nil {
		return fmt.Errorf("cannot examine standard input: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	return l.addRule(0, unix.LANDLOCK_ACCESS_FS_READ_FILE, stdio.Names[0])
}

// listNoLinks lists a directory. The way to it may lie in a bound one, where others
// could put a link: then it fails.
func listNoLinks(dir string) ([]os.DirEntry, error) {
	fd, err := openNoLinks(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	list, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(list), dir)
	defer f.Close()
	return f.ReadDir(-1)
}

func (l *landlock) leadsToWriteOnly(dir string) bool {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	return slices.ContainsFunc(l.writeOnly, func(p string) bool { return strings.HasPrefix(p, prefix) })
}

func (l *landlock) allow(name string) error {
	fd, err := openNoLinks(name)
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
	return l.addRule(fd, rights, name)
}

func (l *landlock) addRule(fd int, rights uint64, name string) error {
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(l.ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("cannot allow %q: %w", name, errno)
	}
	return nil
}
