package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"github.com/purple-sandbox/purple/translate/seccomp"
)

// report is what `purple why` says, in JSON: docs/manage.md has its fields.
// null: not known. No text in it steers a terminal: either the event was
// refused where it was not escaped (journal.FromFields), or it is escaped here.
type report struct {
	Unit         string       `json:"unit"`
	Profile      string       `json:"profile"`
	ProfileFile  string       `json:"profile_file"`
	ProfileState profileState `json:"profile_state"`
	ProfileError string       `json:"profile_error,omitempty"`
	NetworkError string       `json:"network_error,omitempty"`
	PolicyHash   string       `json:"policy_hash"`
	Command      string       `json:"command"`
	Running      bool         `json:"running"`
	End          *reportedEnd `json:"end"`

	Limits     []reportedLimit  `json:"limits"`
	Totals     receiptDenials   `json:"totals"`
	Denials    []reportedDenial `json:"denials"`
	Unreadable int              `json:"unreadable_events"`

	isolated bool // as far as the profile is known: no connection could be denied
}

// reportedEnd is how a run has ended.
type reportedEnd struct {
	Reason journal.Reason `json:"reason"`
	Status uint8          `json:"status"`
	Signal uint8          `json:"signal,omitempty"`
	Error  string         `json:"error,omitempty"`

	message string
}

// reportedLimit is a limit that was reached.
type reportedLimit struct {
	Limit journal.Limit `json:"limit"`
	Key   string        `json:"key"` // of the policy
	Value *uint64       `json:"value"`
	Count *uint64       `json:"count"`

	message string
}

// reportedDenial is a system call or packets, and what would allow them.
type reportedDenial struct {
	Kind        string         `json:"kind"` // "syscall", "connection", "path" or "capability"
	Count       uint64         `json:"count"`
	Syscall     string         `json:"syscall,omitempty"`
	Arguments   string         `json:"arguments,omitempty"`
	Process     string         `json:"process,omitempty"` // empty: several, or not known
	Errno       string         `json:"errno,omitempty"`
	Protocol    string         `json:"protocol,omitempty"`
	Destination string         `json:"destination,omitempty"`
	Port        uint16         `json:"port,omitempty"`
	Path        string         `json:"path,omitempty"`
	Effect      journal.Effect `json:"effect,omitempty"`
	Capability  string         `json:"capability,omitempty"`
	Allowed     bool           `json:"allowed_now"` // by the profile as it is now; then there is no remedy
	Remedy      *remedy        `json:"remedy"`

	what string // in words
}

// limitKeys are the keys of the policy that govern limits.
var limitKeys = map[journal.Limit]string{
	journal.LimitMemory: "resources.memory_limit_bytes",
	journal.LimitTasks:  "resources.pids_limit",
	journal.LimitCPU:    "resources.cpu_shares",
	journal.LimitIO:     "resources.block_io_limit",
	journal.LimitTime:   "resources.session_timeout_seconds",
}

func newReport(r *record, p *runProfile) *report {
	h := &r.history
	w := &report{
		Unit: r.unit, Profile: p.name, ProfileFile: journal.Escape(p.file), ProfileState: p.state, ProfileError: errorText(p.err), NetworkError: errorText(p.networkErr),
		PolicyHash: r.policyHash(), Running: r.runs, Unreadable: r.unreadable,
		Limits: reportLimits(h), Denials: reportDenials(h, p), isolated: p.policy != nil && p.policy.Network.Isolated,
	}
	if h.Started != nil {
		w.Command = journal.Escape(h.Started.Command)
	}
	w.End = newReportedEnd(h.Ended)
	w.Totals = reportTotals(h, p)
	return w
}

// newReportedEnd is nil for a run that has none.
func newReportedEnd(e *journal.RunEnded) *reportedEnd {
	if e == nil {
		return nil
	}
	return &reportedEnd{Reason: e.Reason, Status: e.Status, Signal: e.Signal, Error: journal.Escape(e.Error), message: journal.Message(*e)}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	// A profile's mistakes have a line each.
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = journal.Escape(lines[i])
	}
	return strings.Join(lines, "\n")
}

// reportLimits has those with an event of their own, then those of which only
// the end tells.
func reportLimits(h *journal.History) []reportedLimit {
	limits := []reportedLimit{}
	for _, e := range h.Limits {
		limits = append(limits, reportedLimit{
			Limit: e.Limit, Key: limitKeys[e.Limit], Value: &e.Value, Count: e.Count.Pointer(), message: journal.Message(e),
		})
	}
	if h.Ended == nil {
		return limits
	}
	reached := h.Ended.Reached
	for _, word := range strings.Fields(reached.Limits) {
		limit := journal.Limit(word)
		i := slices.IndexFunc(limits, func(l reportedLimit) bool { return l.Limit == limit })
		if i < 0 {
			i = len(limits)
			limits = append(limits, reportedLimit{Limit: limit, Key: limitKeys[limit], message: "Reached the limit: " + word})
		}
		// Of the event it is what was there when it was noticed.
		switch limit {
		case journal.LimitMemory:
			limits[i].Count = reached.OOMKills.Pointer()
		case journal.LimitCPU:
			limits[i].Count = reached.Throttled.Pointer()
		}
	}
	return limits
}

// reportDenials has what was denied most often first.
func reportDenials(h *journal.History, p *runProfile) []reportedDenial {
	denials := []reportedDenial{}
	for _, e := range h.Calls {
		denials = append(denials, p.deniedCall(e))
	}
	for _, e := range h.Connections {
		denials = append(denials, p.deniedPackets(e))
	}
	for _, e := range h.Paths {
		denials = append(denials, p.deniedPath(e))
	}
	for _, e := range h.Capabilities {
		denials = append(denials, p.deniedCapability(e))
	}
	slices.SortStableFunc(denials, func(x, y reportedDenial) int { return cmp.Compare(y.Count, x.Count) })
	return denials
}

func (p *runProfile) deniedCall(e journal.SyscallDenied) reportedDenial {
	d := reportedDenial{
		Kind: "syscall", Count: e.Count, Syscall: e.Syscall, Arguments: e.Arguments, Process: e.Comm, Errno: e.Errno, what: e.Syscall,
	}
	nr, ok := callNumber(e.Syscall)
	if !ok {
		return d
	}
	r := p.ofCall(nr, e.Registers)
	if p.policy == nil && r.Never == "" {
		return d
	}
	d.Allowed = p.rules.Verdict(nativeCall(nr, e.Registers)).Action == seccomp.Allow
	d.setUnlessAllowed(&r)
	return d
}

func (p *runProfile) deniedPackets(e journal.ConnectionDenied) reportedDenial {
	d := reportedDenial{
		Kind: "connection", Count: e.Count, Protocol: e.Protocol, Destination: e.Destination.String(), Port: e.Port, what: e.Flow(),
	}
	if p.network == nil {
		return d
	}
	r := p.ofPackets(e.Protocol, e.Destination, e.Port)
	d.Allowed = p.state == profileChanged && p.network.Allows(e.Protocol, e.Destination, e.Port)
	d.setUnlessAllowed(&r)
	return d
}

// deniedPath has the remedy for the policy as it is now: whether that would allow
// it already is not known, as the machine decides about paths.
func (p *runProfile) deniedPath(e journal.PathDenied) reportedDenial {
	d := reportedDenial{
		Kind: "path", Count: e.Count, Path: e.Path, Effect: e.Effect, Syscall: e.Syscall, Process: e.Comm, Errno: e.Errno, what: e.What(),
	}
	if p.policy != nil {
		r := p.ofPath(e.Path, e.Effect)
		d.Remedy = &r
	}
	return d
}

func (p *runProfile) deniedCapability(e journal.CapabilityDenied) reportedDenial {
	d := reportedDenial{
		Kind: "capability", Count: e.Count, Capability: e.Capability, Syscall: e.Syscall, Arguments: e.Arguments,
		Process: e.Comm, Errno: e.Errno, what: e.Capability + " for " + e.Syscall,
	}
	if p.policy == nil {
		return d
	}
	r := p.ofCapability(e.Capability)
	d.Allowed = slices.Contains(p.policy.Capabilities.Add, e.Capability)
	d.setUnlessAllowed(&r)
	return d
}

func (d *reportedDenial) setUnlessAllowed(r *remedy) {
	if !d.Allowed {
		d.Remedy = r
	}
}

// callNumber is the number of a call in an event, which has a name for it where
// there is one.
func callNumber(name string) (uint32, bool) {
	if nr, ok := syscalls.Number(seccomp.NativeArch, name); ok {
		return uint32(nr), true
	}
	nr, err := strconv.ParseUint(name, 10, 32)
	return uint32(nr), err == nil
}

// reportTotals are those of the end, else the sum of what events tell so far.
func reportTotals(h *journal.History, p *runProfile) receiptDenials {
	var calls, packets, paths, capabilities uint64
	for _, e := range h.Calls {
		calls += e.Count
	}
	for _, e := range h.Connections {
		packets += e.Count
	}
	for _, e := range h.Paths {
		paths += e.Count
	}
	for _, e := range h.Capabilities {
		capabilities += e.Count
	}
	if h.CallsTotal != nil {
		calls = h.CallsTotal.Total
	}
	if h.ConnectionsTotal != nil {
		packets = h.ConnectionsTotal.Total
	}
	if h.PathsTotal != nil {
		paths = h.PathsTotal.Total
	}
	if h.CapabilitiesTotal != nil {
		capabilities = h.CapabilitiesTotal.Total
	}
	var end journal.Denials
	if h.Ended != nil {
		end = h.Ended.Denials
	}
	return receiptDenials{
		Connections:  p.total(end.Connections, packets, "network"),
		Syscalls:     p.total(end.Syscalls, calls, "syscall"),
		Paths:        p.total(end.Paths, paths, "filesystem"),
		Capabilities: p.total(end.Capabilities, capabilities, "syscall"),
	}
}

// total is none only where that is known: where it would have been recorded.
func (p *runProfile) total(end journal.Amount, soFar uint64, detail string) *uint64 {
	switch {
	case end.Known:
		return &end.N
	case soFar > 0 || p.records(detail):
		return &soFar
	}
	return nil
}

// records tells whether the run is known to have recorded a kind of denial.
func (p *runProfile) records(detail string) bool {
	if p.state != profileSame || !p.policy.Audit.Enabled || !slices.Contains(p.policy.Audit.Detail, detail) {
		return false
	}
	return detail != "network" || !p.policy.Network.Isolated
}
