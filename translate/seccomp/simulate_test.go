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
	second := []uint64{0, 1, 2, 3, 5, 8, 10, 0x37, 1 | unix.SOCK_CLOEXEC, 3 | unix.SOCK_NONBLOCK, unix.TIOCSTI, unix.TIOCSTI + 1, tiocLinux, unix.TCGETS, 0x40806685, 0x80086601, 0x40049409, 0x9400, 0x40087602, 0o4755, 0o2644, 0o1777}
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

// everyCall calls check with every number that there is, on several architectures,
// and with many arguments where those decide.
func everyCall(rules *Rules, check func(Call)) {
	for nr := range uint32(1024) {
		for _, arch := range []uint32{AuditArch("amd64"), AuditArch("arm64"), unix.AUDIT_ARCH_I386, 0} {
			check(Call{Arch: arch, Nr: nr})
			check(Call{Arch: arch, Nr: nr | x32Bit})
		}
	}
	for _, call := range argumentCalls {
		for _, args := range arguments() {
			check(Call{AuditArch(NativeArch), rules.number(call), args})
		}
	}
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

// A program that notifies differs in the denials, one that is traced in what it
// lets pass, and neither in anything else: what is killed or answered by the
// kernel stays so.
func TestProgramsForTheSupervisor(t *testing.T) {
	const deny, notify, allow, trace = 0x00050001, 0x7fc00000, 0x7fff0000, 0x7ff00000
	for name, s := range all() {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(s, NativeArch)
			if err != nil {
				t.Fatal(err)
			}
			plain := machineOf(t, p)
			changed := []struct {
				machine
				answers map[uint32]uint32
			}{
				{machineOf(t, p.Notifying()), map[uint32]uint32{deny: notify}},
				{machineOf(t, p.Traced()), map[uint32]uint32{allow: trace}},
				{machineOf(t, p.Notifying().Traced()), map[uint32]uint32{deny: notify, allow: trace}},
			}
			check := func(c Call) {
				t.Helper()
				for _, m := range changed {
					want := plain.answer(t, c)
					if to, ok := m.answers[want]; ok {
						want = to
					}
					if got := m.answer(t, c); got != want {
						t.Errorf("%+v: %#x, want %#x", c, got, want)
					}
				}
			}
			everyCall(p.Rules(), check)
		})
	}
}

// A program that watches differs in calls that it lets pass, and never notifies of
// any other: the supervisor lets those go on.
func TestWatchingProgram(t *testing.T) {
	const allow, watched = 0x7fff0000, 0x7fc00000
	for name, s := range all() {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(s, NativeArch)
			if err != nil {
				t.Fatal(err)
			}
			w, err := p.Notifying().Watching(Watch{Paths: true, Reads: true, Capabilities: true, Held: 1 << unix.CAP_SYS_CHROOT})
			if err != nil {
				t.Fatal(err)
			}
			plain, watching := machineOf(t, p), machineOf(t, w)
			check := func(c Call) {
				t.Helper()
				want, got := plain.answer(t, c), watching.answer(t, c)
				switch got {
				case watched | notifyPath, watched | notifyCapability:
					if want != allow {
						t.Errorf("%+v: %#x, but %#x without", c, got, want)
					}
				case watched | notifyDenied:
					if want != 0x00050001 {
						t.Errorf("%+v: denied, but %#x without", c, want)
					}
				default:
					if got != want {
						t.Errorf("%+v: %#x, want %#x", c, got, want)
					}
				}
			}
			everyCall(p.Rules(), check)
		})
	}
}

// What is watched is what may be refused, and no more: a file that is read costs
// nothing.
func TestWhatIsWatched(t *testing.T) {
	p, err := Compile(policies.Syscalls{}, NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	const allow, path, capability = 0x7fff0000, 0x7fc00001, 0x7fc00002
	answers := func(w Watch, call string, args ...uint64) uint32 {
		t.Helper()
		watching, err := p.Watching(w)
		if err != nil {
			t.Fatal(err)
		}
		c := Call{Arch: AuditArch(NativeArch), Nr: p.Rules().number(call)}
		copy(c.Args[:], args)
		return machineOf(t, watching).answer(t, c)
	}
	paths, capabilities := Watch{Paths: true}, Watch{Capabilities: true}
	reads, both := Watch{Reads: true}, Watch{Paths: true, Reads: true}
	held := Watch{Capabilities: true, Held: 1 << unix.CAP_NET_BIND_SERVICE}
	for _, c := range []struct {
		watch Watch
		want  uint32
		call  string
		args  []uint64
	}{
		{paths, allow, "openat", []uint64{0, 0, unix.O_RDONLY | unix.O_CLOEXEC | unix.O_DIRECTORY}},
		{paths, allow, "openat", []uint64{0, 0, unix.O_PATH}},
		{paths, path, "openat", []uint64{0, 0, unix.O_WRONLY}},
		{paths, path, "openat", []uint64{0, 0, unix.O_RDWR | unix.O_CLOEXEC}},
		{paths, path, "openat", []uint64{0, 0, unix.O_CREAT}},
		{paths, path, "openat", []uint64{0, 0, unix.O_TRUNC}},
		{paths, path, "unlinkat", nil}, {paths, path, "renameat2", nil}, {paths, path, "mkdirat", nil},
		{paths, allow, "newfstatat", nil}, {paths, allow, "readlinkat", nil}, {paths, allow, "faccessat", nil}, {paths, allow, "bind", nil},
		{capabilities, capability, "bind", nil}, {capabilities, allow, "unlinkat", nil}, {capabilities, allow, "connect", nil},
		{held, allow, "bind", nil},
		{reads, path, "openat", []uint64{0, 0, unix.O_RDONLY}}, {reads, path, "openat", []uint64{0, 0, unix.O_WRONLY}}, {reads, allow, "unlinkat", nil},
		{both, path, "openat", []uint64{0, 0, unix.O_RDONLY}}, {both, path, "unlinkat", nil},
		{Watch{}, allow, "bind", nil}, {Watch{}, allow, "unlinkat", nil},
	} {
		if got := answers(c.watch, c.call, c.args...); got != c.want {
			t.Errorf("%+v: %s(%#x): %#x, want %#x", c.watch, c.call, c.args, got, c.want)
		}
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
