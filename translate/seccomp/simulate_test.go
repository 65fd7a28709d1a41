package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

// machine runs a compiled filter in the BPF machine of x/net.
type machine struct{ vm *bpf.VM }

func newMachine(t testing.TB, code []bpf.Instruction) machine {
	t.Helper()
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

func compile(t testing.TB, s policies.Syscalls) (*Rules, machine) {
	t.Helper()
	p, err := Compile(s, NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	return p.Rules(), machineOf(t, p)
}

func machineOf(t testing.TB, p *Program) machine {
	t.Helper()
	raw, err := decode(p.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has an instruction that the BPF machine does not know")
	}
	return newMachine(t, code)
}

// run gives the filter a call. The machine loads words big-endian, so each word
// of struct seccomp_data is written so; of an argument the low half stays first.
func (m machine) run(t testing.TB, c Call) Action {
	t.Helper()
	ret := m.answer(t, c)
	// Written out, not taken from encode: this is what seccomp(2) says.
	switch ret {
	case 0x7fff0000:
		return Allow
	case 0x00050001:
		return Deny
	case 0x00050026:
		return NoSys
	case 0x80000000:
		return Kill
	}
	t.Fatalf("%+v: the filter returns %#x, which is none of Purple's", c, ret)
	return ""
}

// answer is what the kernel is told to do.
func (m machine) answer(t testing.TB, c Call) uint32 {
	t.Helper()
	data := binary.BigEndian.AppendUint32(nil, c.Nr)
	data = binary.BigEndian.AppendUint32(data, c.Arch)
	data = append(data, make([]byte, 8)...) // instruction_pointer
	for _, arg := range c.Args {
		data = binary.BigEndian.AppendUint32(data, uint32(arg))
		data = binary.BigEndian.AppendUint32(data, uint32(arg>>32))
	}
	ret, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(ret)
}

func allow(names ...string) []policies.SyscallRule { return numbered("syscalls.allow", names) }
func deny(names ...string) []policies.SyscallRule  { return numbered("syscalls.deny", names) }

func numbered(list string, names []string) []policies.SyscallRule {
	var rules []policies.SyscallRule
	for i, name := range names {
		rules = append(rules, policies.SyscallRule{Name: name, Key: fmt.Sprintf("%s[%d]", list, i)})
	}
	return rules
}

// reference is the reference policy's section.
func reference() policies.Syscalls {
	return policies.Syscalls{
		DefaultDeny: true,
		Allow: allow("read", "write", "openat", "close", "fstat", "newfstatat", "mmap", "mprotect", "munmap", "brk",
			"access", "execve", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "getrandom",
			"exit_group", "clone3"),
		Deny: deny("mount", "umount2", "reboot", "kexec_load", "bpf", "unlinkat", "renameat2"),
	}
}

// granting allows by default all that can be granted, by name.
func granting() policies.Syscalls {
	return policies.Syscalls{
		DefaultDeny: true,
		Allow: []policies.SyscallRule{
			{Name: "@system-service", Key: "syscalls.allow[0]"},
			{Name: "unshare", Flags: []string{"CLONE_NEWUSER", "CLONE_NEWNET", "CLONE_NEWTIME"}, Key: "syscalls.allow[1]"},
			{Name: "clone", Flags: []string{"CLONE_NEWPID"}, Key: "syscalls.allow[2]"},
		},
	}
}

// all are policies of every kind.
func all() map[string]policies.Syscalls {
	return map[string]policies.Syscalls{
		"reference":             reference(),
		"granting":              granting(),
		"system-service":        {DefaultDeny: true, Allow: allow("@system-service"), Deny: deny("@debug", "@mount", "@keyring", "bpf")},
		"nothing allowed":       {DefaultDeny: true},
		"everything allowed":    {DefaultDeny: true, Allow: allow("@known")},
		"everything denied":     {Deny: deny("@known")},
		"default allow":         {Deny: deny("@keyring", "@mount", "ptrace", "bpf", "clone3", "statx", "mseal")},
		"default allow, no":     {},
		"one deny":              {Deny: deny("ptrace")},
		"newer than libseccomp": {DefaultDeny: true, Allow: allow("mseal", "fchmodat2", "futex_wait", "listns", "rseq_slice_yield")},
		"clone denied":          {DefaultDeny: true, Allow: allow("clone3", "ioctl", "socket"), Deny: deny("clone")},
		"clone3 denied":         {DefaultDeny: true, Allow: allow("clone3"), Deny: deny("clone3")},
	}
}

// arguments are those that the floor looks at, in every combination of a value
// and rubbish above it.
func arguments() [][6]uint64 {
	first := []uint64{0, 1, 2, 10, 16, 17, 40, 0x80, 0x11, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		unix.CLONE_NEWNET | unix.CLONE_NEWUSER, unix.CLONE_VM | unix.CLONE_FILES, 1 << 20, 1 << 31}
	second := []uint64{0, 1, 2, 3, 5, 8, 10, 0x37, 1 | unix.SOCK_CLOEXEC, 3 | unix.SOCK_NONBLOCK, unix.TIOCSTI, unix.TIOCSTI + 1, tiocLinux, unix.TCGETS, 0o4755, 0o2644, 0o1777}
	third := []uint64{0, 1, 6, 9, 16, 17, 33, 58, 115, 132, 136, 255, 256, 262, unix.O_CREAT, unix.O_TMPFILE, unix.O_DIRECTORY, 0o6000}
	var args [][6]uint64
	for _, a := range first {
		for _, b := range second {
			for _, c := range third {
				for _, high := range []uint64{0, 1 << 32, 1 << 40, 0xffffffff << 32} {
					args = append(args, [6]uint64{a | high, b | high, c | high, b | high})
				}
			}
		}
	}
	return args
}

// The compiled program against the rules, for every number there is.
func TestProgramIsTheRules(t *testing.T) {
	for name, s := range all() {
		t.Run(name, func(t *testing.T) {
			rules, m := compile(t, s)
			check := func(c Call) {
				t.Helper()
				if got, want := m.run(t, c), rules.Verdict(c); got != want.Action {
					t.Errorf("%+v: the filter says %s, the rules %+v", c, got, want)
				}
			}
			for nr := range uint32(1024) {
				for _, arch := range []uint32{AuditArch("amd64"), AuditArch("arm64"), unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, 0} {
					check(Call{Arch: arch, Nr: nr})
					check(Call{Arch: arch, Nr: nr | x32Bit})
				}
			}
			for _, nr := range []uint32{1 << 16, 1<<30 - 1, 1 << 30, 1 << 31, 0xfffffffe, 0xffffffff} {
				check(Call{Arch: AuditArch(NativeArch), Nr: nr})
			}
			for _, call := range argumentCalls {
				nr := rules.number(call)
				for _, args := range arguments() {
					check(Call{AuditArch(NativeArch), nr, args})
				}
			}
		})
	}
}

// A program that notifies differs in the denials, and in nothing else: what is
// killed or answered by the kernel stays so.
func TestNotifyingProgram(t *testing.T) {
	for name, s := range all() {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(s, NativeArch)
			if err != nil {
				t.Fatal(err)
			}
			plain, notifying := machineOf(t, p), machineOf(t, p.Notifying())
			check := func(c Call) {
				t.Helper()
				want := plain.answer(t, c)
				if want == 0x00050001 {
					want = 0x7fc00000 // SECCOMP_RET_USER_NOTIF
				}
				if got := notifying.answer(t, c); got != want {
					t.Errorf("%+v: %#x, want %#x", c, got, want)
				}
			}
			for nr := range uint32(1024) {
				for _, arch := range []uint32{AuditArch("amd64"), AuditArch("arm64"), unix.AUDIT_ARCH_I386, 0} {
					check(Call{Arch: arch, Nr: nr})
					check(Call{Arch: arch, Nr: nr | x32Bit})
				}
			}
			for _, call := range argumentCalls {
				for _, args := range arguments() {
					check(Call{AuditArch(NativeArch), p.Rules().number(call), args})
				}
			}
		})
	}
}

// argumentCalls are those of which the floor looks at the arguments, and which
// both architectures have.
var argumentCalls = []string{"clone", "unshare", "ioctl", "socket", "socketpair", "seccomp", "fchmod", "fchmodat", "fchmodat2", "mknodat", "openat"}

// The floor of the other architecture is assembled here as well: libseccomp
// has no part in it.
func TestFloorOfEveryArchitecture(t *testing.T) {
	for _, arch := range syscalls.Architectures() {
		rules, err := Resolve(granting(), arch)
		if err != nil {
			t.Fatal(err)
		}
		pass := Allow.encode().ret
		m := newMachine(t, append(rules.floor(), bpf.RetConstant{Val: pass}))
		check := func(c Call) {
			t.Helper()
			d, final := rules.floorVerdict(c)
			if !final {
				d.Action = Allow
			}
			if got := m.run(t, c); got != d.Action {
				t.Errorf("%s: %+v: the floor says %s, the rules %+v", arch, c, got, d)
			}
		}
		for nr := range uint32(1024) {
			check(Call{Arch: AuditArch(arch), Nr: nr})
			check(Call{Arch: AuditArch(arch), Nr: nr | x32Bit})
			check(Call{Arch: unix.AUDIT_ARCH_I386, Nr: nr})
		}
		for _, call := range argumentCalls {
			for _, args := range arguments() {
				check(Call{AuditArch(arch), rules.number(call), args})
			}
		}
	}
}

// One more deny never lets through what was stopped, and the order of the
// rules makes no difference.
func FuzzDenyNeverWidens(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, []byte{4, 5}, uint16(6), true)
	f.Add([]byte{255, 0, 9}, []byte{}, uint16(400), false)
	f.Add([]byte{}, []byte{250}, uint16(435), true)
	names := slices.Concat(syscalls.Groups(), syscalls.Names())
	names = slices.DeleteFunc(names, func(n string) bool { _, needed := required()[n]; return needed })
	pick := func(n int) string { return names[n%len(names)] }
	f.Fuzz(func(t *testing.T, allowed, denied []byte, extra uint16, defaultDeny bool) {
		s := policies.Syscalls{DefaultDeny: defaultDeny}
		for i, b := range allowed {
			s.Allow = append(s.Allow, allow(pick(int(b)+7*i))...)
		}
		for i, b := range denied {
			s.Deny = append(s.Deny, deny(pick(int(b)+11*i))...)
		}
		turned, more := s, s
		turned.Allow, turned.Deny = slices.Clone(s.Allow), slices.Clone(s.Deny)
		slices.Reverse(turned.Allow)
		slices.Reverse(turned.Deny)
		more.Deny = append(slices.Clone(s.Deny), deny(pick(int(extra)))...)
		for _, arch := range syscalls.Architectures() {
			compareRules(t, arch, s, turned, more)
		}
	})
}

func compareRules(t *testing.T, arch string, s, turned, more policies.Syscalls) {
	before, after, other := resolve(t, s, arch), resolve(t, more, arch), resolve(t, turned, arch)
	for nr, d := range before.calls {
		if o := other.calls[nr]; o.Action != d.Action {
			t.Errorf("%+v: call %d is %s, and %s with the rules turned round", s, nr, d.Action, o.Action)
		}
		if a := after.calls[nr]; a.Action == Allow && d.Action != Allow {
			t.Errorf("%+v: a deny of %q lets call %d through", s, more.Deny[len(more.Deny)-1].Name, nr)
		}
	}
}

func resolve(t *testing.T, s policies.Syscalls, arch string) *Rules {
	t.Helper()
	r, err := Resolve(s, arch)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
