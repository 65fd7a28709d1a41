package host

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespaces are the names in /proc/PID/ns of all seven that are compared.
var namespaces = []string{"mnt", "uts", "ipc", "net", "pid", "user", "cgroup"}

// Probe examines the machine. paths are the host paths whose facts are wanted.
// It starts no process and takes well under a millisecond.
func Probe(paths []string) (Facts, error) {
	f := Facts{Manager: "system", PageSize: os.Getpagesize(), Arch: runtime.GOARCH}
	steps := []func(*Facts) error{probeCgroups, probeSwap, probeLandlock, probeNamespaces, probeHomes, probePaths(paths)}
	for _, step := range steps {
		if err := step(&f); err != nil {
			return Facts{}, err
		}
	}
	return f, nil
}

const cgroupRoot = "/sys/fs/cgroup"

func probeCgroups(f *Facts) error {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return fmt.Errorf("cannot examine %q: %w", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		f.Cgroup = Unified
		data, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
		if err != nil {
			return fmt.Errorf("cannot read the cgroup controllers: %w", err)
		}
		f.Controllers = strings.Fields(string(data))
		return nil
	}
	f.Cgroup = Hybrid
	// A v1 hierarchy by the name of the controller that Facts has for it.
	for name, dir := range map[string]string{"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"} {
		if err := unix.Statfs(cgroupRoot+"/"+dir, &st); err == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
			f.Controllers = append(f.Controllers, name)
		}
	}
	slices.Sort(f.Controllers)
	return nil
}

func probeSwap(f *Facts) error {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fmt.Errorf("cannot read the memory's size: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "SwapTotal:"); ok {
			kib, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			f.SwapTotal = kib << 10
			return err
		}
	}
	return fmt.Errorf("cannot read the swap's size: /proc/meminfo has no SwapTotal")
}

func probeLandlock(f *Facts) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == 0 {
		f.LandlockABI = int(abi)
	}
	return nil
}

// probeNamespaces takes PID 1's: the system manager's. Only root may look;
// for anyone else the map stays empty, and a run is refused for it.
func probeNamespaces(f *Facts) error {
	f.ManagerNamespaces = map[string]uint64{}
	for _, name := range namespaces {
		var st unix.Stat_t
		err := unix.Stat("/proc/1/ns/"+name, &st)
		if err == unix.EACCES {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot examine the manager's %s namespace: %w", name, err)
		}
		f.ManagerNamespaces[name] = st.Ino
	}
	return nil
}

// probeHomes lists the home directories of people and of root: what system
// users call a home, such as /usr/sbin, is none. Users of a directory service
// are covered as far as their homes lie in /home.
func probeHomes(f *Facts) error {
	f.Homes = []string{"/home", "/root"}
	file, err := os.Open("/etc/passwd")
	if err != nil {
		return fmt.Errorf("cannot read the users: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 7 {
			continue
		}
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if err == nil && uid >= 1000 && uid < 65534 && fields[5] != "" {
			f.Homes = append(f.Homes, fields[5])
		}
	}
	return lines.Err()
}

// fsNames are the file systems that a plan tells apart.
var fsNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
}

func probePaths(paths []string) func(*Facts) error {
	return func(f *Facts) error {
		f.Paths = map[string]PathFact{}
		for _, p := range paths {
			fact, err := probePath(p)
			if err != nil {
				return err
			}
			f.Paths[p] = fact
		}
		return nil
	}
}

func probePath(p string) (PathFact, error) {
	var st unix.Stat_t
	err := unix.Stat(p, &st)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return PathFact{}, nil
	}
	if err != nil {
		return PathFact{}, fmt.Errorf("cannot examine %q: %w", p, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p, &fs); err != nil {
		return PathFact{}, fmt.Errorf("cannot examine the file system of %q: %w", p, err)
	}
	name, ok := fsNames[int64(fs.Type)]
	if !ok {
		name = fmt.Sprintf("%#x", fs.Type)
	}
	return PathFact{
		Exists: true, IsDir: st.Mode&unix.S_IFMT == unix.S_IFDIR, FSType: name,
		Device: disk("/sys", p, st.Dev), UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777,
	}, nil
}

// disk is the whole disk behind a file, as "MAJ:MIN", or empty: through a
// btrfs, whose st_dev is no device, through LUKS or another device mapper
// target with one disk below it, and from the partition.
func disk(sysfs, path string, dev uint64) string {
	if unix.Major(dev) == 0 {
		if dev = btrfsDevice(path); dev == 0 {
			return ""
		}
	}
	return wholeDisk(sysfs, fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
}

func wholeDisk(sysfs, number string) string {
	dir := sysfs + "/dev/block/" + number
	if below, err := os.ReadDir(dir + "/slaves"); err == nil && len(below) == 1 {
		return wholeDisk(sysfs, deviceNumber(dir+"/slaves/"+below[0].Name()))
	}
	if _, err := os.Stat(dir + "/partition"); err == nil {
		// A partition's directory lies in its disk's.
		return deviceNumber(dir + "/..")
	}
	if deviceNumber(dir) == "" {
		return ""
	}
	return number
}

func deviceNumber(dir string) string {
	data, err := os.ReadFile(dir + "/dev")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// btrfsDevice asks a btrfs for its first device; 0: it is none, or has several,
// which one limit does not cover.
func btrfsDevice(path string) uint64 {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	// struct btrfs_ioctl_fs_info_args and btrfs_ioctl_dev_info_args of
	// <linux/btrfs.h>.
	var fs struct {
		maxID, devices uint64
		rest           [1008]byte
	}
	const fsInfo, devInfo = 0x8400941f, 0xd000941e
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsInfo, uintptr(unsafe.Pointer(&fs))); errno != 0 || fs.devices != 1 {
		return 0
	}
	var dev struct {
		id   uint64
		rest [3064]byte
		path [1024]byte
	}
	dev.id = fs.maxID
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), devInfo, uintptr(unsafe.Pointer(&dev))); errno != 0 {
		return 0
	}
	var st unix.Stat_t
	if err := unix.Stat(unix.ByteSliceToString(dev.path[:]), &st); err != nil {
		return 0
	}
	return st.Rdev
}
