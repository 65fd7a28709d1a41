package seccomp

import (
	"testing"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

func learning(t *testing.T, s policies.Syscalls) (*Rules, machine) {
	t.Helper()
	open, err := Learning(s, NativeArch)
	if err != nil {
		t.Fatal(err)
	}
	return compile(t, open)
}

// Under every kind of policy: a learning run has the floor of the run, lets pass
// what that lets pass, and denies what is denied by name.
func TestLearningKeepsFloorAndDenials(t *testing.T) {
	for name, s := range all() {
		t.Run(name, func(t *testing.T) {
			rules := resolve(t, s, NativeArch)
			open, m := learning(t, s)
			check := func(c Call) {
				t.Helper()
				got := m.run(t, c)
				enforced, final := rules.floorVerdict(c)
				if !final {
					enforced = rules.Verdict(c)
				}
				if (final || enforced.Action == Allow) && got != enforced.Action {
					t.Errorf("%+v: %s while learning, %+v", c, got, enforced)
				}
				call := rules.CallName(c.Nr)
				if _, always := required()[call]; !final && !always && len(rulesThatName(call, s.Deny)) > 0 && got != Deny {
					t.Errorf("%+v is denied by name: %s while learning", c, got)
				}
				if d := open.Verdict(c); d.Action != got {
					t.Errorf("%+v: the filter says %s, the rules %+v", c, got, d)
				}
			}
			everyCall(rules, check)
		})
	}
}

func TestLearning(t *testing.T) {
	_, m := learning(t, policies.Syscalls{DefaultDeny: true, Allow: allow("@basic-io", "ptrace"), Deny: deny("keyctl", "@timer", "kill")})
	for name, want := range map[string]Action{
		"read":           Allow, // allowed
		"getpriority":    Allow, // not named
		"statx":          Allow, // not named, and answered ENOSYS for it under run
		"ptrace":         Allow, // denied by default, but allowed here
		"kill":           Deny,  // denied by name
		"timer_create":   Deny,  // denied by group
		"mount":          Deny,  // not named, and denied by default
		"bpf":            Deny,
		"setns":          Deny,
		"userfaultfd":    Deny,
		"clone3":         NoSys, // the floor's
		"openat2":        NoSys,
		"io_uring_setup": NoSys,
	} {
		if got := m.run(t, native(t, name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if _, m := learning(t, policies.Syscalls{}); m.run(t, native(t, "mount")) != Allow {
		t.Error("what a policy allows by default is denied while learning")
	}
	if _, err := Learning(policies.Syscalls{Allow: allow("nonsense")}, NativeArch); err == nil {
		t.Error("an unknown call was taken")
	}
}

// The rule for what was made is allowed by the policy under which it was made.
func TestLearntRule(t *testing.T) {
	r := resolve(t, granting(), NativeArch)
	for call, want := range map[string]string{
		"read": "read", "clone": "clone:CLONE_NEWPID", "unshare": "unshare:CLONE_NEWNET|CLONE_NEWTIME|CLONE_NEWUSER",
	} {
		if rule := r.LearntRule(r.number(call)); rule.String() != want || !r.AllowsRule(rule) {
			t.Errorf("%s: %s, want %s", call, rule, want)
		}
	}
	for _, rule := range []policies.SyscallRule{{Name: "mount"}, {Name: "clone", Flags: []string{"CLONE_NEWUSER"}}, {Name: "unshare", Flags: []string{"CLONE_NEWPID"}}} {
		if r.AllowsRule(rule) {
			t.Errorf("%s is allowed", rule)
		}
	}
	for _, arch := range syscalls.Architectures() {
		if len(ChanceCalls(arch)) < 4 {
			t.Errorf("%s: %v", arch, ChanceCalls(arch))
		}
	}
}
