package confine

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"github.com/purple-sandbox/purple/internal/fsids"
	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// source is one opened bind: a detached copy of the host's mount tree, already
// with its final attributes. It is attached as it is, so that there is no
// moment in which the sandbox holds it with others.
type source struct {
	tree int
	dir  bool
}

func (s *sandbox) makeMountsPrivate() error {
	// What the host mounts later must not appear, what is mounted here must
	// not leave (mount_namespaces(7)).
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// openSources opens every bound path while the host's files can be named.
func (s *sandbox) openSources() error {
	open, err := s.sourceOpener()
	if err != nil {
		return err
	}
	s.sources = make([]source, len(s.spec.Mounts))
	for i := range s.spec.Mounts {
		m := &s.spec.Mounts[i]
		if m.Kind == spec.Tmpfs {
			continue
		}
		fd, err := open(i)
		if err != nil {
			return cannotBind(m, err)
		}
		src, err := s.copyBind(fd, m)
		if err != nil {
			return cannotBind(m, err)
		}
		s.sources[i] = src
	}
	closeAll(s.idmaps) // the mounts have them
	return nil
}

// sourceOpener returns what opens the source of a mount, by its number. Under a
// user manager the supervisor has followed the links: see resolveSource.
func (s *sandbox) sourceOpener() (func(int) (int, error), error) {
	if !s.spec.UserManager {
		return s.openOwnSource, nil
	}
	m, _, err := s.conn.Recv()
	if err != nil {
		return nil, err
	}
	if err := expect(m, spec.Sources); err != nil {
		return nil, err
	}
	if len(m.Paths) != len(s.spec.Mounts)+1 {
		return nil, fmt.Errorf("got %d paths for %d mounts and standard input", len(m.Paths), len(s.spec.Mounts))
	}
	s.inputPath = m.Paths[len(s.spec.Mounts)]
	return func(i int) (int, error) { return openNoLinks(m.Paths[i]) }, nil
}

// openOwnSource opens the source of a mount by root's rights, or by the owner's where it
// is the owner who asks for it: what they could not open themselves the command does not
// get either.
func (s *sandbox) openOwnSource(i int) (fd int, err error) {
	m := &s.spec.Mounts[i]
	open := func() (err error) {
		fd, err = openSource(m.Source, m.NoSymlinks)
		return err
	}
	if m.AsOwner {
		return fd, s.asOwner(open)
	}
	return fd, open()
}

// asOwner calls f with the owner's rights to files. They are those of the calling thread,
// which Init has locked.
func (s *sandbox) asOwner(f func() error) error {
	id := s.spec.Identity
	if err := fsids.Become(id.OwnerUID, id.OwnerGID, s.spec.OwnerGroups); err != nil {
		return fmt.Errorf("cannot act as uid %d: %w", id.OwnerUID, err)
	}
	err := f()
	return errors.Join(err, fsids.Return())
}

// copyBind copies the mount tree of an opened source, and closes it.
func (s *sandbox) copyBind(fd int, m *spec.Mount) (source, error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return source{}, err
	}
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return source{}, fmt.Errorf("cannot copy the mount: %w", err)
	}
	if err := s.idmap(tree, m, &st); err != nil {
		return source{}, err
	}
	// Recursively: a remount would leave the submounts writable.
	attr := unix.MountAttr{Attr_set: bindAttributes(m), Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return source{}, fmt.Errorf("cannot set the mount's attributes: %w", err)
	}
	return source{tree: tree, dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

func bindAttributes(m *spec.Mount) uint64 {
	attrs := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if m.Kind == spec.BindReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	if !m.Exec {
		attrs |= unix.MOUNT_ATTR_NOEXEC
	}
	return attrs
}

// idmap shows the owner's files as the command's own. Where the file system
// has no idmapped mounts, the path is bound as it is only if the command's uid
// can use it; its mode is never loosened.
func (s *sandbox) idmap(tree int, m *spec.Mount, st *unix.Stat_t) error {
	if m.Idmap == 0 {
		return nil
	}
	ns, err := s.idmapNamespace(m.Idmap - 1)
	if err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot map its owner: %w", err)
	}
	if !usableByOthers(st, m.Kind) {
		return fmt.Errorf("uid %d, which the command runs as, may not use it (mode %04o, owner %d), and its file system has no idmapped mounts; start purple with sudo as the user who owns it, or use a directory on ext4, xfs or btrfs",
			s.spec.Identity.HostUID, st.Mode&0o7777, st.Uid)
	}
	return nil
}

// usableByOthers tells whether the mode lets everybody in. An ACL that takes
// that away again only makes the command's own calls fail.
func usableByOthers(st *unix.Stat_t, kind spec.MountKind) bool {
	need := uint32(0o4)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		need = 0o5
	}
	if kind == spec.BindReadWrite {
		need |= 0o2
	}
	return st.Mode&need == need
}

// idmapNamespace waits for the user namespaces that purple has made, and gives one.
func (s *sandbox) idmapNamespace(n int) (int, error) {
	if s.idmaps == nil {
		m, fds, err := s.conn.Recv()
		if err != nil {
			return -1, err
		}
		if m.Kind != spec.UserNS || len(fds) != len(s.spec.Idmaps) {
			return -1, fmt.Errorf("got the message %q with %d descriptors instead of %d id maps", m.Kind, len(fds), len(s.spec.Idmaps))
		}
		s.idmaps = fds
	}
	if n < 0 || n >= len(s.idmaps) {
		return -1, fmt.Errorf("internal error: there is no id map %d", n)
	}
	return s.idmaps[n], nil
}

// The root holds directories, links and a few small files.
const (
	rootSize   = 1 << 20
	rootInodes = 4096
)

func (s *sandbox) makeRoot() error {
	fd, err := s.newTmpfs(tmpfs{size: rootSize, inodes: rootInodes, mode: 0o755})
	if err != nil {
		return err
	}
	s.root = fd
	// On top of the old root: absolute paths still lead to the old one, so
	// nothing needs a directory of the host as mount point.
	return attach(fd, unix.AT_FDCWD, "/")
}

// tmpfs describes a file system of the run's own. Its pages are charged to
// the unit's memory limit.
type tmpfs struct {
	size, inodes uint64
	mode         uint32
	uid, gid     uint32 // of its root; 0: init's own
	exec         bool
}

// newTmpfs makes a detached tmpfs and remembers its device, see target.
func (s *sandbox) newTmpfs(t tmpfs) (int, error) {
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if !t.exec {
		attrs |= unix.MOUNT_ATTR_NOEXEC
	}
	options := []string{
		"size", strconv.FormatUint(t.size, 10),
		"nr_inodes", strconv.FormatUint(t.inodes, 10),
		"mode", strconv.FormatUint(uint64(t.mode), 8),
	}
	if t.uid != 0 {
		options = append(options, "uid", strconv.FormatUint(uint64(t.uid), 10), "gid", strconv.FormatUint(uint64(t.gid), 10))
	}
	fd, err := newFilesystem("tmpfs", attrs, options...)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	s.ownDevices[st.Dev] = true
	return fd, nil
}

// newFilesystem makes a detached mount of a new file system; options are key
// and value in turn.
func newFilesystem(fstype string, attrs int, options ...string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("cannot make a %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for i := 0; i < len(options); i += 2 {
		if err := unix.FsconfigSetString(fs, options[i], options[i+1]); err != nil {
			return -1, fmt.Errorf("cannot set %s=%s of a %s: %w", options[i], options[i+1], fstype, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("cannot make a %s: %w", fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("cannot mount a %s: %w", fstype, err)
	}
	return fd, nil
}

// attach puts a detached mount on a path.
func attach(tree, dirfd int, name string) error {
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH
	if name == "" {
		flags |= unix.MOVE_MOUNT_T_EMPTY_PATH
	}
	if err := unix.MoveMount(tree, "", dirfd, name, flags); err != nil {
		return fmt.Errorf("cannot attach the mount: %w", err)
	}
	return nil
}

// attachMounts makes the policy's mounts, parents first.
func (s *sandbox) attachMounts() error {
	s.pinned = map[string]bool{}
	for _, dir := range pinnedDirs(s.spec.Mounts) {
		s.pinned[dir] = false
	}
	for i := range s.spec.Mounts {
		m := &s.spec.Mounts[i]
		src := s.sources[i]
		if m.Kind == spec.Tmpfs {
			fd, err := s.newTmpfs(tmpfs{m.Size, m.Inodes, m.Mode, s.spec.Identity.HostUID, s.spec.Identity.HostGID, m.Exec})
			if err != nil {
				return fmt.Errorf("cannot make scratch %q: %w", m.Target, err)
			}
			src = source{tree: fd, dir: true}
		}
		if err := s.attachAt(src, m.Target); err != nil {
			return fmt.Errorf("cannot mount %q at %q: %w", cmp.Or(m.Source, "a scratch"), m.Target, err)
		}
	}
	return nil
}

// attachAt attaches src at the sandbox path name and closes it.
func (s *sandbox) attachAt(src source, name string) error {
	defer unix.Close(src.tree)
	at, err := s.target(name, src.dir)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return err
	}
	if isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR; isDir != src.dir {
		what := map[bool]string{true: "a directory", false: "a file"}
		return fmt.Errorf("it is %s, and at that place there is %s; give it another sandbox_path", what[src.dir], what[isDir])
	}
	return attach(src.tree, at, "")
}

// pivotRoot makes the new root the root and drops the old one with all that
// is mounted below it (pivot_root(2), "pivot_root(".", ".")").
func (s *sandbox) pivotRoot() error {
	if err := unix.Fchdir(s.root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot detach the old root: %w", err)
	}
	unix.Close(s.root) // nothing is mounted any more
	return unix.Chdir("/")
}

// sealRoot ends the building: nothing of the skeleton can be changed any more.
// /proc as a whole is read-only too, which closes /proc/sys and its like with
// one flag instead of a list.
func (s *sandbox) sealRoot() error {
	for _, name := range []string{"/dev", "/proc", "/"} {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, name, 0, &attr); err != nil {
			return fmt.Errorf("cannot make %q read-only: %w", name, err)
		}
	}
	return nil
}
