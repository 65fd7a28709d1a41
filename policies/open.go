package policies

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// guard decides whose files are believed: those of root and of these users.
type guard struct{ owners []uint32 }

// read returns a profile's content. What is checked is what was opened and
// what is read, once: nothing is looked up by its path again in between.
//
// It refuses a link, a fifo or device (opened without waiting for its other
// end), a file that another user owns or may write to, a file in a directory
// where another user could replace it, and one of more than maxFile bytes.
//
// It does not see access control lists other than POSIX ones (whose mask shows
// as group bits), nor does it protect from the owner's other processes.
func (g guard) read(unsafePath string) ([]byte, error) {
	f, err := openProfile(unsafePath)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := g.checkFile(f); err != nil {
		return nil, fmt.Errorf("cannot use profile %q: %w", unsafePath, err)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read profile %q: %w", unsafePath, err)
	}
	return content, nil // Parse refuses what is longer than maxFile
}

func openProfile(unsafePath string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	f, err := os.OpenFile(unsafePath, flags, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("cannot use profile %q: it is a symbolic link, and where it leads could change after it was checked; "+
			"copy the file there instead", unsafePath)
	case errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("cannot use profile %q: it is not a regular file", unsafePath)
	case err != nil:
		return nil, fmt.Errorf("cannot open profile %q: %w", unsafePath, cause(err))
	}
	return f, nil
}

// cause strips the operation and the path, which the caller's message has.
func cause(err error) error {
	var withPath *fs.PathError
	if errors.As(err, &withPath) {
		return withPath.Err
	}
	return err
}

func (g guard) checkFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot examine it: %w", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case !g.trusts(st.Uid):
		return fmt.Errorf("it belongs to user %d, who could change it: only files of root and of you are used; chown or copy it", st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write to it (mode %04o): run \"chmod go-w\" on it", st.Mode&0o7777)
	}
	place, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return fmt.Errorf("cannot tell where it is: %w", err)
	}
	return g.checkPlace(filepath.Dir(place), st.Nlink)
}

// checkPlace refuses a file whose directory, or one above it, another user may
// change: they could put another file in its place. In a sticky directory,
// such as /tmp, others can neither remove nor rename the file; what they can do
// is link a file of ours to a second name, so that there it must have just one.
func (g guard) checkPlace(dir string, links uint64) error {
	for parent := dir; ; parent = filepath.Dir(parent) {
		var st unix.Stat_t
		if err := unix.Lstat(parent, &st); err != nil {
			return fmt.Errorf("cannot examine its directory %q: %w", parent, err)
		}
		sticky := st.Mode&unix.S_ISVTX != 0
		switch {
		case !g.trusts(st.Uid):
			return fmt.Errorf("its directory %q belongs to user %d, who could replace it", parent, st.Uid)
		case st.Mode&0o022 != 0 && !sticky:
			return fmt.Errorf("others may write to its directory %q (mode %04o) and so replace it: run \"chmod go-w\" on that",
				parent, st.Mode&0o7777)
		case st.Mode&0o022 != 0 && parent == dir && links > 1:
			return fmt.Errorf("it has %d names, and others may write to its directory %q", links, parent)
		case parent == "/":
			return nil
		}
	}
}

func (g guard) trusts(uid uint32) bool { return uid == 0 || slices.Contains(g.owners, uid) }
