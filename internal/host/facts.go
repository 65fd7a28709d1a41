// Package host examines the machine. It is the one place that does: what it
// finds are values, which a test makes up.
package host

// ManagerKind says which systemd starts the units.
type ManagerKind string

// The managers: the machine's, and the one of an ordinary user.
const (
	SystemManager ManagerKind = "system"
	UserManager   ManagerKind = "user"
)

// Facts are what translate needs to know of the machine. Fields are filled by
// Probe, ProbePaths and ProbeNetwork; a test fills them by hand.
type Facts struct {
	Manager ManagerKind
	Cgroup  CgroupLayout
	// Controllers that the manager can give a unit: "cpu", "memory", "pids", "io".
	Controllers []string
	SwapTotal   uint64 // bytes; a v1 memory controller cannot limit swap alone
	LandlockABI int    // 0: the kernel has none
	CorePattern string // kernel.core_pattern (core(5)); empty: not known

	// ManagerNamespaces are the inode numbers of the manager's namespaces, by
	// the names in /proc/PID/ns: "mnt" "uts" "ipc" "net" "pid" "user" "cgroup".
	ManagerNamespaces map[string]uint64

	// Homes are the home directories of people and root, and /home: as the
	// user database has them and, where that differs, with links resolved.
	Homes []string

	// Paths tells, for each host path that the plan asked about, what is there.
	Paths map[string]PathFact

	// Network is there for a plan with a filtered network only.
	Network Network

	PageSize int
	Arch     string // GOARCH
}

// CgroupLayout says how control groups are mounted.
type CgroupLayout string

// The layouts. On a hybrid host the controllers are in v1 hierarchies.
const (
	Unified CgroupLayout = "unified"
	Hybrid  CgroupLayout = "hybrid"
)

// PathFact is what ProbePaths found at one host path.
type PathFact struct {
	Exists bool
	IsDir  bool
	FSType string // "ext4", "tmpfs", "overlay", "btrfs"
	// Device is the whole disk behind the path ("254:0"), through partition,
	// LUKS and btrfs; empty where there is none, as behind a tmpfs.
	Device string
	UID    uint32 // owner
	GID    uint32
	Mode   uint32 // permission bits, as stat(2) has them, type bits not included
	// Submounts are the mount points below the path, sorted. A bind takes them
	// along; each has an entry of its own in Facts.Paths.
	Submounts []string
}
