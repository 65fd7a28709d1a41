package seccomp

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies/syscalls"
)

// Offsets in struct seccomp_data (<linux/seccomp.h>). Both architectures are
// little-endian: the low half of an argument comes first.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

func offLow(arg int) uint32  { return offArgs + 8*uint32(arg) }
func offHigh(arg int) uint32 { return offLow(arg) + 4 }

const (
	// x32Bit marks a call of the x32 ABI, which the kernel reports as the
	// same architecture as a native call of amd64.
	x32Bit = 0x40000000
	// noCall is the number -1: what a tracer puts where it suppresses a call.
	noCall = 0xffffffff
	// tiocLinux is TIOCLINUX, see ioctl_console(2).
	tiocLinux = 0x541c
	// sockTypeMask is SOCK_TYPE_MASK (<linux/net.h>): above it are SOCK_CLOEXEC
	// and SOCK_NONBLOCK.
	sockTypeMask = 0xf
)

const (
	// cloneNamespaces are the flags by which clone makes a namespace.
	// CLONE_NEWTIME is not one: clone has its exit signal in that bit.
	cloneNamespaces uint32 = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	// unshareHarmless are the flags of unshare(2) that make no namespace. All
	// others must be granted, so that a flag which a later kernel adds is denied.
	unshareHarmless uint32 = unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SYSVSEM |
		unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_VM
)

// auditArch is the architecture as struct seccomp_data has it.
func auditArch(arch string) uint32 {
	if arch == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// inetProtocols are the protocols of AF_INET and AF_INET6 that the rules of
// the network namespace know how to judge. SCTP, DCCP and MPTCP pass by rules
// for TCP and UDP; the rest has been a way into the kernel.
func inetProtocols() []uint32 {
	return []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}
}

// unseen are the calls whose meaning no filter sees, each with the reason in
// words: what they do would pass by the checks below. A ring opens sockets and
// makes files without a call for either.
func unseen() map[string]string {
	return map[string]string{
		"clone3":         "its flags are behind a pointer; libc falls back to clone",
		"openat2":        "its mode is behind a pointer; libraries fall back to openat",
		"io_uring_setup": "no filter sees what goes through the ring; event loops fall back to epoll",
	}
}

// floorText is the floor in words, for a listing.
func floorText() []string {
	return []string{
		"foreign architecture, x32: the process is killed",
		"number that Purple knows no call for: ENOSYS",
		"clone3: ENOSYS, its flags are behind a pointer; libc falls back to clone",
		"clone, unshare: EPERM with a flag for a namespace that the policy does not grant by name",
		"ioctl: EPERM for TIOCSTI and TIOCLINUX, compared as 32 bits",
		"ioctl: EPERM for requests of file systems (types f, X, 0x94, 0xf5) but those that ask about a file or share its blocks",
		"socket: EPERM but for unix, inet, inet6 and netlink route",
		"socket inet, inet6: EPERM but for stream and datagram of TCP, UDP and ICMP echo",
		"socketpair: EPERM but for unix",
		"seccomp: EPERM with a listener, which could let the calls go on that Purple denies",
		"chmod, open and mknod in all forms: EPERM with a set-user-ID or set-group-ID mode",
		"openat2: ENOSYS, its mode is behind a pointer; libraries fall back to openat",
		"io_uring_setup: ENOSYS, no filter sees what goes through the ring; event loops fall back to epoll",
	}
}

// floor is the first part of the program: it ends the calls that no policy
// allows. What it lets pass falls through its end, with the number in A.
// None of its checks trusts an upper half that the kernel ignores.
func (r *Rules) floor() []bpf.Instruction {
	a := newAssembler()
	a.load(offArch)
	a.returnIf(bpf.JumpNotEqual, auditArch(r.arch), Kill)
	a.load(offNr)
	a.returnIf(bpf.JumpEqual, noCall, NoSys)
	if r.arch == "amd64" {
		a.returnIf(bpf.JumpGreaterOrEqual, x32Bit, Kill)
	}
	r.unknownNumbers(a)
	for _, name := range slices.Sorted(maps.Keys(unseen())) {
		a.returnIf(bpf.JumpEqual, r.number(name), NoSys)
	}
	r.onCall(a, "clone", func() { checkClone(a, r.clone) })
	r.onCall(a, "unshare", func() { checkUnshare(a, r.unshare) })
	r.onCall(a, "ioctl", func() { checkIoctl(a) })
	r.onCall(a, "socket", func() { checkSocket(a) })
	r.onCall(a, "socketpair", func() { checkSocketpair(a) })
	r.onCall(a, "seccomp", func() { checkSeccomp(a) })
	for _, c := range modeCalls() {
		if _, ok := syscalls.Number(r.arch, c.name); ok {
			r.onCall(a, c.name, func() { checkMode(a, c) })
		}
	}
	return a.finish()
}

// number is that of a call which both architectures have.
func (r *Rules) number(name string) uint32 {
	nr, ok := syscalls.Number(r.arch, name)
	if !ok {
		panic(fmt.Sprintf("internal error: no system call %q on %s", name, r.arch))
	}
	return uint32(nr)
}

// onCall runs check for one call. check ends the program or jumps to NAME.pass
// or runs through its end.
func (r *Rules) onCall(a *assembler, name string, check func()) {
	a.jump(bpf.JumpNotEqual, r.number(name), name+".next")
	check()
	a.label(name + ".pass")
	a.load(offNr)
	a.label(name + ".next")
}

// unknownNumbers ends the calls that are newer than Purple, or that no kernel
// has: what they would do is not known, and libraries fall back on ENOSYS.
// This holds for a policy that allows by default as well.
func (r *Rules) unknownNumbers(a *assembler) {
	numbers := syscalls.Numbers(r.arch)
	for i, nr := range numbers[1:] {
		before := numbers[i]
		if nr == before+1 {
			continue
		}
		past := fmt.Sprintf("past %d", before)
		a.jump(bpf.JumpLessOrEqual, uint32(before), past)
		a.returnIf(bpf.JumpLessThan, uint32(nr), NoSys)
		a.label(past)
	}
	a.returnIf(bpf.JumpGreaterThan, uint32(numbers[len(numbers)-1]), NoSys)
}

// checkClone denies namespaces. Of its first argument the kernel takes the low
// half; an upper one that is not empty is no honest caller's.
func checkClone(a *assembler, granted uint32) {
	a.load(offHigh(0))
	a.returnIf(bpf.JumpNotEqual, 0, Deny)
	a.load(offLow(0))
	a.returnIf(bpf.JumpBitsSet, cloneNamespaces&^granted, Deny)
}

// checkUnshare denies everything but the flags that make no namespace and
// those granted; the kernel takes all 64 bits.
func checkUnshare(a *assembler, granted uint32) {
	a.load(offHigh(0))
	a.returnIf(bpf.JumpNotEqual, 0, Deny)
	a.load(offLow(0))
	a.returnIf(bpf.JumpBitsSet, ^(unshareHarmless | granted), Deny)
}

// checkSocket lets pass the sockets that a network namespace and its rules
// confine. AF_VSOCK belongs to no namespace; AF_ALG, AF_PACKET, AF_KEY, AF_XDP,
// AF_RDS and their like have been ways into the kernel. All three arguments
// are 32 bits to the kernel.
func checkSocket(a *assembler) {
	a.load(offLow(0))
	a.jump(bpf.JumpEqual, unix.AF_UNIX, "socket.pass")
	a.jump(bpf.JumpEqual, unix.AF_INET, "socket.inet")
	a.jump(bpf.JumpEqual, unix.AF_INET6, "socket.inet")
	a.returnIf(bpf.JumpNotEqual, unix.AF_NETLINK, Deny)

	a.load(offLow(2))
	a.jump(bpf.JumpEqual, unix.NETLINK_ROUTE, "socket.pass")
	a.ret(Deny)

	a.label("socket.inet")
	a.load(offLow(1))
	a.and(sockTypeMask)
	a.jump(bpf.JumpEqual, unix.SOCK_STREAM, "socket.protocol")
	a.returnIf(bpf.JumpNotEqual, unix.SOCK_DGRAM, Deny)

	a.label("socket.protocol")
	a.load(offLow(2))
	for _, protocol := range inetProtocols() {
		a.jump(bpf.JumpEqual, protocol, "socket.pass")
	}
	a.ret(Deny)
}

// checkSocketpair: only AF_UNIX has pairs that a program needs.
func checkSocketpair(a *assembler) {
	a.load(offLow(0))
	a.returnIf(bpf.JumpNotEqual, unix.AF_UNIX, Deny)
}

// checkSeccomp denies a filter that asks a listener of the command's own. Of
// several filters that ask, the kernel obeys the newest, and a listener may let
// a call go on: it would be stronger than Purple's. The kernel itself refuses a
// second listener (EBUSY), but only as long as the first one lives.
func checkSeccomp(a *assembler) {
	a.load(offLow(1))
	a.returnIf(bpf.JumpBitsSet, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Deny)
}

// modeCall is a call that gives a file its mode: which argument that is, and
// which holds the flags without which the mode is not looked at (-1: none).
type modeCall struct {
	name        string
	mode, flags int
}

// modeCalls lacks mkdir and mkdirat, to which the kernel gives no such mode,
// and openat2, see floorText.
func modeCalls() []modeCall {
	return []modeCall{
		{"chmod", 1, -1}, {"fchmod", 1, -1}, {"fchmodat", 2, -1}, {"fchmodat2", 2, -1},
		{"creat", 1, -1}, {"mknod", 1, -1}, {"mknodat", 2, -1},
		{"open", 2, 1}, {"openat", 3, 2},
	}
}

const (
	setIDModes = unix.S_ISUID | unix.S_ISGID
	// createFlags are O_CREAT and the bit that is O_TMPFILE's alone.
	createFlags uint32 = unix.O_CREAT | (unix.O_TMPFILE &^ unix.O_DIRECTORY)
)

// checkMode keeps the command from leaving a set-user-ID file behind. What it
// writes into a workspace belongs to the invoker on the host, so under root
// such a file would be root's, for every user of the host to execute.
func checkMode(a *assembler, c modeCall) {
	if c.flags >= 0 {
		a.load(offLow(c.flags))
		a.jump(bpf.JumpBitsNotSet, createFlags, c.name+".pass")
	}
	a.load(offLow(c.mode))
	a.returnIf(bpf.JumpBitsSet, setIDModes, Deny)
}
