// Package policies reads Purple's YAML profiles: strictly, with a file, line
// and column for everything it refuses, and with every default filled in.
//
// A Policy says what is wanted. Whether this machine can enforce it is decided
// later, by translate; nothing here looks at the machine.
package policies

import "fmt"

// Policy is one effective profile: parents merged, defaults filled in, every
// value validated. The zero Policy is not valid; Parse and Store.Load make them.
type Policy struct {
	Name        string
	Description string

	Filesystem   Filesystem
	Syscalls     Syscalls
	Resources    Resources
	Capabilities Capabilities
	Network      Network
	Audit        Audit
	Environment  Environment
	Command      []string // what purple@NAME.service runs; may be empty

	// Warnings are what the author most likely got wrong but what is safe
	// to run, such as "unmount" for "umount2".
	Warnings []Warning

	where  map[string]Position
	files  []string
	digest func() (string, error) // made when first asked for
}

// Digest is the SHA-256, in hex, of the canonical effective policy: two files
// that mean the same have the same digest. Several goroutines may ask for it; who
// has asked must not change the policy any more. A copy's is the original's.
func (p *Policy) Digest() (string, error) { return p.digest() }

// Position is a place in a profile. The zero Position means that the value is
// Purple's default and stands in no file.
type Position struct {
	File         string
	Line, Column int
}

func (p Position) String() string {
	if p.File == "" {
		return "default"
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Where tells which place set the value at key, written as in an error
// message: "resources.memory_limit_bytes", "filesystem.immutable_paths[2]".
// Without one it is the place of the nearest enclosing key, else "default".
func (p *Policy) Where(key string) Position {
	for ; key != ""; key = parentKey(key) {
		if at, ok := p.where[key]; ok {
			return at
		}
	}
	return Position{}
}

// parentKey strips the last ".name" or "[index]" from key.
func parentKey(key string) string {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '.' || key[i] == '[' {
			return key[:i]
		}
	}
	return ""
}

// Warning is one remark on a profile that does not keep it from running.
type Warning struct {
	At   Position
	Text string
}

func (w Warning) String() string {
	if w.At.File == "" { // it is about the machine
		return "warning: " + w.Text
	}
	return fmt.Sprintf("%s: warning: %s", w.At, w.Text)
}

// Filesystem is what the sandbox sees. All paths are absolute and clean.
// Nothing that is not declared here is there.
type Filesystem struct {
	Immutable  []Bind    // read-only, recursive
	Scratch    []Scratch // private tmpfs, gone at the end
	Output     []Output  // writable host directories
	WorkingDir string    // where the command starts without a workspace; always HOME
	Workspace  WorkspaceMode
}

// Bind shows one host path at one sandbox path.
type Bind struct {
	HostPath    string
	SandboxPath string
	Optional    bool   // left out, not refused, where HostPath does not exist
	Key         string // for Policy.Where: "filesystem.immutable_paths[0]"
}

// Scratch is a tmpfs of the run's own.
type Scratch struct {
	Path string
	Key  string
}

// Output is a host directory that the command writes to.
type Output struct {
	Bind
	Mode OutputMode
}

// OutputMode tells what the command may do in an output path.
type OutputMode string

// The output modes. WriteOnly: create and write, neither read back nor list.
const (
	WriteOnly OutputMode = "write-only"
	ReadWrite OutputMode = "read-write"
)

// WorkspaceMode tells whether the folder that `purple run` is called in is
// bound, at its own path, and how.
type WorkspaceMode string

// The workspace modes.
const (
	WorkspaceNone      WorkspaceMode = "none"
	WorkspaceReadOnly  WorkspaceMode = "read-only"
	WorkspaceReadWrite WorkspaceMode = "read-write"
)

// Syscalls is the meaning of the seccomp filter. Deny beats allow and the
// order never matters. Purple's floor holds whatever stands here: see
// translate/seccomp.
type Syscalls struct {
	DefaultDeny bool
	Allow       []SyscallRule
	Deny        []SyscallRule
}

// SyscallRule names one system call or one @group.
type SyscallRule struct {
	Name string // "openat" or "@file-system"; known to policies/syscalls
	// Flags are the CLONE_NEW* flags that an allow rule for clone or unshare
	// grants by name, written "unshare:CLONE_NEWUSER|CLONE_NEWNET". Empty
	// for every other rule: then no flag that makes a namespace is allowed.
	Flags []string
	Key   string
}

// Resources are the limits. Memory, Tasks and Timeout are never unlimited
// unless the profile says `unlimited`.
type Resources struct {
	CPU     Limit // microseconds of CPU time a second: cpu_shares 0.5 is 500000
	Memory  Limit // bytes
	Tasks   Limit // processes and threads of the command, Purple's own not counted
	BlockIO Limit // bytes a second, for reads and for writes, on each device
	Timeout Limit // microseconds
}

// Limit is a number or, on purpose, none. The zero Limit is invalid.
type Limit struct {
	Value     uint64 // not 0 unless Unlimited
	Unlimited bool
}

// Capabilities of the command, inside its own user namespace.
type Capabilities struct {
	DefaultDrop bool     // false keeps every capability of that namespace
	Add         []string // "CAP_NET_BIND_SERVICE", sorted, no duplicate
}

// Network tells what the command may reach.
type Network struct {
	Isolated bool // loopback only; then both lists are empty
	Outgoing []Outgoing
	Incoming []Incoming
	// AddressRange is the IPv4 prefix that the sandbox's address is taken
	// from, "10.200.0.0/20"; empty: an unused one of this machine.
	AddressRange string
}

// Outgoing allows one destination.
type Outgoing struct {
	Prefix   string // "10.1.0.0/16", "fd00::/8"; empty: public addresses only
	Protocol string // "tcp", "udp", or empty for both
	First    uint16 // first port, never 0
	Last     uint16 // last port, at least First
	Key      string
}

// Incoming publishes one port of the sandbox on the host.
type Incoming struct {
	Address string // "0.0.0.0" where the profile says so; empty: the host's loopback
	Port    uint16
	Key     string
}

// Audit tells what is recorded. The limits hold even when it is not Enabled.
type Audit struct {
	Enabled bool
	LogPath string   // empty: the journal only
	Detail  []string // of "syscall", "filesystem", "resource", "network"; sorted
}

// Environment of the command, beyond PATH, HOME, USER, LANG and TERM.
type Environment struct {
	Set  map[string]string
	Pass []string // names taken from the caller's environment; sorted
}
