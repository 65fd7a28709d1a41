package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
)

// maxExplained is how many lines the end of a run may have.
const maxExplained = 10

// explained is one line: what would allow something, and how often it was denied.
type explained struct {
	remedy string
	detail string
	count  uint64
}

// explainDenied says at the end of a run what was denied, and what would allow
// it. The remedies are made by what made the filter and the rules.
func (a *app) explainDenied(s *session, network *spec.Denied, calls *spec.DeniedCalls) {
	var lines []explained
	var more uint64
	var what []string
	if calls != nil {
		lines = append(lines, explainCalls(s.rules, calls.Most)...)
		more += calls.More
		what = append(what, counted(calls.Total, "system call"))
	}
	if network != nil {
		lines = append(lines, explainRefusals(s.plan, network.Most)...)
		more += network.More
		what = append(what, counted(network.Total, "packet"))
	}
	if what == nil {
		return
	}
	slices.SortStableFunc(lines, func(x, y explained) int { return cmp.Compare(y.count, x.count) })
	if kept := maxExplained - 2; len(lines) > kept {
		more += uint64(len(lines) - kept)
		lines = lines[:kept]
	}
	fmt.Fprintf(a.stderr, "purple: %s: denied: %s\n", s.plan.Unit, strings.Join(what, ", "))
	var rows [][]string
	for _, l := range lines {
		rows = append(rows, []string{"  " + l.remedy, "# " + l.detail})
	}
	for _, line := range alignColumns(rows) {
		fmt.Fprintln(a.stderr, line)
	}
	if more > 0 {
		fmt.Fprintf(a.stderr, "  and %d more: journalctl -u %s\n", more, s.plan.Unit)
	}
}

func explainCalls(rules *seccomp.Rules, calls []spec.RefusedCall) []explained {
	var lines []explained
	for _, c := range calls {
		call := seccomp.Call{Arch: seccomp.AuditArch(seccomp.NativeArch), Nr: c.Nr, Args: c.Args}
		lines = append(lines, explained{
			remedy: callRemedy(rules.CallName(c.Nr), rules.Remedy(call)),
			detail: fmt.Sprintf("%d × %s, %s", c.Count, processName(c.Comm), journal.Escape(c.Errno)),
			count:  c.Count,
		})
	}
	return lines
}

func counted(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func processName(comm string) string {
	if comm == "" {
		return "several processes"
	}
	return journal.Escape(comm)
}

// callRemedy is a remedy as one writes it into a profile.
func callRemedy(name string, m seccomp.Remedy) string {
	if m.Never != "" {
		return fmt.Sprintf("no profile allows this %s: %s", name, m.Never)
	}
	var parts []string
	if m.Allow != nil {
		parts = append(parts, "syscalls.allow: "+m.Allow.String())
	}
	if len(m.Deny) > 0 {
		parts = append(parts, "out of syscalls.deny: "+ruleNames(m.Deny))
	}
	return strings.Join(parts, "; ")
}

func ruleNames(rules []policies.SyscallRule) string {
	var names []string
	for _, r := range rules {
		names = append(names, r.Name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

func explainRefusals(plan *translate.Plan, refusals []spec.Refusal) []explained {
	var lines []explained
	for _, r := range refusals {
		lines = append(lines, explained{
			remedy: refusalRemedy(plan, r),
			detail: fmt.Sprintf("%d × %s", r.Count, journal.Escape(r.Destination)),
			count:  r.Count,
		})
	}
	return lines
}

// refusalRemedy is the entry of network.allow_outgoing that lets packets to a
// destination pass.
func refusalRemedy(plan *translate.Plan, r spec.Refusal) string {
	to, err := netip.ParseAddr(r.Address)
	if err != nil {
		return "no profile allows this"
	}
	entry, ok := plan.Network.Remedy(r.Protocol, to, r.Port)
	if !ok {
		return "no profile allows this"
	}
	return "network.allow_outgoing: " + entry
}
