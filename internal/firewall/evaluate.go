package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Hook is where the packet filter sees a packet.
type Hook uint8

const (
	// Forward: through this machine, from a sandbox to the uplink or back.
	Forward Hook = iota
	// Input: to this machine itself, from a sandbox to a resolver on it.
	Input
)

// Family is an IP version.
type Family uint8

const (
	IPv4 Family = iota
	IPv6
)

// State is what connection tracking calls a packet.
type State string

const (
	New         State = "new"
	Established State = "established"
)

// Flow is the packets that are looked at: those of one direction, so a
// connection is two of them. Of what is left empty nothing is known, and a
// rule that asks for it may match. The interface on the sandbox's side has to
// be named, which is In, or Out of replies: the remedies name it. It is taken
// for granted that nobody redirects the flow (DNAT).
type Flow struct {
	Hook        Hook
	In, Out     string // interfaces; Out is not looked at with Input
	Family      Family
	Source      netip.Addr
	Destination netip.Addr
	Protocol    string // tcp or udp
	Port        uint16 // the destination's
	State       State
}

// Obstacle is a base chain that drops a flow, or, if it is not Certain, has a
// rule that is not understood or that asks for what is not known of the flow.
type Obstacle struct {
	Family  string // ip, ip6 or inet
	Table   string
	Chain   string
	Certain bool
	Reason  string // "its policy is drop"
	// Remedy is the commands, one a line, that let the flow and its replies
	// through.
	Remedy string
}

// Obstacles are the base chains that would drop the flow, in the order in
// which the kernel calls them. All have to let it through.
func (r Ruleset) Obstacles(f Flow) []Obstacle {
	var found []Obstacle
	for _, b := range r.bases {
		if b.hook != f.hook() || !f.concerns(b.table.family) {
			continue
		}
		e := evaluation{table: r.tables[b.table], packet: newPacket(f, r.interfaces), done: map[string]effect{}}
		if end := e.base(b); end.can&dropped != 0 {
			o := Obstacle{Family: familyName(b.table.family), Table: b.table.name, Chain: b.chain, Certain: end.can == dropped, Reason: end.reason}
			o.Remedy = remedy(o, f, r.tables[b.table].reachable(b.chain))
			found = append(found, o)
		}
	}
	return append(found, r.legacyObstacles(f)...)
}

func (f Flow) hook() uint64 {
	if f.Hook == Input {
		return unix.NF_INET_LOCAL_IN
	}
	return unix.NF_INET_FORWARD
}

// nfproto is the flow's family as nftables numbers it.
func (f Flow) nfproto() uint8 {
	if f.Family == IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (f Flow) concerns(family uint8) bool {
	return family == unix.NFPROTO_INET || family == f.nfproto()
}

func familyName(family uint8) string {
	switch family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return "inet"
}

// ends are what can become of a packet in a rule or in a chain: more than one
// of these where something is not known.
type ends uint8

const (
	accepted ends = 1 << iota
	dropped
	onward // to the next rule, or from a chain's end to where it was called
	back   // out of this chain: return
)

// effect says too what drops.
type effect struct {
	can    ends
	reason string
}

// with adds what else can happen. The last reason stands: if all is dropped in
// the end, it is the one that is certain.
func (e effect) with(other effect) effect {
	e.can |= other.can
	if other.reason != "" {
		e.reason = other.reason
	}
	return e
}

// maxDepth is the kernel's own limit of jumps (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// evaluation takes one packet through one table.
type evaluation struct {
	table  *table
	packet packet
	done   map[string]effect // by chain
	depth  int
}

func (e *evaluation) base(b base) effect {
	end := e.chain(b.chain)
	if end.can&onward == 0 {
		return end
	}
	end.can &^= onward
	if b.drops {
		return end.with(effect{dropped, "its policy is drop"})
	}
	return end.with(effect{can: accepted})
}

// chain follows the rules. Many lead to the same chain, so its end is kept.
func (e *evaluation) chain(name string) effect {
	if end, ok := e.done[name]; ok {
		return end
	}
	if e.depth == maxDepth {
		return effect{accepted | dropped, fmt.Sprintf("the chain %q is too deep", name)}
	}
	e.depth++
	defer func() { e.depth-- }()
	end := effect{can: onward}
	for _, r := range e.table.chains[name] {
		end.can &^= onward
		end = end.with(e.rule(name, r))
		if end.can&onward == 0 {
			break
		}
	}
	if end.can&back != 0 {
		end.can = end.can&^back | onward
	}
	e.done[name] = end
	return end
}

// rule is what can happen in a rule; onward is also where it does not match.
func (e *evaluation) rule(chain string, r rule) effect {
	var end effect
	var regs registers
	drops := func(how string) effect {
		return effect{dropped, fmt.Sprintf("rule handle %d of the chain %q %s", r.handle, chain, how)}
	}
	for _, x := range r.exprs {
		if verdict := e.verdict(x, &regs, drops); verdict.can != 0 {
			return end.with(verdict)
		}
		switch e.packet.matches(x, &regs, e.table.sets) {
		case no:
			end.can |= onward
			return end
		case maybe:
			end.can |= onward
		}
	}
	end.can |= onward
	return end
}

// verdict is what an expression that decides does with the packet. A verdict
// is always a rule's last expression. All others do nothing.
func (e *evaluation) verdict(x expression, regs *registers, drops func(how string) effect) effect {
	unknown := drops("may drop it").with(effect{can: accepted | onward})
	switch x := x.parsed.(type) {
	case *expr.Verdict:
		return e.follow(*x, drops)
	case *expr.Reject:
		return drops("rejects it")
	case *expr.Queue:
		return drops("gives it to a program").with(effect{can: accepted})
	case *expr.Lookup:
		if x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT {
			return e.verdictMap(x, regs, drops)
		}
	case *expr.Target:
		switch {
		case x.Name == "REJECT":
			return drops("rejects it")
		case !slices.Contains(passingTargets, x.Name):
			return unknown
		}
	}
	if x.parsed == nil && slices.Contains(decidingExpressions, x.name) {
		return unknown
	}
	return effect{}
}

// decidingExpressions are those that are not understood and may end the way
// of a packet. The others that are not understood can only fail to match.
var decidingExpressions = []string{"synproxy", "target", "immediate", "lookup", "reject", "queue", "tproxy", "fwd"}

// passingTargets are those of iptables that leave the packet to the next rule.
var passingTargets = []string{
	"AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "HL", "HMARK", "IDLETIMER", "LED", "LOG", "MARK",
	"NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TRACE", "TTL", "ULOG",
}

func (e *evaluation) follow(v expr.Verdict, drops func(how string) effect) effect {
	switch v.Kind {
	case expr.VerdictAccept:
		return effect{can: accepted}
	case expr.VerdictDrop:
		return drops("drops it")
	case expr.VerdictReturn:
		return effect{can: back}
	case expr.VerdictContinue, expr.VerdictBreak:
		return effect{can: onward}
	case expr.VerdictJump:
		return e.chain(v.Chain)
	case expr.VerdictGoto:
		end := e.chain(v.Chain)
		if end.can&onward != 0 {
			end.can = end.can&^onward | back
		}
		return end
	}
	return drops("may drop it").with(effect{can: accepted})
}

// verdictMap follows every verdict that the packet may find in the map.
func (e *evaluation) verdictMap(l *expr.Lookup, regs *registers, drops func(how string) effect) effect {
	s := e.table.sets[l.SetName]
	if s == nil || s.unread {
		return drops("may drop it").with(effect{can: accepted | onward})
	}
	var end effect
	elements, found := s.find(regs, l.SourceRegister)
	for _, el := range elements {
		if el.verdict == nil {
			return drops("may drop it").with(effect{can: accepted | onward})
		}
		end = end.with(e.follow(*el.verdict, drops))
	}
	if found != yes {
		end.can |= onward
	}
	return end
}

// reachable are the chains that a chain leads to, itself among them.
func (t *table) reachable(chain string) []string {
	names := []string{chain}
	for i := 0; i < len(names); i++ {
		for _, r := range t.chains[names[i]] {
			for _, next := range t.targets(r) {
				if !slices.Contains(names, next) {
					names = append(names, next)
				}
			}
		}
	}
	return names
}

func (t *table) targets(r rule) []string {
	var names []string
	add := func(v *expr.Verdict) {
		if v != nil && v.Chain != "" {
			names = append(names, v.Chain)
		}
	}
	for _, x := range r.exprs {
		switch x := x.parsed.(type) {
		case *expr.Verdict:
			add(x)
		case *expr.Lookup:
			if s := t.sets[x.SetName]; s != nil {
				for _, el := range s.elements {
					add(el.verdict)
				}
			}
		}
	}
	return names
}
