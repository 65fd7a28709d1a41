package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies/syscalls"
)

// Call is one system call as the kernel shows it to a filter.
type Call struct {
	Arch uint32 // AUDIT_ARCH_*, see AuditArch
	Nr   uint32
	Args [6]uint64
}

// AuditArch is arch (a GOARCH) as Call.Arch has it.
func AuditArch(arch string) uint32 { return auditArch(arch) }

// Verdict is what the filter does to a call, and why.
func (r *Rules) Verdict(c Call) Decision {
	if d, final := r.floorVerdict(c); final {
		return d
	}
	return r.calls[int(c.Nr)]
}

// floorVerdict is the floor's part; false if it lets the call pass on to the
// policy.
func (r *Rules) floorVerdict(c Call) (Decision, bool) {
	if c.Arch != auditArch(r.arch) {
		return Decision{Action: Kill, Why: "foreign architecture"}, true
	}
	if r.arch == "amd64" && c.Nr >= x32Bit && c.Nr != noCall {
		return Decision{Action: Kill, Why: "x32"}, true
	}
	name, known := syscalls.Name(r.arch, int(c.Nr))
	if !known {
		return Decision{Action: NoSys, Why: "no call that Purple knows has this number"}, true
	}
	if why, ok := unseen()[name]; ok {
		return Decision{Action: NoSys, Why: why}, true
	}
	switch name {
	case "clone":
		return deniedIf(c.Args[0]>>32 != 0 || uint32(c.Args[0])&cloneNamespaces&^r.clone != 0, notGranted)
	case "unshare":
		return deniedIf(c.Args[0]&^uint64(unshareHarmless|r.unshare) != 0, notGranted)
	case "ioctl":
		why := whyNotIoctl(uint32(c.Args[1]))
		return deniedIf(why != "", why)
	case "socket":
		return deniedIf(!socketPasses(uint32(c.Args[0]), uint32(c.Args[1]), uint32(c.Args[2])),
			"no network namespace or rule confines such a socket")
	case "seccomp":
		return deniedIf(uint32(c.Args[1])&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0, "a listener could let the calls go on that Purple denies")
	case "socketpair":
		return deniedIf(uint32(c.Args[0]) != unix.AF_UNIX, "only unix sockets come in pairs")
	}
	for _, m := range modeCalls() {
		if m.name == name {
			return deniedIf(m.setsID(c.Args), "a set-user-ID file would be the invoker's on the host")
		}
	}
	return Decision{}, false
}

// setsID tells whether the call makes a set-user-ID or set-group-ID file.
func (m modeCall) setsID(args [6]uint64) bool {
	if m.flags >= 0 && uint32(args[m.flags])&createFlags == 0 {
		return false
	}
	return args[m.mode]&setIDModes != 0
}

const notGranted = "the policy does not grant this namespace by name"

func deniedIf(denied bool, why string) (Decision, bool) {
	if !denied {
		return Decision{}, false
	}
	return Decision{Action: Deny, Why: why}, true
}

func socketPasses(family, kind, protocol uint32) bool {
	switch family {
	case unix.AF_UNIX:
		return true
	case unix.AF_NETLINK:
		return protocol == unix.NETLINK_ROUTE
	case unix.AF_INET, unix.AF_INET6:
		kind &= sockTypeMask
		return (kind == unix.SOCK_STREAM || kind == unix.SOCK_DGRAM) && slices.Contains(inetProtocols(), protocol)
	}
	return false
}
