package translate

import (
	"fmt"
	"net/netip"
	"slices"

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
