package host

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// namespaces are the names in /proc/PID/ns of all seven that are compared.
var namespaces = []string{"mnt", "uts", "ipc", "net", "pid", "user", "cgroup"}

// Probe examines the machine for units of the manager, but for Paths and Network.
// It starts no process and takes well under a millisecond.
func Probe(manager ManagerKind) (Facts, error) {
	f := Facts{Manager: manager, PageSize: os.Getpagesize(), Arch: runtime.GOARCH}
	steps := []func(*Facts) error{probeCgroups, probeSwap, probeLandlock, probeCorePattern, probeNamespaces, probeHomes}
	for _, step := range steps {
		if err := step(&f); err != nil {
			return Facts{}, err
		}
	}
	return f, nil
}

// probeCorePattern: who may not read it learns nothing of it.
func probeCorePattern(f *Facts) error {
	data, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err == nil {
		f.CorePattern = strings.TrimSpace(string(data))
	}
	return nil
}

const cgroupRoot = "/sys/fs/cgroup"

func probeCgroups(f *Facts) error {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return fmt.Errorf("cannot examine %q: %w", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		f.Cgroup = Unified
		data, err := os.ReadFile(filepath.Join(cgroupRoot, managerGroup(f.Manager), "cgroup.controllers"))
		if f.Manager == UserManager && errors.Is(err, os.ErrNotExist) {
			return nil // there is no such manager; who connects to it will hear so
		}
		if err != nil {
			return fmt.Errorf("cannot read the cgroup controllers: %w", err)
		}
		f.Controllers = strings.Fields(string(data))
		return nil
	}
	f.Cgroup = Hybrid
	if f.Manager == UserManager {
		return nil // of v1, nothing is delegated to users
	}
	// A v1 hierarchy by the name of the controller that Facts has for it.
	for name, dir := range map[string]string{"cpu": "cpu", "memory": "memory", "pids": "pids", "io": "blkio"} {
		if err := unix.Statfs(cgroupRoot+"/"+dir, &st); err == nil && st.Type == unix.CGROUP_SUPER_MAGIC {
			f.Controllers = append(f.Controllers, name)
		}
	}
	slices.Sort(f.Controllers)
	return nil
}

// managerGroup is the manager's own control group, below the mount of cgroup v2.
// What a user's has of controllers, the administrator has delegated to it
// (Delegate= of user@.service).
func managerGroup(manager ManagerKind) string {
	if manager == SystemManager {
		return "/"
	}
	uid := os.Geteuid()
	return fmt.Sprintf("/user.slice/user-%d.slice/user@%d.service", uid, uid)
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

// probeNamespaces takes PID 1's: the system manager's. Only who may trace it
// may look; for anyone else the map stays empty, and a run is refused for it.
//
// A user's manager is not looked at: it may have a capability, and then not even
// its own user may trace it. Its namespaces must be this process's own, which
// purple-init compares once it runs in them.
func probeNamespaces(f *Facts) error {
	process := "/proc/1"
	if f.Manager == UserManager {
		process = "/proc/self"
	}
	f.ManagerNamespaces = map[string]uint64{}
	for _, name := range namespaces {
		var st unix.Stat_t
		err := unix.Stat(process+"/ns/"+name, &st)
		// ENOENT: /proc is mounted with hidepid=.
		if err == unix.EACCES || err == unix.EPERM || err == unix.ENOENT {
			clear(f.ManagerNamespaces)
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
// users call a home, such as /usr/sbin, is none. Of the users of a directory
// service it knows those whose homes lie in /home.
func probeHomes(f *Facts) error {
	file, err := os.Open("/etc/passwd")
	if err != nil {
		return fmt.Errorf("cannot read the users: %w", err)
	}
	defer file.Close()
	homes := []string{"/home", "/root"}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if home, ok := personsHome(lines.Text()); ok {
			homes = append(homes, home)
		}
	}
	f.Homes = withResolved(homes)
	return lines.Err()
}

// personsHome reads a line of passwd(5).
func personsHome(line string) (string, bool) {
	fields := strings.Split(line, ":")
	if len(fields) < 7 || !strings.HasPrefix(fields[5], "/") {
		return "", false
	}
	uid, err := strconv.ParseUint(fields[2], 10, 32)
	return filepath.Clean(fields[5]), err == nil && uid >= 1000 && uid < 65534
}

// withResolved adds where each directory really is: on an image-based system
// /home is a link to /var/home, and the kernel names a process's directory so.
func withResolved(dirs []string) []string {
	for _, dir := range dirs {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dirs = append(dirs, real)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// fsNames are the file systems that a plan tells apart.
var fsNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
	unix.RAMFS_MAGIC: "ramfs", unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs",
	unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2",
}

// ProbePaths examines host paths, and what is mounted below them.
func ProbePaths(paths []string) (map[string]PathFact, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	all := pathProber{mounts: parseMounts(string(data)), facts: map[string]PathFact{}, sysfs: "/sys", disks: map[string]string{}}
	for _, p := range paths {
		if err := all.probe(p); err != nil {
			return nil, err
		}
	}
	return all.facts, nil
}

// pathProber collects the facts of many paths, most of them on few disks.
type pathProber struct {
	mounts []mount
	facts  map[string]PathFact
	sysfs  string
	disks  map[string]string // the whole disk behind each device seen so far
}

// probe adds the facts of a path and of all that is mounted below it.
func (a *pathProber) probe(p string) error {
	fact, err := a.path(p)
	if err != nil {
		return err
	}
	var found []mount
	if fact.IsDir {
		if found, err = submounts(p, a.mounts); err != nil {
			return err
		}
	}
	for _, m := range found {
		fact.Submounts = append(fact.Submounts, m.point)
		if _, known := a.facts[m.point]; !known {
			a.facts[m.point] = PathFact{Exists: true, FSType: m.fstype, Device: a.mountDisk(m)}
		}
	}
	a.facts[p] = fact
	return nil
}

// mount is one line of mountinfo.
type mount struct{ point, fstype, device string }

// parseMounts reads proc_pid_mountinfo(5), sorted by mount point; of mounts on
// top of each other the uppermost. Unlike stat(2), the file also tells of a
// FUSE file system that root may not enter, and mounts nothing by itself.
func parseMounts(mountinfo string) []mount {
	top := map[string]mount{}
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		if dash < 6 || dash+1 >= len(fields) {
			continue
		}
		point := unescapeOctal(fields[4])
		top[point] = mount{point: point, fstype: fields[dash+1], device: fields[2]}
	}
	return slices.SortedFunc(maps.Values(top), func(x, y mount) int { return strings.Compare(x.point, y.point) })
}

// unescapeOctal undoes what the kernel does to a space, a tab, a newline and a
// backslash.
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// submounts are those below a directory, which may be named by a link.
func submounts(dir string, mounts []mount) ([]mount, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot examine %q: %w", dir, err)
	}
	var found []mount
	for _, m := range mounts {
		if m.point != real && below(real, m.point) {
			found = append(found, m)
		}
	}
	return found, nil
}

func (a *pathProber) path(p string) (PathFact, error) {
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
		Device: a.disk(p, st.Dev), UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777,
	}, nil
}

// disk is the whole disk behind a file, as "MAJ:MIN", or empty: through a
// btrfs, whose st_dev is no device, through LUKS or another device mapper
// target with one disk below it, and from the partition.
func (a *pathProber) disk(path string, dev uint64) string {
	if unix.Major(dev) == 0 {
		if dev = btrfsDevice(path); dev == 0 {
			return ""
		}
	}
	return a.whole(fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
}

// mountDisk is the whole disk behind a mount, of which mountinfo has the
// device, but for a btrfs.
func (a *pathProber) mountDisk(m mount) string {
	switch {
	case !strings.HasPrefix(m.device, "0:"):
		return a.whole(m.device)
	case m.fstype == "btrfs":
		return a.disk(m.point, 0)
	default:
		return ""
	}
}

func (a *pathProber) whole(number string) string {
	whole, known := a.disks[number]
	if !known {
		whole = wholeDisk(a.sysfs, number)
		a.disks[number] = whole
	}
	return whole
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
