package seccomp

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

const high = 1 << 40 // rubbish above the 32 bits that the kernel looks at

func native(t testing.TB, name string, args ...uint64) Call {
	t.Helper()
	nr, ok := syscalls.Number(NativeArch, name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	c := Call{Arch: AuditArch(NativeArch), Nr: uint32(nr)}
	copy(c.Args[:], args)
	return c
}

// The floor under a policy that allows everything: what it says, by hand.
func TestFloor(t *testing.T) {
	_, m := compile(t, policies.Syscalls{})
	for _, c := range []struct {
		want Action
		what string
		call string
		args []uint64
	}{
		{NoSys, "clone3", "clone3", nil},
		{Allow, "thread", "clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_FILES}},
		{Allow, "fork", "clone", []uint64{uint64(unix.SIGCHLD)}},
		{Allow, "CLONE_IO", "clone", []uint64{1 << 31}},
		{Allow, "exit signal with the bit of CLONE_NEWTIME", "clone", []uint64{0x80}},
		{Deny, "new user namespace", "clone", []uint64{unix.CLONE_NEWUSER}},
		{Deny, "new user namespace of a thread", "clone", []uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}},
		{Deny, "new mount namespace", "clone", []uint64{unix.CLONE_NEWNS}},
		{Deny, "new pid namespace", "clone", []uint64{unix.CLONE_NEWPID}},
		{Deny, "new network namespace", "clone", []uint64{unix.CLONE_NEWNET}},
		{Deny, "new IPC namespace", "clone", []uint64{unix.CLONE_NEWIPC}},
		{Deny, "new UTS namespace", "clone", []uint64{unix.CLONE_NEWUTS}},
		{Deny, "new cgroup namespace", "clone", []uint64{unix.CLONE_NEWCGROUP}},
		{Deny, "new user namespace, high bits", "clone", []uint64{unix.CLONE_NEWUSER | high}},
		{Deny, "high bits alone", "clone", []uint64{high}},
		{Allow, "files", "unshare", []uint64{unix.CLONE_FILES | unix.CLONE_FS}},
		{Deny, "new user namespace", "unshare", []uint64{unix.CLONE_NEWUSER}},
		{Deny, "new time namespace", "unshare", []uint64{unix.CLONE_NEWTIME}},
		{Deny, "new network namespace, high bits", "unshare", []uint64{unix.CLONE_NEWNET | high}},
		{Deny, "a flag of the future", "unshare", []uint64{1 << 20}},
		{Allow, "a filter", "seccomp", []uint64{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC}},
		{Deny, "a listener", "seccomp", []uint64{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER}},
		{Deny, "a listener among flags", "seccomp", []uint64{unix.SECCOMP_SET_MODE_FILTER, 0x3f}},
		{Deny, "a listener, high bits", "seccomp", []uint64{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | high}},
		{Allow, "high bits alone, which the kernel does not look at", "seccomp", []uint64{unix.SECCOMP_SET_MODE_FILTER, high}},
		{Allow, "TCGETS", "ioctl", []uint64{0, unix.TCGETS}},
		{Deny, "TIOCSTI", "ioctl", []uint64{0, unix.TIOCSTI}},
		{Deny, "TIOCSTI, high bits", "ioctl", []uint64{0, unix.TIOCSTI | high}},
		{Deny, "TIOCLINUX", "ioctl", []uint64{0, 0x541c}},
		{Allow, "GETFLAGS", "ioctl", []uint64{0, 0x80086601}},
		{Allow, "FIEMAP", "ioctl", []uint64{0, 0xc020660b}},
		{Allow, "FICLONE", "ioctl", []uint64{0, 0x40049409}},
		{Allow, "FICLONERANGE", "ioctl", []uint64{0, 0x4020940d}},
		{Allow, "FIDEDUPERANGE", "ioctl", []uint64{0, 0xc0189436}},
		{Allow, "MEASURE_VERITY", "ioctl", []uint64{0, 0xc0046686}},
		{Allow, "FIONREAD", "ioctl", []uint64{0, 0x541b}},
		{Allow, "FIOCLEX", "ioctl", []uint64{0, 0x5451}},
		{Deny, "ENABLE_VERITY", "ioctl", []uint64{0, 0x40806685}},
		{Deny, "ENABLE_VERITY, high bits", "ioctl", []uint64{0, 0x40806685 | high}},
		{Deny, "SET_ENCRYPTION_POLICY", "ioctl", []uint64{0, 0x800c6613}},
		{Deny, "ADD_ENCRYPTION_KEY", "ioctl", []uint64{0, 0xc0506617}},
		{Deny, "REMOVE_ENCRYPTION_KEY", "ioctl", []uint64{0, 0xc0406618}},
		{Deny, "SETFLAGS", "ioctl", []uint64{0, 0x40086602}},
		{Deny, "FSSETXATTR", "ioctl", []uint64{0, 0x401c5820}},
		{Deny, "FIFREEZE", "ioctl", []uint64{0, 0xc0045877}},
		{Deny, "FITRIM", "ioctl", []uint64{0, 0xc0185879}},
		{Deny, "EXT4_IOC_MOVE_EXT", "ioctl", []uint64{0, 0xc028660f}},
		{Deny, "BTRFS_IOC_SUBVOL_CREATE", "ioctl", []uint64{0, 0x5000940e}},
		{Deny, "BTRFS_IOC_SNAP_DESTROY", "ioctl", []uint64{0, 0x5000940f}},
		{Deny, "F2FS_IOC_START_ATOMIC_WRITE", "ioctl", []uint64{0, 0xf501}},
		{Deny, "SETVERSION", "ioctl", []uint64{0, 0x40087602}},
		{Deny, "TIOCLINUX, high bits", "ioctl", []uint64{0, 0x541c | 1<<32}},
		{Allow, "unix", "socket", []uint64{unix.AF_UNIX, unix.SOCK_STREAM}},
		{Allow, "TCP", "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC}},
		{Allow, "UDP", "socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, unix.IPPROTO_UDP}},
		{Allow, "ping", "socket", []uint64{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}},
		{Allow, "route", "socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE}},
		{Deny, "netfilter", "socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}},
		{Deny, "audit", "socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}},
		{Deny, "raw", "socket", []uint64{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP}},
		{Deny, "raw, high bits", "socket", []uint64{unix.AF_INET6 | high, unix.SOCK_RAW | high, high}},
		{Deny, "packet of old", "socket", []uint64{unix.AF_INET, unix.SOCK_PACKET}},
		{Deny, "SCTP by type", "socket", []uint64{unix.AF_INET, unix.SOCK_SEQPACKET}},
		{Deny, "SCTP by protocol", "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, 132}},
		{Deny, "DCCP", "socket", []uint64{unix.AF_INET, unix.SOCK_DCCP, 33}},
		{Deny, "MPTCP", "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, 262}},
		{Deny, "MPTCP, high bits", "socket", []uint64{unix.AF_INET6, unix.SOCK_STREAM, 262 | high}},
		{Deny, "SMC", "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, 256}},
		{Deny, "L2TP", "socket", []uint64{unix.AF_INET, unix.SOCK_DGRAM, 115}},
		{Deny, "packet", "socket", []uint64{17, unix.SOCK_RAW}},
		{Deny, "vsock", "socket", []uint64{40, unix.SOCK_STREAM}},
		{Deny, "alg", "socket", []uint64{38, unix.SOCK_SEQPACKET}},
		{Deny, "xdp", "socket", []uint64{44, unix.SOCK_RAW}},
		{Deny, "key", "socket", []uint64{15, unix.SOCK_RAW}},
		{Deny, "rds", "socket", []uint64{21, unix.SOCK_SEQPACKET}},
		{Deny, "tipc", "socket", []uint64{30, unix.SOCK_RDM}},
		{Deny, "bluetooth", "socket", []uint64{31, unix.SOCK_RAW}},
		{NoSys, "openat2", "openat2", nil},
		{NoSys, "a ring", "io_uring_setup", []uint64{1, 1}},
		{Allow, "executable", "chmod", []uint64{1, 0o755}},
		{Deny, "setuid", "chmod", []uint64{1, 0o4755}},
		{Deny, "setgid, high bits", "fchmod", []uint64{1, 0o2755 | high}},
		{Deny, "setuid", "fchmodat", []uint64{0, 1, 0o4755}},
		{Deny, "setuid", "fchmodat2", []uint64{0, 1, 0o4755, 0}},
		{Deny, "setuid", "creat", []uint64{1, 0o4755}},
		{Deny, "setuid", "mknodat", []uint64{0, 1, unix.S_IFREG | 0o4755, 0}},
		{Allow, "fifo", "mknodat", []uint64{0, 1, unix.S_IFIFO | 0o644, 0}},
		{Allow, "no mode to look at", "open", []uint64{1, unix.O_RDONLY, 0o6777}},
		{Deny, "setuid", "open", []uint64{1, unix.O_CREAT | unix.O_WRONLY, 0o4755}},
		{Allow, "creating", "openat", []uint64{0, 1, unix.O_CREAT | unix.O_RDWR, 0o1644}},
		{Deny, "setgid", "openat", []uint64{0, 1, unix.O_CREAT | unix.O_EXCL, 0o2755}},
		{Deny, "setuid, without a name", "openat", []uint64{0, 1, unix.O_TMPFILE | unix.O_RDWR, 0o4755}},
		{Allow, "directory", "openat", []uint64{0, 1, unix.O_DIRECTORY, 0o4755}},
		{Allow, "unix", "socketpair", []uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET}},
		{Deny, "tipc", "socketpair", []uint64{30, unix.SOCK_SEQPACKET}},
		{Allow, "an ordinary call", "read", nil},
		{Allow, "setns is the policy's", "setns", nil},
	} {
		if got := m.run(t, native(t, c.call, c.args...)); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.call, c.what, got, c.want)
		}
	}
}

func TestFloorOnNumbers(t *testing.T) {
	_, m := compile(t, policies.Syscalls{})
	own := AuditArch(NativeArch)
	for _, c := range []struct {
		what string
		call Call
		want Action
	}{
		{"i386", Call{Arch: unix.AUDIT_ARCH_I386, Nr: 3}, Kill},
		{"i386 socketcall", Call{Arch: unix.AUDIT_ARCH_I386, Nr: 102}, Kill},
		{"no architecture", Call{Nr: 3}, Kill},
		{"the highest known", Call{Arch: own, Nr: 471}, Allow},
		{"newer than Purple", Call{Arch: own, Nr: 472}, NoSys},
		{"far newer", Call{Arch: own, Nr: 100000}, NoSys},
		{"a hole between the numbers", Call{Arch: own, Nr: 400}, NoSys},
		{"-1, a call that a tracer suppressed", Call{Arch: own, Nr: 0xffffffff}, NoSys},
	} {
		if got := m.run(t, c.call); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestX32IsKilled(t *testing.T) {
	rules := resolve(t, policies.Syscalls{}, "amd64")
	for _, nr := range []uint32{x32Bit, x32Bit | 1, x32Bit | 435, x32Bit | 512, 0x80000000, 0xfffffffe} {
		if d := rules.Verdict(Call{Arch: AuditArch("amd64"), Nr: nr}); d.Action != Kill {
			t.Errorf("%#x: %+v", nr, d)
		}
	}
}

func TestGrantedNamespaces(t *testing.T) {
	_, m := compile(t, granting())
	for _, c := range []struct {
		call string
		flag uint64
		want Action
	}{
		{"unshare", unix.CLONE_NEWUSER, Allow},
		{"unshare", unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWTIME, Allow},
		{"unshare", unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Deny},
		{"unshare", unix.CLONE_NEWUSER | high, Deny},
		{"unshare", unix.CLONE_NEWPID, Deny}, // granted to clone only
		{"clone", unix.CLONE_NEWPID | uint64(unix.SIGCHLD), Allow},
		{"clone", unix.CLONE_NEWPID | unix.CLONE_NEWUSER, Deny},
		{"clone", unix.CLONE_NEWNET, Deny},
	} {
		if got := m.run(t, native(t, c.call, c.flag)); got != c.want {
			t.Errorf("%s %#x: %s, want %s", c.call, c.flag, got, c.want)
		}
	}
}
