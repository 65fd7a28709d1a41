package journal

import "fmt"

// The message ids of what was refused on account of a path or a capability.
const (
	PathDeniedID         = "2fe4b9279fc241e683206395a3022ae1"
	PathsDeniedID        = "adc124d873354b0bab2c64a9e81af4f8"
	CapabilityDeniedID   = "68810da7bf2f41d294c130c98e6d52bb"
	CapabilitiesDeniedID = "71df7200192e402c8ae279b28288295a"
)

// Their fields, besides those of denied system calls. docs/audit.md has the same list.
const (
	FieldPath         = "PURPLE_PATH"
	FieldEffect       = "PURPLE_EFFECT"
	FieldPaths        = "PURPLE_PATHS"
	FieldCapability   = "PURPLE_CAPABILITY"
	FieldCapabilities = "PURPLE_CAPABILITIES"
)

// Effect is what a process wanted to do to a path.
type Effect string

// The effects.
const (
	EffectRead   Effect = "read"
	EffectWrite  Effect = "write"
	EffectCreate Effect = "create"
	EffectRemove Effect = "remove"
)

var allEffects = []Effect{EffectRead, EffectWrite, EffectCreate, EffectRemove}

// Attempt is the call by which something was tried, of the latest of several.
type Attempt struct {
	Syscall    string
	Errno      string // what the kernel answers
	Comm       string // the name that the process has given itself, escaped; empty: one of many
	PID        uint32 // as the host sees it
	SandboxPID uint32 // as the sandbox does; 0: not known
	Count      uint64 // since the start of the run
}

func (a Attempt) fields() []Field {
	return []Field{
		{FieldSyscall, a.Syscall}, {FieldErrno, a.Errno}, {FieldComm, a.Comm},
		{FieldPID, decimal(uint64(a.PID))}, {FieldSandboxPID, decimal(uint64(a.SandboxPID))}, {FieldCount, decimal(a.Count)},
	}
}

func (a Attempt) words() string {
	return fmt.Sprintf(" to %s: %s by %s%s", processText(a.Comm, a.SandboxPID, a.PID), a.Errno, a.Syscall, timesText(a.Count))
}

// PathDenied is a path that the sandbox did not let a process change, or read,
// from the start of the run on: of several events for the same, the last counts.
type PathDenied struct {
	Run
	// Path is what the process claimed, absolute, escaped; empty: one of many.
	Path   string
	Effect Effect
	Attempt
}

func (PathDenied) id() string   { return PathDeniedID }
func (PathDenied) name() string { return "path-denied" }

func (e PathDenied) own() []Field {
	return append(append(e.Run.fields(), Field{FieldPath, e.Path}, Field{FieldEffect, string(e.Effect)}), e.Attempt.fields()...)
}

func (e PathDenied) key() string { return string(e.Effect) + " " + e.Path + " " + e.Comm }

// What is what was denied, in words: `write "/usr/x"`.
func (e PathDenied) What() string {
	if e.Path == "" {
		return string(e.Effect) + " further paths"
	}
	return fmt.Sprintf(`%s "%s"`, e.Effect, e.Path)
}

func (e PathDenied) message() string { return "Denied to " + e.What() + e.words() }

// PathsDenied ends the events of a run's denied paths. Its Total is exact.
type PathsDenied struct {
	Run
	Total uint64 // calls refused
	Paths uint64 // how many paths have events of their own
}

func (PathsDenied) id() string   { return PathsDeniedID }
func (PathsDenied) name() string { return "paths-denied-total" }

func (e PathsDenied) own() []Field {
	return append(e.fields(), Field{FieldTotal, decimal(e.Total)}, Field{FieldPaths, decimal(e.Paths)})
}

func (e PathsDenied) message() string {
	return fmt.Sprintf("Denied accesses to paths in this run: %d; different ones: %d", e.Total, e.Paths)
}

// CapabilityDenied is a call that the policy allows and that needs a capability
// which the command has not got.
type CapabilityDenied struct {
	Run
	Capability string // "CAP_SYS_CHROOT"
	Arguments  string // of the call, as SyscallDenied has them
	Attempt
}

func (CapabilityDenied) id() string   { return CapabilityDeniedID }
func (CapabilityDenied) name() string { return "capability-denied" }

func (e CapabilityDenied) own() []Field {
	return append(append(e.Run.fields(), Field{FieldCapability, e.Capability}, Field{FieldArguments, e.Arguments}), e.Attempt.fields()...)
}

func (e CapabilityDenied) key() string { return e.Capability + " " + e.Syscall + " " + e.Comm }

func (e CapabilityDenied) message() string { return "Denied " + e.Capability + e.words() }

// CapabilitiesDenied ends the events of a run's denied capabilities.
type CapabilitiesDenied struct {
	Run
	Total        uint64 // calls refused
	Capabilities uint64 // how many different ones
}

func (CapabilitiesDenied) id() string   { return CapabilitiesDeniedID }
func (CapabilitiesDenied) name() string { return "capabilities-denied-total" }

func (e CapabilitiesDenied) own() []Field {
	return append(e.fields(), Field{FieldTotal, decimal(e.Total)}, Field{FieldCapabilities, decimal(e.Capabilities)})
}

func (e CapabilitiesDenied) message() string {
	return fmt.Sprintf("Denied calls for want of a capability in this run: %d; capabilities: %d", e.Total, e.Capabilities)
}

func (r *reader) attempt() Attempt {
	return Attempt{
		Syscall: r.escaped(FieldSyscall), Errno: r.escaped(FieldErrno), Comm: r.escaped(FieldComm),
		PID: uint32(r.number(FieldPID, 32)), SandboxPID: uint32(r.number(FieldSandboxPID, 32)), Count: r.number(FieldCount, 64),
	}
}

func (r *reader) pathDenied() Event {
	return PathDenied{Run: r.run(), Path: r.escaped(FieldPath), Effect: oneOf(r, FieldEffect, allEffects), Attempt: r.attempt()}
}

func (r *reader) pathsDenied() Event {
	return PathsDenied{Run: r.run(), Total: r.number(FieldTotal, 64), Paths: r.number(FieldPaths, 64)}
}

func (r *reader) capabilityDenied() Event {
	return CapabilityDenied{Run: r.run(), Capability: r.escaped(FieldCapability), Arguments: r.escaped(FieldArguments), Attempt: r.attempt()}
}

func (r *reader) capabilitiesDenied() Event {
	return CapabilitiesDenied{Run: r.run(), Total: r.number(FieldTotal, 64), Capabilities: r.number(FieldCapabilities, 64)}
}
