package seccomp

import (
	"fmt"
	"slices"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (<linux/seccomp.h>). Both architectures are
// little-endian: the low half of an argument comes first.
const (
	offNr   = 0
	offArch = 4
)

func offLow(arg int) uint32  { return uint32(16 + 8*arg) }
func offHigh(arg int) uint32 { return uint32(16 + 8*arg + 4) }

// What the filter returns.
const (
	retKill  = unix.SECCOMP_RET_KILL_PROCESS
	retDeny  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	retNoSys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// x32Bit marks a call of the x32 ABI, which has the same architecture value as
// a native one on x86-64.
const x32Bit = 0x40000000

// auditArch is the architecture as the kernel reports it.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Floor says in words what holds whatever the policy says, for a listing.
var Floor = []string{
	"foreign architecture, x32: killed",
	"number above the highest that Purple knows: ENOSYS",
	"clone3: ENOSYS (its flags cannot be checked; libc falls back to clone)",
	"clone, unshare with a CLONE_NEW* flag that is not allowed by name: EPERM",
	"ioctl TIOCSTI, TIOCLINUX: EPERM (compared as 32 bits)",
	"socket, socketpair of a family but unix, inet, inet6, netlink route: EPERM",
	"socket inet, inet6: raw, packet, SCTP, DCCP, MPTCP: EPERM",
	"execve, exit, exit_group, rt_sigreturn: allowed",
}

// floor is the first part of the program. It ends with nothing: what it lets
// pass falls through to what is appended.
func floor(s policies.Syscalls, arch string) []bpf.Instruction {
	nr := func(name string) uint32 {
		n, ok := syscalls.Number(arch, name)
		if !ok {
			panic(fmt.Sprintf("internal error: no %s on %s", name, arch))
		}
		return uint32(n)
	}
	numbers := syscalls.Numbers(arch)
	highest := uint32(numbers[len(numbers)-1])
	return slices.Concat(
		[]bpf.Instruction{load(offArch)},
		returnIf(bpf.JumpNotEqual, auditArch[arch], retKill),
		[]bpf.Instruction{load(offNr)},
		x32(arch),
		returnIf(bpf.JumpGreaterThan, highest, retNoSys),
		returnIf(bpf.JumpEqual, nr("clone3"), retNoSys),
		ifCall(nr("clone"), namespaceFlags(cloneMask&^grantedFlags(s, "clone"))),
		ifCall(nr("unshare"), namespaceFlags(unshareMask&^grantedFlags(s, "unshare"))),
		ifCall(nr("ioctl"), terminalInjection()),
		ifCall(nr("socket"), socketFamilies()),
		ifCall(nr("socketpair"), slices.Concat([]bpf.Instruction{load(offLow(0))}, returnIf(bpf.JumpNotEqual, unix.AF_UNIX, retDeny))),
	)
}

func load(offset uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offset, Size: 4} }

// returnIf returns ret if the accumulator compares so to value.
func returnIf(cond bpf.JumpTest, value, ret uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.JumpIf{Cond: cond, Val: value, SkipFalse: 1},
		bpf.RetConstant{Val: ret},
	}
}

// ifCall runs body for one system call. The accumulator holds the number
// before and after.
func ifCall(nr uint32, body []bpf.Instruction) []bpf.Instruction {
	body = append(body, load(offNr))
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipFalse: uint8(len(body))}}, body...)
}

func x32(arch string) []bpf.Instruction {
	if arch != "amd64" {
		return nil
	}
	return returnIf(bpf.JumpGreaterOrEqual, x32Bit, retKill)
}

// The flags that make a namespace. CLONE_NEWTIME is one of unshare only: in
// clone its bit belongs to the exit signal.
const (
	cloneMask = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	unshareMask = cloneMask | unix.CLONE_NEWTIME
)

// namespaceFlags denies the flags of denied. The upper half of the register
// means nothing to the kernel, so nothing in it is let pass.
func namespaceFlags(denied uint32) []bpf.Instruction {
	return slices.Concat(
		[]bpf.Instruction{load(offHigh(0))}, returnIf(bpf.JumpNotEqual, 0, retDeny),
		[]bpf.Instruction{load(offLow(0))}, returnIf(bpf.JumpBitsSet, denied, retDeny),
	)
}

// terminalInjection denies the two requests that put input into a terminal.
// The kernel takes the request as 32 bits: a comparison of 64 would let it
// pass with an upper half (CVE-2019-10063, CVE-2019-7303).
func terminalInjection() []bpf.Instruction {
	return slices.Concat(
		[]bpf.Instruction{load(offLow(1))},
		returnIf(bpf.JumpEqual, unix.TIOCSTI, retDeny),
		returnIf(bpf.JumpEqual, tiocLinux, retDeny),
	)
}

// tiocLinux is TIOCLINUX of ioctl_console(2).
const tiocLinux = 0x541c

// socketFamilies lets pass those families that a network namespace or the
// absence of a path confines. AF_VSOCK, AF_ALG and their like do not belong to
// any namespace, or have been a way into the kernel.
func socketFamilies() []bpf.Instruction {
	netlink := slices.Concat(
		[]bpf.Instruction{load(offLow(2))},
		returnIf(bpf.JumpNotEqual, unix.NETLINK_ROUTE, retDeny),
	)
	inet := slices.Concat(
		[]bpf.Instruction{load(offLow(1)), bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf}},
		returnIf(bpf.JumpEqual, unix.SOCK_RAW, retDeny),
		returnIf(bpf.JumpEqual, unix.SOCK_SEQPACKET, retDeny),
		returnIf(bpf.JumpEqual, unix.SOCK_DCCP, retDeny),
		returnIf(bpf.JumpEqual, unix.SOCK_PACKET, retDeny),
		[]bpf.Instruction{load(offLow(2))},
		returnIf(bpf.JumpEqual, unix.IPPROTO_SCTP, retDeny),
		returnIf(bpf.JumpEqual, unix.IPPROTO_DCCP, retDeny),
		returnIf(bpf.JumpEqual, unix.IPPROTO_MPTCP, retDeny),
	)
	netlinkPart := append(netlink, bpf.Jump{Skip: uint32(3 + len(inet))})
	return slices.Concat(
		[]bpf.Instruction{
			load(offLow(0)),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: uint8(1 + len(netlinkPart) + 3 + len(inet))},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_NETLINK, SkipFalse: uint8(len(netlinkPart))},
		},
		netlinkPart,
		[]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipTrue: 1},
			bpf.RetConstant{Val: retDeny},
		},
		inet,
	)
}
