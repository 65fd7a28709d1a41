package seccomp

import (
	"slices"
	"strconv"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

// Remedy is what in a policy would have to change for a call to pass.
type Remedy struct {
	Allow *policies.SyscallRule  // to add to syscalls.allow; nil: nothing
	Deny  []policies.SyscallRule // to take out of syscalls.deny
	// Never is why no policy lets the call pass; then the rest is empty.
	Never string
}

// Remedy says what would let a denied call pass. It has asked Resolve whether
// it does: what is suggested is what is enforced.
func (r *Rules) Remedy(c Call) Remedy {
	name, known := syscalls.Name(r.arch, int(c.Nr))
	if !known {
		return Remedy{Never: r.Verdict(c).Why}
	}
	m := Remedy{Deny: rulesThatName(name, r.policy.Deny)}
	flags := r.missingFlags(name, c)
	if flags != nil || r.policy.DefaultDeny && len(rulesThatName(name, r.policy.Allow)) == 0 {
		m.Allow = &policies.SyscallRule{Name: name, Flags: flags}
	}
	after, err := Resolve(m.Apply(r.policy), r.arch)
	if err != nil {
		return Remedy{Never: err.Error()}
	}
	if d := after.Verdict(c); d.Action != Allow {
		return Remedy{Never: d.Why}
	}
	return m
}

// CallName is the name of a number, or the number where it has none.
func (r *Rules) CallName(nr uint32) string {
	if name, ok := syscalls.Name(r.arch, int(nr)); ok {
		return name
	}
	return strconv.FormatUint(uint64(nr), 10)
}

// Apply is s with the remedy in it.
func (m Remedy) Apply(s policies.Syscalls) policies.Syscalls {
	s.Allow = slices.Clone(s.Allow)
	if m.Allow != nil {
		rule := *m.Allow
		rule.Key = "syscalls.allow"
		s.Allow = append(s.Allow, rule)
	}
	s.Deny = slices.DeleteFunc(slices.Clone(s.Deny), func(rule policies.SyscallRule) bool {
		return slices.ContainsFunc(m.Deny, func(out policies.SyscallRule) bool { return out.Name == rule.Name })
	})
	return s
}

// rulesThatName are those for a call itself or for a group that has it.
func rulesThatName(call string, rules []policies.SyscallRule) []policies.SyscallRule {
	var found []policies.SyscallRule
	for _, rule := range rules {
		calls, isGroup := syscalls.Group(rule.Name)
		if rule.Name == call || isGroup && slices.Contains(calls, call) {
			found = append(found, rule)
		}
	}
	return found
}

// missingFlags are the namespaces that a call of clone or unshare asks for and
// the policy does not grant, by name.
func (r *Rules) missingFlags(name string, c Call) []string {
	granted := r.clone
	switch name {
	case "clone":
	case "unshare":
		granted = r.unshare
	default:
		return nil
	}
	var missing []string
	for _, flag := range syscalls.NamespaceFlags() {
		bit, _ := syscalls.NamespaceFlag(flag)
		if name == "clone" && uint32(bit)&cloneNamespaces == 0 {
			continue // its exit signal is in that bit
		}
		if uint32(c.Args[0])&uint32(bit)&^granted != 0 {
			missing = append(missing, flag)
		}
	}
	return missing
}
