package translate

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/ruleset"
	"github.com/purple-sandbox/purple/policies"
)

// Remedy is what in a policy would have to change for packets to a destination
// to pass.
type Remedy struct {
	Allow string // to add to network.allow_outgoing
	// Never is why no policy lets them pass; then the rest is empty.
	Never string
}

// NetworkOf is the network of the plan for a policy on a machine: nil where the
// policy isolates.
func NetworkOf(p *policies.Policy, h host.Network) (*Network, error) {
	b := &builder{p: p, h: host.Facts{Network: h}, plan: &Plan{}}
	if err := b.network(); err != nil {
		return nil, err
	}
	return b.plan.Network, nil
}

// Remedy says what would let pass what was denied.
func (n *Network) Remedy(protocol string, to netip.Addr, port uint16) Remedy {
	if protocol != "tcp" && protocol != "udp" || port == 0 {
		return Remedy{Never: "only TCP and UDP to a port can be allowed"}
	}
	if n.Allows(protocol, to, port) {
		return Remedy{Never: "it came from an address that is not the sandbox's"}
	}
	entry := fmt.Sprintf("%d/%s", port, protocol)
	switch {
	case !n.inSets(to):
		return Remedy{Allow: entry}
	case to.IsLoopback() || to.Is4In6():
		return Remedy{Never: "a profile cannot name such an address"}
	case to.Is4():
		return Remedy{Allow: fmt.Sprintf("%s:%s", to, entry)}
	default:
		return Remedy{Allow: fmt.Sprintf("[%s]:%s", to, entry)}
	}
}

// inSets tells whether a bare port never reaches an address.
func (n *Network) inSets(to netip.Addr) bool {
	return slices.ContainsFunc(n.Rules.Sets, func(s ruleset.Set) bool {
		return slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Contains(to) })
	})
}

// Allows tells whether the rules let a flow begin.
func (n *Network) Allows(protocol string, to netip.Addr, port uint16) bool {
	i := slices.IndexFunc(n.Rules.Chains, func(c ruleset.Chain) bool { return c.Hook == ruleset.Output })
	for _, rule := range n.Rules.Chains[i].Rules {
		last := len(rule.Statements) - 1
		if slices.ContainsFunc(rule.Statements[:last], func(s ruleset.Statement) bool { return !n.matches(s, protocol, to, port) }) {
			continue
		}
		_, accepted := rule.Statements[last].(ruleset.Accept)
		return accepted
	}
	return false
}

// matches tells whether a first packet to somewhere else matches.
func (n *Network) matches(s ruleset.Statement, protocol string, to netip.Addr, port uint16) bool {
	switch s := s.(type) {
	case ruleset.To:
		return s.Prefix.Contains(to)
	case ruleset.ToSet:
		i := slices.IndexFunc(n.Rules.Sets, func(set ruleset.Set) bool { return set.Name == s.Set })
		return slices.ContainsFunc(n.Rules.Sets[i].Prefixes, func(p netip.Prefix) bool { return p.Contains(to) })
	case ruleset.Ports:
		return protocol == s.Protocol && s.First <= port && port <= s.Last
	}
	return false // of the interface, of the state, of the source
}

// Setting is one entry to add to a key of a policy.
type Setting struct {
	Key, Entry string
	Never      string // why there is none
}

// PathRemedy says what would let a command change a path of the sandbox.
// workspace is the folder that the run was called in, if that is known.
func PathRemedy(p *policies.Policy, workspace, name string) Setting {
	if p == nil {
		return Setting{Never: "its policy is not known"}
	}
	name = path.Clean(name)
	for _, own := range []string{"/proc", "/dev", "/sys", "/run"} {
		if covers(own, name) {
			return Setting{Never: own + " is the sandbox's own"}
		}
	}
	if workspace != "" && covers(workspace, name) {
		return Setting{Key: "filesystem.workspace", Entry: "read-write"}
	}
	dir := path.Dir(name)
	for _, b := range p.Filesystem.Immutable {
		if covers(b.SandboxPath, name) {
			from := path.Join(b.HostPath, strings.TrimPrefix(dir, b.SandboxPath))
			return Setting{Key: "filesystem.output_paths", Entry: fmt.Sprintf("{host_path: %q, sandbox_path: %q, mode: read-write}", from, dir)}
		}
	}
	if workspace == "" && p.Filesystem.Workspace == policies.WorkspaceReadOnly {
		return Setting{Key: "filesystem.workspace", Entry: "read-write"}
	}
	if dir == "/" {
		return Setting{Never: "the root of the sandbox stays as it is"}
	}
	return Setting{Key: "filesystem.scratch_paths", Entry: dir}
}

// ReadRemedy says what would let a command read a path that a write-only output path
// has kept from it, and which entry that takes the place of: its Key is where it
// stands.
func ReadRemedy(p *policies.Policy, name string) (add, instead Setting) {
	if p == nil {
		return Setting{Never: "its policy is not known"}, Setting{}
	}
	name = path.Clean(name)
	for i, o := range p.Filesystem.Output {
		if o.Mode == policies.WriteOnly && covers(o.SandboxPath, name) {
			const key = "filesystem.output_paths"
			entry := fmt.Sprintf("{host_path: %q, sandbox_path: %q, mode: read-write}", o.HostPath, o.SandboxPath)
			return Setting{Key: key, Entry: entry}, Setting{Key: fmt.Sprintf("%s[%d]", key, i), Entry: o.SandboxPath}
		}
	}
	return Setting{Never: "what leads to a write-only output path cannot be listed"}, Setting{}
}

// CapabilityUse is why a capability would change nothing in a sandbox; empty: it
// would let pass what was refused for want of it.
func CapabilityUse(name string) string {
	if slices.Contains(useful, name) {
		return ""
	}
	return "in a sandbox it reaches nothing"
}
