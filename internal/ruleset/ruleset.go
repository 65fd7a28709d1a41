// Package ruleset describes nftables tables as plain data: what translate
// decides, what `purple plan --format=nft` prints and what internal/network
// loads are one value. It knows neither the kernel nor the policy.
//
// Syntax and meaning are those of nft(8).
package ruleset

import "net/netip"

// Table is one table of the family inet.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// Set is a named set of addresses; with IPv6 of IPv6 addresses.
type Set struct {
	Name string
	IPv6 bool
	// Prefixes do not overlap and do not touch. They are sorted.
	Prefixes []netip.Prefix
}

// Chain is a base chain where Hook is set, else one that rules go to.
type Chain struct {
	Name  string
	Hook  Hook
	Rules []Rule
}

// Hook says where a base chain of type filter is called. Its policy is drop:
// what no rule decides does not pass.
type Hook string

// The hooks.
const (
	Input   Hook = "input"
	Output  Hook = "output"
	Forward Hook = "forward"
)

// Rule is a list of statements; the last one decides.
type Rule struct {
	Statements []Statement
	Comment    string // what causes it; at most 120 bytes of printable ASCII
}

// Statement is a match or an action.
type Statement interface {
	// nft is the statement in nft's own syntax.
	nft() string
}

type (
	// Established matches packets of flows that were accepted, and errors about them.
	Established struct{}
	// InLoopback and OutLoopback match the loopback interface.
	InLoopback  struct{}
	OutLoopback struct{}
	// ForeignSource matches what is not sent from an address of the sandbox's
	// own: IPV6_FREEBIND lets any process send from any address.
	ForeignSource struct{}
	// ListenerReport matches what the kernel itself sends about its multicast
	// groups in IPv6 (MLD, RFC 3810).
	ListenerReport struct{}
	// NeighbourDiscovery matches what IPv6 asks and answers about link-layer
	// addresses (RFC 4861, 4.3 and 4.4): ARP's counterpart, which no rule sees.
	NeighbourDiscovery struct{}
	// TCP matches TCP.
	TCP struct{}
	// To matches destinations by prefix.
	To struct{ Prefix netip.Prefix }
	// ToSet matches destinations in a named set.
	ToSet struct {
		Set  string
		IPv6 bool
	}
	// Ports matches destination ports of a protocol, "tcp" or "udp".
	Ports struct {
		Protocol    string
		First, Last uint16
	}

	// Accept lets the packet pass.
	Accept struct{}
	// Drop loses it without a word.
	Drop struct{}
	// Reject loses it and tells the sender that it is prohibited.
	Reject struct{}
	// Reset loses a TCP packet and tells the sender that the connection is refused.
	Reset struct{}
	// Log sends a copy to the listener of the group (NFLOG).
	Log struct{ Group uint16 }
	// Goto goes on in another chain, for good.
	Goto struct{ Chain string }
)
