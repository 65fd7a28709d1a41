package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies/syscalls"
)

// Listing is the filter for a reader: the floor, each call's verdict with its
// cause, and the program that the kernel runs.
func (p *Program) Listing() string {
	var b strings.Builder
	p.rules.list(&b)
	fmt.Fprintf(&b, "\nprogram: %d instructions of at most %d\n", len(p.code), maxInstructions)
	for i, raw := range p.code {
		fmt.Fprintf(&b, "  %4d  %v\n", i, raw.Disassemble())
	}
	return b.String()
}

// Listing is the part of Program.Listing that needs no compiled program.
func (r *Rules) Listing() string {
	var b strings.Builder
	r.list(&b)
	return b.String()
}

func (r *Rules) list(b *strings.Builder) {
	b.WriteString("floor, whatever the policy says:\n")
	for _, line := range floorText() {
		fmt.Fprintf(b, "  %s\n", line)
	}
	fmt.Fprintf(b, "\ncalls of %s:\n", r.arch)
	for _, name := range syscalls.Names() {
		nr, ok := syscalls.Number(r.arch, name)
		if !ok {
			continue
		}
		d := r.explain(name, nr)
		line := fmt.Sprintf("  %-24s %3d  %-7s %s", name, nr, d.Action, d.cause(name))
		fmt.Fprintln(b, strings.TrimRight(line, " "))
	}
}

// explain is the decision on a call of any arguments: the floor's on those that
// it answers whatever they are, else the policy's.
func (r *Rules) explain(name string, nr int) Decision {
	d := r.Verdict(Call{Arch: auditArch(r.arch), Nr: uint32(nr)})
	if _, ok := unseen()[name]; ok {
		return d
	}
	d = r.calls[nr]
	if d.Action == Allow {
		d.Why = strings.TrimPrefix(d.Why+r.condition(name), "; ")
	}
	return d
}

// condition says what of an allowed call the floor leaves.
func (r *Rules) condition(name string) string {
	switch name {
	case "clone":
		return "; namespaces: " + flagNames(r.clone)
	case "unshare":
		return "; namespaces: " + flagNames(r.unshare)
	case "ioctl", "socket", "socketpair", "seccomp":
		return "; but for what the floor denies"
	}
	if slices.ContainsFunc(modeCalls(), func(m modeCall) bool { return m.name == name }) {
		return "; but for set-user-ID and set-group-ID modes"
	}
	return ""
}

// flagNames are the flags of a mask by name, "none" if there are none.
func flagNames(mask uint32) string {
	var names []string
	for _, name := range syscalls.NamespaceFlags() {
		if bit, _ := syscalls.NamespaceFlag(name); mask&uint32(bit) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, "|")
}

// cause is the policy's key and rule, and the reason, as far as there are any.
func (d Decision) cause(call string) string {
	parts := make([]string, 0, 3)
	if d.Key != "" {
		parts = append(parts, d.Key)
	}
	if d.Rule != "" && d.Rule != call {
		parts = append(parts, "("+d.Rule+")")
	}
	if d.Why != "" {
		parts = append(parts, "# "+d.Why)
	}
	return strings.Join(parts, " ")
}
