package seccomp

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

// Every remedy that is suggested makes the denial go away, for every call under
// every kind of policy, and a call is only said to be beyond all policies if
// one that allows everything denies it as well.
func TestRemediesWork(t *testing.T) {
	for name, s := range all() {
		rules := resolve(t, s, NativeArch)
		open := resolve(t, policies.Syscalls{Allow: []policies.SyscallRule{
			{Name: "unshare", Flags: syscalls.NamespaceFlags()},
			{Name: "clone", Flags: slices.DeleteFunc(syscalls.NamespaceFlags(), func(f string) bool { return f == "CLONE_NEWTIME" })},
		}}, NativeArch)
		check := func(c Call) {
			t.Helper()
			if rules.Verdict(c).Action == Allow {
				return
			}
			m := rules.Remedy(c)
			if m.Never != "" {
				if open.Verdict(c).Action == Allow {
					t.Errorf("%s: %+v: nothing is said to allow it: %s", name, c, m.Never)
				}
				return
			}
			if d := resolve(t, m.Apply(s), NativeArch).Verdict(c); d.Action != Allow {
				t.Errorf("%s: %+v: after %+v it is %+v", name, c, m, d)
			}
		}
		for _, nr := range syscalls.Numbers(NativeArch) {
			check(Call{Arch: AuditArch(NativeArch), Nr: uint32(nr)})
		}
		for _, flags := range []uint64{unix.CLONE_NEWUSER, unix.CLONE_NEWNS | unix.CLONE_NEWPID, unix.CLONE_NEWTIME, 1 << 20, high} {
			check(native(t, "unshare", flags))
			check(native(t, "clone", flags))
		}
		check(native(t, "ioctl", 0, unix.TIOCSTI))
		check(native(t, "socket", unix.AF_VSOCK))
		check(native(t, "seccomp", 1, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER))
		check(native(t, "fchmod", 0, 0o4755))
	}
}

func TestRemedy(t *testing.T) {
	s := policies.Syscalls{DefaultDeny: true, Allow: allow("@system-service", "ptrace"), Deny: deny("@mount", "umount2", "ptrace", "bpf")}
	r := resolve(t, s, NativeArch)
	for _, c := range []struct {
		call  Call
		allow string
		deny  []string
		never string
	}{
		{call: native(t, "syslog"), allow: "syslog"},
		{call: native(t, "mount"), allow: "mount", deny: []string{"@mount"}},
		{call: native(t, "umount2"), allow: "umount2", deny: []string{"@mount", "umount2"}},
		{call: native(t, "ptrace"), deny: []string{"ptrace"}},
		{call: native(t, "unshare", unix.CLONE_NEWUSER|unix.CLONE_NEWNS), allow: "unshare:CLONE_NEWNS|CLONE_NEWUSER"},
		{call: native(t, "ioctl", 0, unix.TIOCSTI), never: "it puts input into a terminal"},
		{call: native(t, "unshare", unix.CLONE_NEWUSER|1<<20), never: notGranted},
	} {
		m := r.Remedy(c.call)
		var denied []string
		for _, rule := range m.Deny {
			denied = append(denied, rule.Name)
		}
		allowed := ""
		if m.Allow != nil {
			allowed = m.Allow.String()
		}
		if allowed != c.allow || !slices.Equal(denied, c.deny) || m.Never != c.never {
			t.Errorf("%+v: %q, %q, %q", c, allowed, denied, m.Never)
		}
	}
}
