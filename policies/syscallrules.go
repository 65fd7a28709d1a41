package policies

import (
	"fmt"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies/syscalls"
)

func (d *decoder) syscalls(n *node, s *Syscalls) {
	d.mapping(n,
		reader{"default_deny", func(n *node) { d.boolean(n, &s.DefaultDeny) }},
		reader{"allow", func(n *node) { s.Allow = d.rules(n, parseAllowRule) }},
		reader{"deny", func(n *node) { s.Deny = d.rules(n, parseDenyRule) }},
	)
}

func (d *decoder) rules(n *node, parse func(string) (SyscallRule, error)) []SyscallRule {
	var rules []SyscallRule
	d.each(n, func(item *node) {
		text, ok := d.str(item)
		if !ok {
			return
		}
		text = d.mended(item, text)
		rule, err := parse(text)
		if err != nil {
			d.errorf(item, "%v", err)
			return
		}
		rule.Key = item.key
		rules = append(rules, rule)
	})
	return rules
}

// mended is the system call that is meant by the one wrong name that people
// write so often that it is a warning: umount(8) is spelt like no system call.
func (d *decoder) mended(n *node, text string) string {
	if text != "unmount" {
		return text
	}
	d.warnf(n, "there is no system call \"unmount\"; taken as \"umount2\"")
	return "umount2"
}

func parseDenyRule(text string) (SyscallRule, error) {
	if name, _, found := strings.Cut(text, ":"); found {
		return SyscallRule{}, fmt.Errorf("%s: flags are for an allow rule; a denied call is denied whatever its flags: write %s",
			printable(text), printable(name))
	}
	return SyscallRule{Name: text}, checkCall(text)
}

// parseAllowRule reads NAME, @GROUP, or clone or unshare with the namespaces
// that it may make: "unshare:CLONE_NEWUSER|CLONE_NEWNET".
func parseAllowRule(text string) (SyscallRule, error) {
	name, flags, found := strings.Cut(text, ":")
	rule := SyscallRule{Name: name}
	if err := checkCall(name); err != nil || !found {
		return rule, err
	}
	if name != "clone" && name != "unshare" {
		return rule, fmt.Errorf("%s: only clone and unshare take flags", printable(text))
	}
	for flag := range strings.SplitSeq(flags, "|") {
		if _, known := syscalls.NamespaceFlag(flag); !known {
			return rule, fmt.Errorf("unknown namespace flag %s: must be some of %s, joined by \"|\"",
				printable(flag), strings.Join(syscalls.NamespaceFlags(), ", "))
		}
		if flag == "CLONE_NEWTIME" && name == "clone" {
			// clone(2) has its exit signal in that bit.
			return rule, fmt.Errorf("CLONE_NEWTIME is for unshare alone: write \"unshare:CLONE_NEWTIME\"")
		}
		rule.Flags = append(rule.Flags, flag)
	}
	slices.Sort(rule.Flags)
	rule.Flags = slices.Compact(rule.Flags)
	return rule, nil
}

func checkCall(name string) error {
	what, known := "system call", syscalls.Known(name)
	if strings.HasPrefix(name, "@") {
		what = "group of system calls"
		_, known = syscalls.Group(name)
	}
	if known {
		return nil
	}
	hint := ""
	if near := syscalls.Nearest(name); near != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", near)
	}
	return fmt.Errorf("unknown %s %s%s", what, printable(name), hint)
}

// String is the rule as a profile writes it.
func (r SyscallRule) String() string {
	if len(r.Flags) == 0 {
		return r.Name
	}
	return r.Name + ":" + strings.Join(r.Flags, "|")
}
