package policies

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writeNew makes the file name in dir, whole or not at all: it is written under
// another name, made durable, and then renamed, never over an existing file.
// On any error nothing of it is left. A crash can leave a file that starts with
// a dot, which is no profile's name.
func writeNew(dir *os.File, name string, content []byte) error {
	temporary := "." + name + "." + rand.Text()
	if err := writeSynced(dir, temporary, content); err != nil {
		return errors.Join(err, remove(dir, temporary))
	}
	if err := renameNew(dir, temporary, name); err != nil {
		return errors.Join(err, remove(dir, temporary))
	}
	return dir.Sync()
}

func writeSynced(dir *os.File, name string, content []byte) error {
	// 0600 until it is whole: a reader by its final name never sees it earlier.
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(dir.Fd()), name, flags, 0o600)
	if err != nil {
		return fmt.Errorf("cannot create a file in %q: %w", dir.Name(), err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o644) // whatever the umask: a group-writable profile would be refused
	}
	if err == nil {
		err = f.Sync()
	}
	// The close counts too: NFS reports a full disk there.
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write to %q: %w", dir.Name(), err)
	}
	return nil
}

// renameNew renames without replacing. Where the file system has no
// RENAME_NOREPLACE, as NFS, a second link does the same.
func renameNew(dir *os.File, from, to string) error {
	fd := int(dir.Fd())
	err := unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err = unix.Linkat(fd, from, fd, to, 0); err == nil {
			return remove(dir, from)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot put %q into %q: %w", to, dir.Name(), err)
	}
	return nil
}

// remove removes a file; one that is not there is no error.
func remove(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove %q from %q: %w", name, dir.Name(), err)
	}
	return nil
}
