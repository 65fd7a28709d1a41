package confine

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sealSelf makes sure that purple-init cannot be rewritten from inside, by
// executing it anew from a read-only mount of its own if it has to be.
//
// A command whose first line is "#!/proc/self/exe" is purple-init for a moment,
// under the command's own confinement, and can then be opened for writing as its
// /proc/…/exe (CVE-2019-5736). Where purple-init belongs to the command's user
// outside, as one that an ordinary user has built, the mount is what keeps it as
// it is.
func (s *sandbox) sealSelf() error {
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &own); err != nil {
		return err
	}
	if !s.mayWrite(&own) {
		return nil
	}
	var mount unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &mount); err != nil {
		return err
	}
	if mount.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	return s.executeSelf()
}

// mayWrite tells whether the command's user outside could write to a file, by its
// owner or by its mode, in which an access control list shows as well (acl(5)).
func (s *sandbox) mayWrite(file *unix.Stat_t) bool {
	return file.Uid == s.spec.Identity.HostUID || file.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0
}

// executeSelf returns only if it fails.
func (s *sandbox) executeSelf() error {
	if s.sealed {
		return errors.New("internal error: it was executed from a read-only mount, and the mount is not")
	}
	name, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("cannot find it: %w", err)
	}
	fd, err := openPath(unix.AT_FDCWD, name, unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return fmt.Errorf("cannot open %q: %w", name, err)
	}
	defer unix.Close(fd)
	if err := requireSelf(fd); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	mount, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot copy the mount of %q: %w", name, err)
	}
	defer unix.Close(mount)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("cannot make the mount of %q read-only: %w", name, err)
	}
	if err := keepDescriptors(); err != nil {
		return err
	}
	return syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", mount), initArgs("sealed"), []string{oneProcessor})
}

// initArgs are the arguments of a process that is init. The command can read them:
// they say nothing of the host.
func initArgs(more ...string) []string { return append([]string{"purple-init", "init"}, more...) }

// keepDescriptors lets what the supervisor has given survive execve.
func keepDescriptors() error {
	for _, fd := range []int{specFD, connFD, errorFD, listenerFD, socketsFD} {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
		if err != nil && !errors.Is(err, unix.EBADF) { // not every run has all of them
			return fmt.Errorf("cannot keep descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// requireSelf makes sure that a file is the one that this process runs.
func requireSelf(fd int) error {
	var named, own unix.Stat_t
	if err := unix.Fstat(fd, &named); err != nil {
		return err
	}
	if err := unix.Stat("/proc/self/exe", &own); err != nil {
		return err
	}
	if named.Dev != own.Dev || named.Ino != own.Ino {
		return errors.New("it has been replaced since the unit was started")
	}
	return nil
}
