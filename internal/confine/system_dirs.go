package confine

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// deviceNode is a character device that the sandbox gets from the host.
type deviceNode struct {
	name         string
	major, minor uint32
}

// deviceNodes are all there are: no kvm, fuse, mem, kmsg, uinput, vsock.
// Numbers: Documentation/admin-guide/devices.txt.
var deviceNodes = []deviceNode{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7},
	{"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

var deviceLinks = map[string]string{
	"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
	"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
}

// maskedFiles and maskedDirs of /proc tell of the host or steer it. Most of
// them are for root only already; the masks hold if a kernel forgets one.
var maskedFiles = []string{
	"cmdline", "config.gz", "diskstats", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "key-users", "keys", "kmsg",
	"kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "modules", "mtrr",
	"pagetypeinfo", "partitions", "sched_debug", "slabinfo", "softirqs", "sysrq-trigger", "timer_list",
	"timer_stats", "vmallocinfo",
}

var maskedDirs = []string{"acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "scsi"}

// shmSize caps /dev/shm; like every scratch it counts against the memory limit.
const (
	shmSize   = 64 << 20
	shmInodes = 4096
	devSize   = 64 << 10
	devInodes = 64

	maxTerminals = 256
)

// makeSystemDirs makes what every sandbox has: /run (empty), /proc, /dev.
func (s *sandbox) makeSystemDirs() error {
	run, err := s.target("/run", true)
	if err != nil {
		return err
	}
	unix.Close(run)
	if err := s.makeDev(); err != nil {
		return err
	}
	return s.makeProc()
}

// makeDev builds /dev. The nodes are opened before it is attached, so that
// they are the host's.
func (s *sandbox) makeDev() error {
	dev, err := s.newTmpfs(tmpfs{size: devSize, inodes: devInodes, mode: 0o755})
	if err != nil {
		return err
	}
	if err := s.attachAt(source{tree: dev, dir: true}, "/dev"); err != nil {
		return err
	}
	for _, node := range deviceNodes {
		tree, err := openDevice(node)
		if err != nil {
			return fmt.Errorf("cannot bind \"/dev/%s\": %w", node.name, err)
		}
		if err := s.attachAt(source{tree: tree}, "/dev/"+node.name); err != nil {
			return err
		}
	}
	if err := s.makeDevLinks(); err != nil {
		return err
	}
	return s.makeDevMounts()
}

func (s *sandbox) makeDevLinks() error {
	dir, err := s.target("/dev", true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for name, to := range deviceLinks {
		if err := unix.Symlinkat(to, dir, name); err != nil {
			return fmt.Errorf("cannot make the link \"/dev/%s\": %w", name, err)
		}
	}
	return nil
}

func (s *sandbox) makeDevMounts() error {
	// A new instance: the caller's terminals are not in it. All instances
	// share the kernel's pty.max, 4096.
	pts, err := newFilesystem("devpts", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC,
		"ptmxmode", "0666", "mode", "0620", "max", strconv.Itoa(maxTerminals))
	if err != nil {
		return err
	}
	if err := s.attachAt(source{tree: pts, dir: true}, "/dev/pts"); err != nil {
		return err
	}
	id := s.spec.Identity
	shm, err := s.newTmpfs(tmpfs{shmSize, shmInodes, 0o1777, id.HostUID, id.HostGID, false})
	if err != nil {
		return err
	}
	return s.attachAt(source{tree: shm, dir: true}, "/dev/shm")
}

// openDevice opens the host's node and makes sure that it is that device: a
// /dev/null that is something else would be written to (CVE-2025-31133).
func openDevice(node deviceNode) (int, error) {
	fd, err := openPath(unix.AT_FDCWD, "/dev/"+node.name, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(node.major, node.minor) {
		return -1, fmt.Errorf("it is not character device %d:%d", node.major, node.minor)
	}
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC,
		Attr_clr:    unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_RDONLY,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return -1, err
	}
	return tree, nil
}

// makeProc mounts a fresh /proc, which shows the sandbox's processes only, and
// masks what tells of the host.
func (s *sandbox) makeProc() error {
	proc, err := newFilesystem("proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return err
	}
	if err := s.attachAt(source{tree: proc, dir: true}, "/proc"); err != nil {
		return err
	}
	return s.maskProc()
}

// maskProc covers files by /dev/null and directories by the empty /run, both
// the sandbox's own.
func (s *sandbox) maskProc() error {
	for cover, names := range map[string][]string{"dev/null": maskedFiles, "run": maskedDirs} {
		fd, err := openPath(s.root, cover, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return fmt.Errorf("cannot open \"/%s\": %w", cover, err)
		}
		for _, name := range names {
			if err := s.mask(name, fd); err != nil {
				return err
			}
		}
		unix.Close(fd)
	}
	return nil
}

// mask covers /proc/name, if this kernel has it, by a read-only copy of cover.
func (s *sandbox) mask(name string, cover int) error {
	at, err := openPath(s.root, path.Join("proc", name), unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open \"/proc/%s\": %w", name, err)
	}
	defer unix.Close(at)
	tree, err := unix.OpenTree(cover, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot mask \"/proc/%s\": %w", name, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("cannot mask \"/proc/%s\": %w", name, err)
	}
	return attach(tree, at, "")
}

// writeFiles makes the generated files, such as /etc/passwd.
func (s *sandbox) writeFiles() error {
	for _, f := range s.spec.Files {
		if err := s.writeFile(f.Path, f.Mode, f.Content); err != nil {
			return fmt.Errorf("cannot write %q: %w", f.Path, err)
		}
	}
	return nil
}

func (s *sandbox) writeFile(name string, mode uint32, content []byte) error {
	dir, err := s.target(path.Dir(name), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := s.requireOwnTmpfs(dir); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, path.Base(name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for len(content) > 0 {
		n, err := unix.Write(fd, content)
		if err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}
