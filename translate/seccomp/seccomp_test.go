package seccomp

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func BenchmarkCompile(b *testing.B) {
	s := policies.Syscalls{DefaultDeny: true, Allow: rules("@system-service")}
	for b.Loop() {
		if _, err := Compile(s, NativeArch); err != nil {
			b.Fatal(err)
		}
	}
}

func rules(names ...string) []policies.SyscallRule {
	var out []policies.SyscallRule
	for _, n := range names {
		out = append(out, policies.SyscallRule{Name: n, Key: "test:" + n})
	}
	return out
}

// call is one system call as the filter sees it.
type call struct {
	arch uint32
	nr   uint32
	args [6]uint64
}

func native(name string, args ...uint64) call {
	nr, ok := syscalls.Number(NativeArch, name)
	if !ok {
		panic(name)
	}
	c := call{arch: auditArch[NativeArch], nr: uint32(nr)}
	copy(c.args[:], args)
	return c
}

// simulate runs the program in the BPF machine of x/net. That one loads words
// big-endian, so each word of struct seccomp_data is stored so; the low half
// of an argument stays first.
func simulate(t testing.TB, p *Program, c call) uint32 {
	t.Helper()
	program, ok := bpf.Disassemble(p.instructions)
	if !ok {
		t.Fatal("the program has an instruction that cannot be disassembled")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, vm, c)
}

func run(t testing.TB, vm *bpf.VM, c call) uint32 {
	t.Helper()
	data := binary.BigEndian.AppendUint32(nil, c.nr)
	data = binary.BigEndian.AppendUint32(data, c.arch)
	data = append(data, make([]byte, 8)...)
	for _, a := range c.args {
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

const retAllow = uint32(unix.SECCOMP_RET_ALLOW)

var returned = map[Action]uint32{Allow: retAllow, Deny: retDeny, NoSys: retNoSys}

// cases are policies of every kind.
var cases = map[string]policies.Syscalls{
	"nothing allowed":       {DefaultDeny: true},
	"everything":            {},
	"a few":                 {DefaultDeny: true, Allow: rules("read", "write", "openat", "clone3"), Deny: rules("openat", "mount")},
	"groups":                {DefaultDeny: true, Allow: rules("@system-service", "ioctl", "socket"), Deny: rules("@debug", "@mount", "bpf")},
	"default allow":         {Allow: rules("bpf"), Deny: rules("@keyring", "ptrace", "clone3", "statx")},
	"newer than libseccomp": {DefaultDeny: true, Allow: rules("mseal", "fchmodat2", "futex_wait")},
}

// TestProgramMeansThePolicy compares the compiled program with the meaning for
// every number there is.
func TestProgramMeansThePolicy(t *testing.T) {
	for name, s := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(s, NativeArch)
			if err != nil {
				t.Fatal(err)
			}
			program, ok := bpf.Disassemble(p.instructions)
			if !ok {
				t.Fatal("cannot disassemble")
			}
			vm, err := bpf.NewVM(program)
			if err != nil {
				t.Fatal(err)
			}
			numbers := syscalls.Numbers(NativeArch)
			highest := numbers[len(numbers)-1]
			for nr := range 700 {
				want := retDeny // a hole in the table
				if m, ok := p.meanings[nr]; ok {
					want = returned[m.Action]
				}
				if nr > highest {
					want = retNoSys
				}
				// Arguments that no conditional rule of the floor minds.
				c := call{arch: auditArch[NativeArch], nr: uint32(nr)}
				if n, _ := syscalls.Name(NativeArch, nr); n == "socket" || n == "socketpair" {
					c.args[0] = unix.AF_UNIX
				}
				if got := run(t, vm, c); got != want {
					n, _ := syscalls.Name(NativeArch, nr)
					t.Errorf("%d %s: %#x, want %#x", nr, n, got, want)
				}
			}
		})
	}
}

func TestMeanings(t *testing.T) {
	s := policies.Syscalls{DefaultDeny: true, Allow: rules("read", "clone3", "@mount"), Deny: rules("umount2")}
	meanings, err := Meanings(s, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Meaning{
		"read":    {Action: Allow, Key: "test:read"},
		"mount":   {Action: Allow, Key: "test:@mount"},
		"umount2": {Action: Deny, Key: "test:umount2"}, // deny beats allow
		"clone":   {Action: Allow, Key: "test:clone3"},
		"fork":    {Action: Allow, Key: "test:clone3"},
		"clone3":  {Action: NoSys, Why: "its flags cannot be checked; libc falls back to clone"},
		"execve":  {Action: Allow, Why: "Purple needs it"},
		"write":   {Action: Deny, Key: "syscalls.default_deny"},
		"statx":   {Action: NoSys, Key: "syscalls.default_deny", Why: "libraries fall back"},
	}
	for name, m := range want {
		nr, _ := syscalls.Number("amd64", name)
		if meanings[nr] != m {
			t.Errorf("%s: %+v, want %+v", name, meanings[nr], m)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, s := range map[string]policies.Syscalls{
		"unknown call":  {Allow: rules("raed")},
		"unknown group": {Deny: rules("@nothing")},
		"execve denied": {Deny: rules("execve")},
	} {
		if _, err := Compile(s, NativeArch); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Meanings(policies.Syscalls{}, "s390x"); err == nil {
		t.Error("an architecture that is not known: no error")
	}
}

func TestProbedAndRequiredExist(t *testing.T) {
	for _, name := range slices.Concat(probed, required, makesProcesses) {
		if !syscalls.Known(name) {
			t.Errorf("%s is no system call", name)
		}
	}
}

const high = 1 << 40

// TestFloor is the floor under a policy that allows everything.
func TestFloor(t *testing.T) {
	p, err := Compile(policies.Syscalls{}, NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	foreign := native("read")
	foreign.arch = unix.AUDIT_ARCH_I386
	x32call := native("read")
	x32call.nr |= x32Bit
	minusOne := native("read")
	minusOne.nr = 0xffffffff
	for _, c := range []struct {
		name string
		call call
		want uint32
	}{
		{"read", native("read"), retAllow},
		{"i386", foreign, retKill},
		{"x32", x32call, retKill},
		{"-1", minusOne, retKill},
		{"clone3", native("clone3"), retNoSys},
		{"clone of a thread", native("clone", unix.CLONE_VM|unix.CLONE_THREAD|unix.CLONE_SIGHAND|unix.CLONE_FILES), retAllow},
		{"fork", native("clone", uint64(unix.SIGCHLD)), retAllow},
		{"clone with an exit signal that looks like CLONE_NEWTIME", native("clone", 0x80), retAllow},
		{"clone newuser", native("clone", unix.CLONE_NEWUSER), retDeny},
		{"clone newuser and high bits", native("clone", unix.CLONE_NEWUSER|high), retDeny},
		{"clone high bits", native("clone", high), retDeny},
		{"unshare files", native("unshare", unix.CLONE_FILES), retAllow},
		{"unshare newuser", native("unshare", unix.CLONE_NEWUSER), retDeny},
		{"unshare newtime", native("unshare", unix.CLONE_NEWTIME), retDeny},
		{"unshare newnet and high bits", native("unshare", unix.CLONE_NEWNET|high), retDeny},
		{"TCGETS", native("ioctl", 0, unix.TCGETS), retAllow},
		{"TIOCSTI", native("ioctl", 0, unix.TIOCSTI), retDeny},
		{"TIOCSTI and high bits", native("ioctl", 0, unix.TIOCSTI|high), retDeny},
		{"TIOCLINUX", native("ioctl", 0, tiocLinux), retDeny},
		{"TIOCLINUX and high bits", native("ioctl", 0, tiocLinux|high), retDeny},
		{"unix", native("socket", unix.AF_UNIX, unix.SOCK_STREAM), retAllow},
		{"tcp", native("socket", unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC), retAllow},
		{"udp6", native("socket", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP), retAllow},
		{"route", native("socket", unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE), retAllow},
		{"netfilter", native("socket", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER), retDeny},
		{"audit", native("socket", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT), retDeny},
		{"raw", native("socket", unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP), retDeny},
		{"raw6 and high bits", native("socket", unix.AF_INET6|high, unix.SOCK_RAW|high), retDeny},
		{"sctp by type", native("socket", unix.AF_INET, unix.SOCK_SEQPACKET), retDeny},
		{"sctp by protocol", native("socket", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP), retDeny},
		{"mptcp", native("socket", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), retDeny},
		{"mptcp6 and high bits", native("socket", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP|high), retDeny},
		{"packet", native("socket", unix.AF_PACKET, unix.SOCK_RAW), retDeny},
		{"vsock", native("socket", unix.AF_VSOCK, unix.SOCK_STREAM), retDeny},
		{"alg", native("socket", unix.AF_ALG, unix.SOCK_SEQPACKET), retDeny},
		{"xdp", native("socket", unix.AF_XDP, unix.SOCK_RAW), retDeny},
		{"key", native("socket", unix.AF_KEY, unix.SOCK_RAW), retDeny},
		{"rds", native("socket", unix.AF_RDS, unix.SOCK_SEQPACKET), retDeny},
		{"tipc", native("socket", unix.AF_TIPC, unix.SOCK_RDM), retDeny},
		{"bluetooth", native("socket", unix.AF_BLUETOOTH, unix.SOCK_RAW), retDeny},
		{"socketpair", native("socketpair", unix.AF_UNIX, unix.SOCK_SEQPACKET), retAllow},
		{"socketpair tipc", native("socketpair", unix.AF_TIPC, unix.SOCK_SEQPACKET), retDeny},
	} {
		if got := simulate(t, p, c.call); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestGrantedNamespaces(t *testing.T) {
	s := policies.Syscalls{DefaultDeny: true, Allow: []policies.SyscallRule{
		{Name: "unshare", Flags: []string{"CLONE_NEWUSER", "CLONE_NEWNET"}},
		{Name: "clone"},
	}}
	p, err := Compile(s, NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		call call
		want uint32
	}{
		{"granted", native("unshare", unix.CLONE_NEWUSER), retAllow},
		{"both granted", native("unshare", unix.CLONE_NEWUSER|unix.CLONE_NEWNET), retAllow},
		{"one of them not", native("unshare", unix.CLONE_NEWUSER|unix.CLONE_NEWNS), retDeny},
		{"granted for unshare only", native("clone", unix.CLONE_NEWUSER), retDeny},
	} {
		if got := simulate(t, p, c.call); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// TestDenyNeverWidens: one more deny rule allows nothing that was not allowed,
// and the order of the rules makes no difference.
func TestDenyNeverWidens(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := slices.Concat(syscalls.Names(), syscalls.Groups())
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(required, n) })
	pick := func(n int) []policies.SyscallRule {
		var out []policies.SyscallRule
		for range n {
			out = append(out, rules(names[random.IntN(len(names))])...)
		}
		return out
	}
	for range 200 {
		s := policies.Syscalls{DefaultDeny: random.IntN(2) == 0, Allow: pick(8), Deny: pick(3)}
		before, err := Meanings(s, NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		shuffled := s
		shuffled.Allow, shuffled.Deny = slices.Clone(s.Allow), slices.Clone(s.Deny)
		slices.Reverse(shuffled.Allow)
		slices.Reverse(shuffled.Deny)
		same, err := Meanings(shuffled, NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		s.Deny = append(s.Deny, pick(1)...)
		after, err := Meanings(s, NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		for nr := range maps.Keys(before) {
			if before[nr].Action != same[nr].Action {
				t.Fatalf("%+v: the order of the rules changes call %d", s, nr)
			}
			if before[nr].Action != Allow && after[nr].Action == Allow {
				t.Fatalf("%+v: one more deny allows call %d", s, nr)
			}
		}
	}
}
