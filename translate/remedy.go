package translate

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/purple-sandbox/purple/internal/ruleset"
)

// Remedy is the entry of network.allow_outgoing that lets what was denied pass;
// false if none does.
func (n *Network) Remedy(protocol string, to netip.Addr, port uint16) (string, bool) {
	if protocol != "tcp" && protocol != "udp" || port == 0 || n.allows(protocol, to, port) {
		return "", false // allowed, and yet denied: it came from a made-up address
	}
	entry := fmt.Sprintf("%d/%s", port, protocol)
	switch {
	case !n.inSets(to):
		return entry, true
	case to.IsLoopback() || to.Is4In6():
		return "", false // the policy takes no such address
	case to.Is4():
		return fmt.Sprintf("%s:%s", to, entry), true
	default:
		return fmt.Sprintf("[%s]:%s", to, entry), true
	}
}

// inSets tells whether a bare port never reaches an address.
func (n *Network) inSets(to netip.Addr) bool {
	return slices.ContainsFunc(n.Rules.Sets, func(s ruleset.Set) bool {
		return slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Contains(to) })
	})
}

// allows tells whether the rules let a flow begin.
func (n *Network) allows(protocol string, to netip.Addr, port uint16) bool {
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
