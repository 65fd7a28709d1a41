package confine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// openSource opens a host path that will be bound, as O_PATH.
func openSource(unsafePath string, noSymlinks bool) (int, error) {
	fd, err := openNoLinks(unsafePath)
	if !errors.Is(err, unix.ELOOP) {
		return fd, err
	}
	resolved, err := resolveSource(unsafePath, noSymlinks)
	if err != nil {
		return -1, err
	}
	// Where the links lead, and no further: a directory on the way may have
	// become a link since it was looked at.
	return openNoLinks(resolved)
}

func openNoLinks(name string) (int, error) {
	return openPath(unix.AT_FDCWD, name, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}

// resolveSource gives a host path without its symbolic links. One on the way is
// refused when noSymlinks; otherwise it is followed only if nobody but root could
// have put it there. A previous run may have written to the directory: a link
// from it to /etc would bind /etc (CVE-2024-42472).
//
// It must be called where root is root: in a user namespace that does not map
// uid 0, root's files cannot be told from others'.
func resolveSource(unsafePath string, noSymlinks bool) (string, error) {
	fd, err := openNoLinks(unsafePath)
	if err == nil {
		unix.Close(fd)
		return unsafePath, nil
	}
	if !errors.Is(err, unix.ELOOP) {
		return "", err
	}
	if noSymlinks {
		return "", errors.New("there is a symbolic link in the path; name the directory itself")
	}
	if fd, err = openPath(unix.AT_FDCWD, unsafePath, unix.RESOLVE_NO_MAGICLINKS); err != nil {
		return "", err
	}
	unix.Close(fd)
	return followTrustedLinks(unsafePath)
}

// resolveSources does it for each mount of a spec; of a tmpfs it is empty.
func resolveSources(mounts []spec.Mount) ([]string, error) {
	resolved := make([]string, len(mounts))
	for i := range mounts {
		m := &mounts[i]
		if m.Kind == spec.Tmpfs {
			continue
		}
		var err error
		if resolved[i], err = resolveSource(m.Source, m.NoSymlinks); err != nil {
			return nil, cannotBind(m, err)
		}
	}
	return resolved, nil
}

func cannotBind(m *spec.Mount, err error) error {
	return fmt.Errorf("cannot bind %q: %w", m.Source, err)
}

func openPath(dirfd int, name string, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(dirfd, name, &how)
		// EAGAIN: a rename elsewhere raced with the walk (openat2(2)).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// maxLinks is the kernel's own limit (path_resolution(7)).
const maxLinks = 40

// followTrustedLinks gives name without its symbolic links. It refuses one that
// is not root's, or that stands in a directory where others could replace it.
func followTrustedLinks(name string) (string, error) {
	at := "/"
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		var st unix.Stat_t
		if err := unix.Lstat(next, &st); err != nil {
			return "", fmt.Errorf("cannot examine %q: %w", next, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if err := requireRootOnly(next, &st, at); err != nil {
			return "", err
		}
		target, err := readlink(next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

func requireRootOnly(link string, st *unix.Stat_t, dir string) error {
	var parent unix.Stat_t
	if err := unix.Lstat(dir, &parent); err != nil {
		return fmt.Errorf("cannot examine %q: %w", dir, err)
	}
	if st.Uid != 0 || parent.Uid != 0 || parent.Mode&0o022 != 0 {
		return fmt.Errorf("%q is a symbolic link that others than root could have put there; name the directory itself", link)
	}
	return nil
}

func readlink(name string) (string, error) { return readlinkAt(unix.AT_FDCWD, name) }

// readlinkAt reads the link that dirfd is, if name is empty.
func readlinkAt(dirfd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return "", fmt.Errorf("cannot read the link %q: %w", name, err)
	}
	return string(buf[:n]), nil
}

// target opens a sandbox path below the new root, making what is missing of
// it: directories, and at the end a directory or an empty file. Nothing is
// ever made in a bound host directory: a mount point that is missing there is
// an error, not litter in the user's tree. Links are never followed: a bound
// directory could redirect the mount (CVE-2026-87766 in bubblewrap).
func (s *sandbox) target(name string, dir bool) (int, error) {
	at, err := unix.FcntlInt(uintptr(s.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	parts := strings.Split(strings.Trim(name, "/"), "/")
	for i, part := range parts {
		next, err := s.child(at, part, dir || i < len(parts)-1)
		unix.Close(at)
		if err != nil {
			return -1, fmt.Errorf("cannot make the mount point %q: %w", "/"+path.Join(parts[:i+1]...), err)
		}
		at = next
		if i == len(parts)-1 {
			break
		}
		if at, err = s.pinOnce("/"+path.Join(parts[:i+1]...), at); err != nil {
			return -1, err
		}
	}
	return at, nil
}

// pinnedDirs are the directories between a writable mount and another mount below it. The
// command could rename one, the mount with it, and make another of its name:
// `mv .git g; mkdir -p .git/hooks`.
func pinnedDirs(mounts []spec.Mount) []string {
	var pinned []string
	for _, m := range mounts {
		for dir := path.Dir(m.Target); dir != "/"; dir = path.Dir(dir) {
			if h := holder(mounts, dir); h != nil && h.Target != dir && h.Kind != spec.BindReadOnly {
				pinned = append(pinned, dir)
			}
		}
	}
	slices.Sort(pinned)
	return slices.Compact(pinned)
}

// pinOnce pins dir, if it is one of pinnedDirs. It returns the descriptor to go on from,
// in the place of fd.
func (s *sandbox) pinOnce(dir string, fd int) (int, error) {
	if pinned, is := s.pinned[dir]; !is || pinned {
		return fd, nil
	}
	defer unix.Close(fd)
	tree, err := pin(fd)
	if err != nil {
		return -1, fmt.Errorf("cannot mount %q on itself: %w", dir, err)
	}
	s.pinned[dir] = true
	return tree, nil
}

// pin mounts a directory on itself, with its attributes and all that is mounted below it:
// a mount point cannot be renamed or removed (EBUSY, rename(2)). It returns the mount.
func pin(fd int) (int, error) {
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("cannot copy the mount: %w", err)
	}
	if err := attach(tree, fd, ""); err != nil {
		unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

// child opens name in dirfd, making it first if it is not there.
func (s *sandbox) child(dirfd int, name string, dir bool) (int, error) {
	const strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	fd, err := openPath(dirfd, name, strict)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if err := s.requireOwnTmpfs(dirfd); err != nil {
		return -1, err
	}
	if dir {
		err = unix.Mkdirat(dirfd, name, 0o755)
	} else {
		err = unix.Mknodat(dirfd, name, unix.S_IFREG|0o644, 0)
	}
	if err != nil {
		return -1, err
	}
	return openPath(dirfd, name, strict)
}

// requireOwnTmpfs refuses a directory that is not on a tmpfs that this run made.
func (s *sandbox) requireOwnTmpfs(dirfd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dirfd, &st); err != nil {
		return err
	}
	if !s.ownDevices[st.Dev] {
		return errors.New("it does not exist in the bound host directory, and Purple makes nothing there")
	}
	return nil
}
