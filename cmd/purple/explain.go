package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
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
func (a *app) explainDenied(s *session, network *spec.Denied, calls *spec.DeniedCalls, access *spec.DeniedAccess) {
	e := evaluator{rules: s.rules, network: s.plan.Network, files: s.policy, workspace: workspaceOf(s.plan)}
	var lines []explained
	var more uint64
	var what []string
	if calls != nil {
		lines = append(lines, explainCalls(e, calls.Most)...)
		more += calls.More
		what = append(what, counted(calls.Total, "system call"))
	}
	if network != nil {
		lines = append(lines, explainRefusals(e, network.Most)...)
		more += network.More
		what = append(what, counted(network.Total, "packet"))
	}
	if access != nil {
		lines = append(lines, explainAccess(e, access.Most)...)
		more += access.More
		if access.Paths > 0 {
			what = append(what, countedAccesses(access.Paths))
		}
		if access.Capabilities > 0 {
			what = append(what, counted(access.Capabilities, "call")+" for want of a capability")
		}
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
		fmt.Fprintf(a.stderr, "  and %d more: purple why %s\n", more, s.plan.Spec.RunID)
	}
}

func explainCalls(e evaluator, calls []spec.RefusedCall) []explained {
	var lines []explained
	for _, c := range calls {
		lines = append(lines, explained{
			remedy: e.ofCall(c.Nr, c.Args).of(e.rules.CallName(c.Nr)),
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

func countedAccesses(n uint64) string {
	if n == 1 {
		return "1 access to a path"
	}
	return fmt.Sprintf("%d accesses to paths", n)
}

func processName(comm string) string {
	if comm == "" {
		return "several processes"
	}
	return journal.Escape(comm)
}

func explainRefusals(e evaluator, refusals []spec.Refusal) []explained {
	var lines []explained
	for _, r := range refusals {
		lines = append(lines, explained{
			remedy: refusalRemedy(e, r).of(journal.Escape(r.Protocol)),
			detail: fmt.Sprintf("%d × %s", r.Count, journal.Escape(r.Destination)),
			count:  r.Count,
		})
	}
	return lines
}

func refusalRemedy(e evaluator, r spec.Refusal) remedy {
	to, err := netip.ParseAddr(r.Address)
	if err != nil {
		return remedy{Never: "its address cannot be read"}
	}
	return e.ofPackets(r.Protocol, to, r.Port)
}

func explainAccess(e evaluator, all []spec.RefusedAccess) []explained {
	var lines []explained
	for _, r := range all {
		what, m := journal.Escape(r.Capability), e.ofCapability(r.Capability)
		if r.Capability == "" {
			what, m = (journal.PathDenied{Path: journal.Escape(r.Path), Effect: journal.Effect(r.Effect)}).What(), e.ofPath(r.Path, journal.Effect(r.Effect))
		}
		lines = append(lines, explained{
			remedy: m.of(what),
			detail: fmt.Sprintf("%d × %s: %s, %s", r.Count, processName(r.Comm), what, journal.Escape(r.Errno)),
			count:  r.Count,
		})
	}
	return lines
}
