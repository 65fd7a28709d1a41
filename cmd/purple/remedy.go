package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
)

const (
	keyAllow    = "syscalls.allow"
	keyDeny     = "syscalls.deny"
	keyOutgoing = "network.allow_outgoing"

	keyCapabilities = "capabilities.add"
)

// remedy is what to change in a profile so that something denied passes.
type remedy struct {
	Add    []change `json:"add"`
	Remove []change `json:"remove"`
	// Never is why no profile lets it pass; then the rest is empty.
	Never string `json:"never,omitempty"`
}

// change is one entry of a list.
type change struct {
	Key   string `json:"key"`
	Entry string `json:"entry"`
	// At is where the list, or what is to be taken out, stands: perhaps in a
	// profile that this one extends. Empty: not known.
	At string `json:"at,omitempty"`
}

// evaluator finds remedies by what the filter and the ruleset are made with.
type evaluator struct {
	rules   *seccomp.Rules
	network *translate.Network
	policy  *policies.Policy // nil: it is not known where its entries stand

	files     *policies.Policy // whose filesystem and capabilities they are; nil: not known
	workspace string           // the folder that the run was called in; empty: not known, or none
}

// ofCall is the remedy for a denied system call.
func (e evaluator) ofCall(nr uint32, args [6]uint64) remedy {
	m := e.rules.Remedy(nativeCall(nr, args))
	r := remedy{Add: []change{}, Remove: []change{}, Never: m.Never}
	if m.Allow != nil {
		r.Add = append(r.Add, change{Key: keyAllow, Entry: m.Allow.String(), At: e.where(keyAllow)})
	}
	for _, rule := range m.Deny {
		r.Remove = append(r.Remove, change{Key: keyDeny, Entry: rule.Name, At: e.where(rule.Key)})
	}
	return r
}

func nativeCall(nr uint32, args [6]uint64) seccomp.Call {
	return seccomp.Call{Arch: seccomp.AuditArch(seccomp.NativeArch), Nr: nr, Args: args}
}

func (e evaluator) where(key string) string {
	if e.policy == nil {
		return ""
	}
	return journal.Escape(e.policy.Where(key).String())
}

// ofPackets is the remedy for packets that were denied.
func (e evaluator) ofPackets(protocol string, to netip.Addr, port uint16) remedy {
	m := e.network.Remedy(protocol, to, port)
	r := remedy{Add: []change{}, Remove: []change{}, Never: m.Never}
	if m.Allow != "" {
		r.Add = append(r.Add, change{Key: keyOutgoing, Entry: m.Allow, At: e.where(keyOutgoing)})
	}
	return r
}

// String is the remedy as one writes it into a profile.
func (r remedy) String() string {
	var parts []string
	for _, c := range r.Add {
		parts = append(parts, c.Key+": "+c.Entry)
	}
	var out []string
	for _, c := range r.Remove {
		out = append(out, c.Entry)
	}
	if len(out) > 0 {
		slices.Sort(out)
		parts = append(parts, "out of "+r.Remove[0].Key+": "+strings.Join(slices.Compact(out), ", "))
	}
	return strings.Join(parts, "; ")
}

// of is String, or that there is no remedy for what was denied.
func (r remedy) of(what string) string {
	if r.Never != "" {
		return fmt.Sprintf("no profile allows this %s: %s", what, r.Never)
	}
	return r.String()
}

// ofPath is the remedy for a path, as it was recorded, that could not be changed,
// or read.
func (e evaluator) ofPath(path string, effect journal.Effect) remedy {
	r := remedy{Add: []change{}, Remove: []change{}}
	if path == "" || strings.Contains(path, `\x`) {
		r.Never = "its name cannot be written as it is"
		return r
	}
	if effect == journal.EffectRead {
		return e.ofRead(path)
	}
	m := translate.PathRemedy(e.files, e.workspace, path)
	if r.Never = m.Never; m.Key != "" {
		r.Add = append(r.Add, change{Key: m.Key, Entry: m.Entry, At: e.where(m.Key)})
	}
	return r
}

// ofRead is the remedy for what a write-only output path did not let be read.
func (e evaluator) ofRead(path string) remedy {
	r := remedy{Add: []change{}, Remove: []change{}}
	m, instead := translate.ReadRemedy(e.files, path)
	if r.Never = m.Never; m.Key != "" {
		r.Add = append(r.Add, change{Key: m.Key, Entry: m.Entry, At: e.where(m.Key)})
		r.Remove = append(r.Remove, change{Key: m.Key, Entry: instead.Entry, At: e.where(instead.Key)})
	}
	return r
}

// ofCapability is the remedy for a capability that was missing.
func (e evaluator) ofCapability(name string) remedy {
	r := remedy{Add: []change{}, Remove: []change{}}
	if r.Never = translate.CapabilityUse(name); r.Never == "" {
		r.Add = append(r.Add, change{Key: keyCapabilities, Entry: name, At: e.where(keyCapabilities)})
	}
	return r
}

// workspaceOf is the folder that a plan binds for the command to start in.
func workspaceOf(p *translate.Plan) string {
	for _, m := range p.Spec.Mounts {
		if m.Source == m.Target && m.Target == p.Spec.Command.Dir {
			return m.Target
		}
	}
	return ""
}
