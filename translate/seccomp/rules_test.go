package seccomp

import (
	"bytes"
	"strings"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

func TestResolveRefuses(t *testing.T) {
	flags := func(call string, flags ...string) policies.Syscalls {
		return policies.Syscalls{Allow: []policies.SyscallRule{{Name: call, Flags: flags, Key: "syscalls.allow[7]"}}}
	}
	for _, c := range []struct {
		s    policies.Syscalls
		arch string
		want string
	}{
		{policies.Syscalls{Allow: allow("raed")}, "amd64", `syscalls.allow[0]: unknown system call "raed"`},
		{policies.Syscalls{Deny: deny("read", "@nothing")}, "amd64", `syscalls.deny[1]: unknown system call "@nothing"`},
		{policies.Syscalls{Deny: deny("")}, "arm64", `syscalls.deny[0]: unknown system call ""`},
		{policies.Syscalls{Deny: deny("execve")}, "amd64", "syscalls.deny[0]: cannot deny execve: it starts the command"},
		{policies.Syscalls{DefaultDeny: true, Deny: deny("rt_sigreturn")}, "amd64", "cannot deny rt_sigreturn"},
		{flags("clone", "CLONE_NEWTIME"), "amd64", "syscalls.allow[7]: cannot allow CLONE_NEWTIME for clone"},
		{flags("clone3", "CLONE_NEWUSER"), "amd64", "cannot allow CLONE_NEWUSER for clone3"},
		{flags("@process", "CLONE_NEWUSER"), "amd64", "cannot allow CLONE_NEWUSER for @process"},
		{flags("unshare", "CLONE_VM"), "amd64", `cannot allow "CLONE_VM": it is no flag that makes a namespace`},
		{policies.Syscalls{}, "riscv64", `cannot make a system call filter for "riscv64": Purple knows amd64 and arm64`},
		{policies.Syscalls{}, "", `cannot make a system call filter for ""`},
	} {
		if _, err := Resolve(c.s, c.arch); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.s, err, c.want)
		}
		if _, err := Compile(c.s, c.arch); err == nil {
			t.Errorf("%+v: Compile took it", c.s)
		}
	}
}

func TestCompileRefusesAnotherArchitecture(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[NativeArch]
	_, err := Compile(reference(), other)
	if want := "cannot compile a system call filter for " + other + " on " + NativeArch; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestCheckLength(t *testing.T) {
	if err := checkLength(4096); err != nil {
		t.Error(err)
	}
	if err := checkLength(4097); err == nil || !strings.Contains(err.Error(), "4097 instructions and the kernel takes 4096") {
		t.Errorf("error %v", err)
	}
}

func TestDecodeRefusesAPartOfAnInstruction(t *testing.T) {
	for _, n := range []int{0, 7, 9} {
		if _, err := decode(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were taken for a program", n)
		}
	}
}

// An action that is none of the four must not let a call pass.
func TestUnknownActionKills(t *testing.T) {
	for _, a := range []Action{"", "notify"} {
		if e := a.encode(); e != Kill.encode() {
			t.Errorf("%q is %+v", a, e)
		}
	}
}

func TestDecisions(t *testing.T) {
	const byDefault = "syscalls.default_deny"
	mixed := policies.Syscalls{DefaultDeny: true, Allow: allow("@mount", "@default", "mount", "clone3", "@process", "open"),
		Deny: deny("@swap", "umount2", "swapon")}
	for _, c := range []struct {
		s            policies.Syscalls
		call         string
		action       Action
		key, because string
	}{
		{reference(), "read", Allow, "syscalls.allow[0]", "read"},
		{reference(), "clone", Allow, "syscalls.allow[19]", "clone3"},
		{reference(), "vfork", Allow, "syscalls.allow[19]", "clone3"},
		{reference(), "clone3", NoSys, "", ""},
		{reference(), "umount2", Deny, "syscalls.deny[1]", "umount2"},
		{reference(), "renameat2", Deny, "syscalls.deny[6]", "renameat2"}, // by name: EPERM, though it is probed for
		{reference(), "faccessat2", NoSys, byDefault, ""},
		{reference(), "statx", NoSys, byDefault, ""},
		{reference(), "ptrace", Deny, byDefault, ""},
		{reference(), "fsopen", Deny, byDefault, ""}, // new, but made on purpose only
		{reference(), "rt_sigreturn", Allow, "", ""}, // Purple needs it
		{reference(), "execve", Allow, "", ""},
		{mixed, "mount", Allow, "syscalls.allow[2]", "mount"}, // itself before its group
		{mixed, "fsopen", Allow, "syscalls.allow[0]", "@mount"},
		{mixed, "umount2", Deny, "syscalls.deny[1]", "umount2"}, // deny beats allow
		{mixed, "swapon", Deny, "syscalls.deny[2]", "swapon"},
		{mixed, "swapoff", Deny, "syscalls.deny[0]", "@swap"},
		{policies.Syscalls{Deny: deny("@default")}, "exit_group", Allow, "", ""},
		{policies.Syscalls{Deny: deny("@default")}, "getrandom", Deny, "syscalls.deny[0]", "@default"},
		{policies.Syscalls{Deny: deny("clone3")}, "clone", Allow, byDefault, ""},
		{policies.Syscalls{DefaultDeny: true, Allow: allow("clone3"), Deny: deny("clone3")}, "clone", Deny, byDefault, ""},
		{policies.Syscalls{DefaultDeny: true, Allow: allow("clone3"), Deny: deny("clone")}, "clone", Deny, "syscalls.deny[0]", "clone"},
	} {
		d := resolve(t, c.s, "amd64").explain(c.call, number(t, "amd64", c.call))
		if d.Action != c.action || d.Key != c.key || d.Rule != c.because {
			t.Errorf("%s: %+v, want %s %q %q", c.call, d, c.action, c.key, c.because)
		}
	}
}

// What an architecture does not have is skipped, whether named or in a group.
func TestCallsOfOtherArchitecturesAreSkipped(t *testing.T) {
	s := policies.Syscalls{DefaultDeny: true, Allow: allow("open", "@file-system"), Deny: deny("fork")}
	r := resolve(t, s, "arm64")
	if d := r.calls[number(t, "arm64", "openat")]; d.Action != Allow {
		t.Errorf("openat: %+v", d)
	}
	if listing := r.Listing(); strings.Contains(listing, "\n  open  ") || strings.Contains(listing, "\n  fork ") {
		t.Error("the listing for arm64 has a call that arm64 has not")
	}
}

func number(t *testing.T, arch, name string) int {
	t.Helper()
	nr, ok := syscalls.Number(arch, name)
	if !ok {
		t.Fatalf("no %s on %s", name, arch)
	}
	return nr
}

func TestTablesNameCalls(t *testing.T) {
	for name, why := range required() {
		if _, isGroup := syscalls.Group(name); !syscalls.Known(name) || isGroup || why == "" {
			t.Errorf("required: %q: %q", name, why)
		}
	}
	for name, why := range probed() {
		if _, isGroup := syscalls.Group(name); !syscalls.Known(name) || isGroup || why == "" {
			t.Errorf("probed: %q: %q", name, why)
		}
	}
}

// libseccomp, where it knows a call, has the same number for it.
func TestNumbersAreLibseccomps(t *testing.T) {
	known := 0
	for arch, theirs := range map[string]libseccomp.ScmpArch{"amd64": libseccomp.ArchAMD64, "arm64": libseccomp.ArchARM64} {
		for _, name := range syscalls.Names() {
			nr, err := libseccomp.GetSyscallFromNameByArch(name, theirs)
			if err != nil || nr < 0 { // unknown to it, or not on this architecture
				continue
			}
			known++
			if ours, ok := syscalls.Number(arch, name); !ok || ours != int(nr) {
				t.Errorf("%s on %s is %d, libseccomp says %d", name, arch, ours, nr)
			}
		}
	}
	if known < 600 {
		t.Errorf("libseccomp knows %d of the numbers only", known)
	}
}

func TestCompileIsDeterministic(t *testing.T) {
	for name, s := range all() {
		first, err := Compile(s, NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		second, err := Compile(s, NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) || first.Listing() != second.Listing() {
			t.Errorf("%s: two runs make two programs", name)
		}
	}
}

func TestListing(t *testing.T) {
	p, err := Compile(granting(), NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	listing := p.Listing()
	for _, want := range []string{
		"ioctl: EPERM for TIOCSTI and TIOCLINUX",
		"allow   syscalls.allow[2] # namespaces: CLONE_NEWPID\n",
		"allow   syscalls.allow[1] # namespaces: CLONE_NEWNET|CLONE_NEWTIME|CLONE_NEWUSER\n",
		"allow   syscalls.allow[0] (@system-service)\n",
		"EPERM   syscalls.default_deny\n",
		"ENOSYS  # its flags are behind a pointer",
		"     0  ld [4]\n",
	} {
		if !strings.Contains(listing, want) {
			t.Errorf("the listing has no %q:\n%.3000s", want, listing)
		}
	}
	if n := strings.Count(listing[strings.Index(listing, "program:"):], "\n") - 1; n != len(p.Bytes())/instructionSize {
		t.Errorf("the listing has %d instructions, the program %d", n, len(p.Bytes())/instructionSize)
	}
}

func TestAssemblerRefusesWhatCannotBe(t *testing.T) {
	for name, build := range map[string]func(*assembler){
		"no label":  func(a *assembler) { a.jump(bpf.JumpEqual, 1, "nowhere") },
		"backwards": func(a *assembler) { a.label("back"); a.load(0); a.jump(bpf.JumpEqual, 1, "back") },
		"twice":     func(a *assembler) { a.label("x"); a.label("x") },
		"too far":   func(a *assembler) { a.jump(bpf.JumpEqual, 1, "far"); tooFar(a); a.label("far") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: assembled", name)
				}
			}()
			a := newAssembler()
			build(a)
			a.finish()
		}()
	}
}

func tooFar(a *assembler) {
	for range 256 {
		a.load(0)
	}
}

func BenchmarkCompile(b *testing.B) {
	for name, s := range map[string]policies.Syscalls{
		"system-service": {DefaultDeny: true, Allow: allow("@system-service")},
		"reference":      reference(),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(s, NativeArch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
