package seccomp

import (
	"maps"
	"slices"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

// Learning is the policy that a learning run has in place of s: it allows what s
// does not name. What s denies by name or by group stays denied, and so does
// what Purple denies by default unless s allows it: a command that nobody
// vouches for gets no way into the kernel for being watched that profiles close
// for a reason. Namespaces are granted as in s; the floor is under every policy.
func Learning(s policies.Syscalls, arch string) (policies.Syscalls, error) {
	r, err := Resolve(s, arch)
	if err != nil {
		return policies.Syscalls{}, err
	}
	open := policies.Syscalls{Allow: slices.Clone(s.Allow), Deny: slices.Clone(s.Deny)}
	byDefault := policies.DefaultDeny()
	for _, nr := range syscalls.Numbers(arch) {
		name, _ := syscalls.Name(arch, nr)
		if r.calls[nr].Action != Allow && len(rulesThatName(name, byDefault)) > 0 {
			open.Deny = append(open.Deny, policies.SyscallRule{Name: name, Key: "syscalls.deny"})
		}
	}
	return open, nil
}

// LearntRule is the allow rule for a call that a command has made under a
// learning policy. A filter sees no more of clone and unshare than that: both
// keep the namespaces that the policy grants by name.
func (r *Rules) LearntRule(nr uint32) policies.SyscallRule {
	rule := policies.SyscallRule{Name: r.CallName(nr), Key: "syscalls.allow"}
	granted := r.granted(rule.Name)
	for _, flag := range syscalls.NamespaceFlags() {
		if bit, _ := syscalls.NamespaceFlag(flag); uint32(bit)&granted != 0 {
			rule.Flags = append(rule.Flags, flag)
		}
	}
	return rule
}

// granted are the flags for namespaces that a call may have.
func (r *Rules) granted(call string) uint32 {
	switch call {
	case "clone":
		return r.clone
	case "unshare":
		return r.unshare
	}
	return 0
}

// AllowsRule tells whether the policy allows a call with the namespaces that
// the rule names.
func (r *Rules) AllowsRule(rule policies.SyscallRule) bool {
	nr, ok := syscalls.Number(r.arch, rule.Name)
	if !ok || r.calls[nr].Action != Allow {
		return false
	}
	for _, flag := range rule.Flags {
		if bit, _ := syscalls.NamespaceFlag(flag); uint32(bit)&^r.granted(rule.Name) != 0 {
			return false
		}
	}
	return true
}

// Always are the calls that every filter allows, sorted.
func Always() []string { return slices.Sorted(maps.Keys(required())) }

// ChanceCalls are those that the same program makes in one run and not in the
// next. It reads the clock without the kernel's seeing it, by the vDSO (vdso(7)),
// unless the machine's clock cannot be read that way: after a change of clock, or
// on another machine, that is a system call. And a thread that waits for another
// one gives up its processor, or sleeps, if that one is slow just then.
func ChanceCalls(arch string) []string {
	var calls []string
	for _, name := range []string{"clock_getres", "clock_gettime", "futex", "getcpu", "gettimeofday", "sched_yield", "time"} {
		if _, ok := syscalls.Number(arch, name); ok {
			calls = append(calls, name)
		}
	}
	return calls
}
