// Package spec is what purple tells purple-init: the whole sandbox as plain
// data, already decided. purple-init carries it out and decides nothing.
package spec

// Version of the format. purple and purple-init are one release: any other
// version is refused, never guessed at.
const Version = 8

// MaxSize caps the encoded Spec, in bytes: argv and environment together are
// limited to 2 MiB by the kernel's default.
const MaxSize = 8 << 20

// Spec is one sandbox. Strings that are the user's (argv, environment) are
// bytes: they need not be UTF-8.
type Spec struct {
	Version int
	Unit    string // "purple-web-0123abcd.service"
	Profile string // "web"
	RunID   string // "0123abcd"
	Detach  bool   // true: the end of the control socket is not the end of the run

	// UserManager: the unit is of a user's own manager, which gives it no
	// namespace: init is cloned into all of them, the network's and one for
	// users included, and has its privileges in that one only.
	UserManager bool

	Command  Command
	Identity Identity
	// OwnerGroups are the supplementary groups that Identity.OwnerUID has beside the
	// rights of Mount.AsOwner. The command has none of them.
	OwnerGroups []uint32

	// ManagerNamespaces are the inode numbers that no namespace of the
	// command may share: all seven, by their names in /proc/PID/ns.
	ManagerNamespaces map[string]uint64
	Hostname          string

	// Idmaps are the owners of bound folders who are not the command's user. A user
	// namespace for each comes with the message Start.
	Idmaps []Owner
	Mounts []Mount // in the order they are made: parents before children
	Files  []File  // small generated files, such as /etc/passwd

	// WriteOnly are the sandbox paths that Landlock makes write-only.
	WriteOnly []string

	// Capabilities is the mask that the command keeps; bit n is capability n.
	Capabilities uint64
	// NetworkNamespace is the inode number of the network namespace that
	// purple made for the run; 0: one of the manager's, with loopback only.
	NetworkNamespace uint64
	// Uplink, under a user manager, is the network of a run that is not isolated;
	// nil: loopback only, or NetworkNamespace.
	Uplink *Uplink
	// RecordDenied: what the namespace's ruleset refuses becomes events.
	RecordDenied bool
	// RecordSyscalls: Filter notifies of what it denies, and the supervisor
	// answers and records it.
	RecordSyscalls bool
	// RecordPaths and RecordCapabilities: Filter notifies of calls that it allows,
	// too, which the mounts may refuse or which need a capability that the command
	// has not got. The supervisor records those and lets all of them go on.
	RecordPaths, RecordCapabilities bool
	// RecordReads: Filter notifies of each call that opens a file, and the
	// supervisor makes events of those that a WriteOnly path refuses.
	RecordReads bool
	// Learning: Filter lets calls pass that the policy does not name, and the
	// supervisor counts all that pass.
	Learning bool
	// Published are the ports of the sandbox, one for each listening socket
	// that comes with the message Connected.
	Published []uint16

	// UnprivilegedPortStart is written to the network namespace's
	// net.ipv4.ip_unprivileged_port_start when the policy adds
	// CAP_NET_BIND_SERVICE: the namespace is Purple's, so the capability
	// alone would mean nothing in it. Negative: left alone.
	UnprivilegedPortStart int

	Rlimits []Rlimit
	// TasksLimit is how many tasks the command's user namespace may hold;
	// 0 means no limit of its own.
	TasksLimit uint64

	// Filter is the seccomp program, an array of struct sock_filter.
	Filter []byte

	// Checks are limits that must read back from the unit's own cgroup.
	Checks []CgroupCheck

	// PolicyHash is the SHA-256 of the effective policy, in hex.
	PolicyHash string
	// ProfileFile is what the policy was read from, for the record only; empty:
	// it is built in.
	ProfileFile string
	// Limits are what Checks, TasksLimit and the unit's timeout hold, for
	// those who are told of them.
	Limits Limits
	// Audit is what is recorded of the run; nil: nothing.
	Audit *Audit

	// Terminal tells which of the descriptors 0, 1 and 2 become a pty.
	Terminal [3]bool
	Winsize  [4]uint16 // rows, columns, x pixels, y pixels
}

// Uplink is what joins init's network namespace with the host's network, without
// a privilege over that.
type Uplink struct {
	// Helper is purple-net on the host, which loads Rules, a ruleset.Table in
	// JSON, before there is an uplink.
	Helper string
	Rules  []byte
	// Pasta are the path and the arguments of pasta(1), but for the last, the pid
	// of a process in the namespace; none: nothing leads out.
	Pasta []string
	// IPv4, IPv6: pasta makes a default route for it.
	IPv4, IPv6 bool
}

// Audit tells what the supervisor records of a run besides denials. It writes
// to the journal always.
type Audit struct {
	// Resources: the limits that are reached, and what the run has used.
	Resources bool
	// LogPath is the file that gets the events too, whose descriptor, open for
	// appending, comes last with the message Start; empty: none.
	LogPath string
}

// Limits of a run; 0: none.
type Limits struct {
	Memory  uint64 // bytes
	Tasks   uint64 // of the command
	CPU     uint64 // microseconds of CPU time a second
	IO      uint64 // bytes a second
	Timeout uint64 // microseconds
}

// Command is what the sandbox runs.
type Command struct {
	Path string   // absolute, as the sandbox sees it
	Argv [][]byte // argv[0] first
	Env  [][]byte // "NAME=value", the whole environment
	Dir  string   // absolute, as the sandbox sees it
}

// Identity maps the one user and the one group of the sandbox.
type Identity struct {
	UID, GID         uint32 // inside
	HostUID, HostGID uint32 // outside; never 0
	// OwnerUID and OwnerGID own, on the host, what the command writes into
	// an idmapped mount.
	OwnerUID, OwnerGID uint32
}

// Owner is who owns, on the host, what the command writes into a folder.
type Owner struct{ UID, GID uint32 }

// MountKind says what a Mount is.
type MountKind string

// The kinds of mount.
const (
	BindReadOnly  MountKind = "bind-read-only"
	BindReadWrite MountKind = "bind-read-write"
	Tmpfs         MountKind = "tmpfs"
)

// Mount is one mount below the sandbox's root.
type Mount struct {
	Kind   MountKind
	Source string // host path; empty for a tmpfs
	Target string // sandbox path
	Size   uint64 // bytes, tmpfs only
	Inodes uint64 // tmpfs only
	Mode   uint32 // tmpfs only, of its root: 0700, 01777
	// NoSymlinks refuses a source with a symbolic link anywhere in its path:
	// a previous run could have put it there (CVE-2024-42472).
	NoSymlinks bool
	// Idmap shows the files of an owner as the command's own: 1 is the first of
	// Spec.Idmaps; 0: nobody's but its own.
	Idmap int
	// AsOwner opens the source with the rights to files that Identity.OwnerUID has, and
	// not with root's: it is the user behind sudo who asks for it.
	AsOwner bool
	// Exec is false for a mount from which nothing may be executed.
	Exec bool
}

// File is one generated file, read-only in the sandbox.
type File struct {
	Path    string
	Mode    uint32
	Content []byte
}

// Rlimit is one setrlimit(2) of the command; Resource is its number.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// CgroupCheck is one limit read back before the command starts. The check
// holds if File, in the unit's own cgroup of Controller's hierarchy, holds the
// words of Want; for Device checks, if the line that starts with Device has
// each of them.
type CgroupCheck struct {
	Setting    string // the policy's name for it, for the error: "resources.pids_limit"
	Controller string // "memory"; which v1 hierarchy on a hybrid host
	File       string // "memory.max"
	Device     string // "254:0" or empty
	Want       []string
}

// Notifies tells whether Filter has a listener.
func (s *Spec) Notifies() bool {
	return s.RecordSyscalls || s.RecordPaths || s.RecordReads || s.RecordCapabilities
}
