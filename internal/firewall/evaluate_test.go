package firewall

import (
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// filter is a ruleset of one table "ip t" with the base chain "forward".
func filter(policyDrops bool, chains map[string][]rule) Ruleset {
	id := tableID{unix.NFPROTO_IPV4, "t"}
	return Ruleset{
		bases:  []base{{table: id, chain: "forward", hook: unix.NF_INET_FORWARD, drops: policyDrops}},
		tables: map[tableID]*table{id: {chains: chains}},
	}
}

func rules(parts ...[]expr.Any) []rule {
	var all []rule
	for i, exprs := range parts {
		r := rule{handle: uint64(i + 1)}
		for _, e := range exprs {
			r.exprs = append(r.exprs, expression{parsed: e})
		}
		all = append(all, r)
	}
	return all
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

var (
	drop   = verdict(expr.VerdictDrop, "")
	accept = verdict(expr.VerdictAccept, "")
	leave  = verdict(expr.VerdictReturn, "")
)

func jump(chain string) []expr.Any   { return verdict(expr.VerdictJump, chain) }
func jumpTo(chain string) []expr.Any { return verdict(expr.VerdictGoto, chain) }

// perhaps is a rule that only may match.
func perhaps(exprs []expr.Any) []expr.Any {
	return append([]expr.Any{&expr.Limit{}}, exprs...)
}

func TestChains(t *testing.T) {
	type chains = map[string][]rule
	cases := []struct {
		name   string
		drops  bool
		chains chains
		want   string
	}{
		{"no rule, accept", false, chains{}, ""},
		{"no rule, drop", true, chains{}, "ip t forward drops: its policy is drop"},
		{"accept before the policy", true, chains{"forward": rules(accept)}, ""},
		{"the first verdict counts", false, chains{"forward": rules(accept, drop)}, ""},
		{"drop", false, chains{"forward": rules(drop, accept)}, `ip t forward drops: rule handle 1 of the chain "forward" drops it`},
		{"may accept", true, chains{"forward": rules(perhaps(accept))}, "ip t forward may drop: its policy is drop"},
		{"may drop", false, chains{"forward": rules(perhaps(drop), accept)}, `ip t forward may drop: rule handle 1 of the chain "forward" drops it`},
		{"may drop, then drops", true, chains{"forward": rules(perhaps(drop))}, "ip t forward drops: its policy is drop"},
		{"return is the policy", true, chains{"forward": rules(leave, accept)}, "ip t forward drops: its policy is drop"},
		{"may return", true, chains{"forward": rules(perhaps(leave), accept)}, "ip t forward may drop: its policy is drop"},
		{"jump accepts", true, chains{"forward": rules(jump("a")), "a": rules(accept)}, ""},
		{"jump comes back", true, chains{"forward": rules(jump("a"), accept), "a": rules(leave, drop)}, ""},
		{"an empty chain comes back", true, chains{"forward": rules(jump("a"), accept)}, ""},
		{"goto does not come back", true, chains{"forward": rules(jumpTo("a"), accept)}, "ip t forward drops: its policy is drop"},
		{"goto comes back to the jump before", true, chains{"forward": rules(jump("a"), accept), "a": rules(jumpTo("b"), drop)}, ""},
		{"goto accepts", true, chains{"forward": rules(jumpTo("a")), "a": rules(accept)}, ""},
		{"reject", false, chains{"forward": rules([]expr.Any{&expr.Reject{}})}, `ip t forward drops: rule handle 1 of the chain "forward" rejects it`},
		{"queue", false, chains{"forward": rules([]expr.Any{&expr.Queue{}})}, `ip t forward may drop: rule handle 1 of the chain "forward" gives it to a program`},
		{"xtables LOG", false, chains{"forward": rules([]expr.Any{&expr.Target{Name: "LOG"}}, accept)}, ""},
		{"xtables REJECT", false, chains{"forward": rules([]expr.Any{&expr.Target{Name: "REJECT"}})}, `ip t forward drops: rule handle 1 of the chain "forward" rejects it`},
		{"unknown target", false, chains{"forward": rules([]expr.Any{&expr.Target{Name: "XYZ"}}, accept)}, `ip t forward may drop: rule handle 1 of the chain "forward" may drop it`},
		{"unknown match", false, chains{"forward": rules(append([]expr.Any{&expr.Match{Name: "xyz"}}, drop...))}, `ip t forward may drop: rule handle 1 of the chain "forward" drops it`},
		{"a loop, which the kernel refuses", false, chains{"forward": rules(jump("forward"))}, `ip t forward may drop: the chain "forward" is too deep`},
	}
	for _, c := range cases {
		if got := say(filter(c.drops, c.chains).Obstacles(out)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestXtables(t *testing.T) {
	state := func(mask, flags, inverted uint16) *xt.ConntrackMtinfo3 {
		info := &xt.ConntrackMtinfo3{}
		info.StateMask, info.MatchFlags, info.InvertFlags = mask, flags, inverted
		return info
	}
	const related, alias = 4, 1 << 13
	cases := []struct {
		name string
		info xt.InfoAny
		want truth
	}{
		{"comment", new(xt.Comment), yes},
		{"unknown", &xt.Unknown{}, maybe},
		{"RELATED,ESTABLISHED", state(2|related, 1, 0), no},
		{"! RELATED,ESTABLISHED", state(2|related, 1, 1), yes},
		{"NEW", state(8, 1, 0), yes},
		{"-m state NEW", state(8, alias, 0), yes},
		{"! NEW", state(8, 1, 1), no},
		{"NEW and a port", state(8, 1|uint16(xt.ConntrackOrigDstPort), 0), maybe},
		{"only a port", state(0, uint16(xt.ConntrackOrigDstPort), 0), maybe},
		{"DNAT", state(1<<7, 1, 0), no},
		{"--dport 443", &xt.Tcp{SrcPorts: anyPort, DstPorts: [2]uint16{443, 443}}, yes},
		{"! --dport 443", &xt.Tcp{SrcPorts: anyPort, DstPorts: [2]uint16{443, 443}, InvFlags: xt.TcpInvDestPorts}, no},
		{"--dport 1:80", &xt.Tcp{SrcPorts: anyPort, DstPorts: [2]uint16{1, 80}}, no},
		{"--sport 1", &xt.Tcp{SrcPorts: [2]uint16{1, 1}, DstPorts: anyPort}, maybe},
		{"--syn", &xt.Tcp{SrcPorts: anyPort, DstPorts: anyPort, FlagsMask: 1}, maybe},
		{"udp", &xt.Udp{SrcPorts: anyPort, DstPorts: anyPort}, no},
	}
	p := newPacket(out, nil)
	for _, c := range cases {
		if got := p.xtables(&expr.Match{Info: c.info}); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// What is not known of the flow only may match, in either polarity.
func TestUnknownFlow(t *testing.T) {
	cases := []struct {
		name string
		load expr.Any
		data []byte
	}{
		{"source", &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, []byte{10, 0, 0, 1}},
		{"port", &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, []byte{0, 80}},
		{"interface", &expr.Meta{Register: 1, Key: expr.MetaKeyIIFNAME}, []byte("eth0\x00")},
		{"protocol", &expr.Meta{Register: 1, Key: expr.MetaKeyL4PROTO}, []byte{6}},
		{"state", &expr.Ct{Register: 1, Key: expr.CtKeySTATE}, known32(8).bits},
	}
	for _, c := range cases {
		for _, op := range []expr.CmpOp{expr.CmpOpEq, expr.CmpOpNeq, expr.CmpOpLt} {
			exprs := slices.Concat([]expr.Any{c.load, &expr.Cmp{Register: 1, Op: op, Data: c.data}}, drop)
			found := filter(false, map[string][]rule{"forward": rules(exprs)}).Obstacles(Flow{})
			if len(found) != 1 || found[0].Certain {
				t.Errorf("%s, operator %d: %q, want a maybe", c.name, op, say(found))
			}
		}
	}
}

// TestCompat takes the way through the kernel that iptables-nft takes: nft
// cannot write its matches and targets.
func TestCompat(t *testing.T) {
	n := newNamespace(t)
	var err error
	n.do(func() { err = writeCompat() })
	if err != nil {
		t.Fatal(err)
	}
	r := n.read(t)
	if got, want := withoutHandles(say(r.Obstacles(out))), `ip filter FORWARD drops: rule handle H of the chain "FORWARD" rejects it`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if found := r.Obstacles(reply); found != nil {
		t.Error(say(found))
	}
}

// writeCompat is: -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT, and -j REJECT.
func writeCompat() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	info := &xt.ConntrackMtinfo3{}
	info.StateMask, info.MatchFlags = 2|4, uint16(xt.ConntrackState)
	reject := xt.Unknown(make([]byte, 8))
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: info}, &expr.Verdict{Kind: expr.VerdictAccept}}})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Target{Name: "REJECT", Info: &reject}}})
	return c.Flush()
}

func TestLegacyObstacles(t *testing.T) {
	cases := []struct {
		name         string
		chain        legacyChain
		makers       []string
		want, remedy string
	}{
		{"open", legacyChain{}, nil, "", ""},
		{"drop", legacyChain{drops: true}, nil, "ip filter FORWARD drops: its policy in iptables-legacy is drop",
			"iptables-legacy -I FORWARD -i purple0 -j ACCEPT\niptables-legacy -I FORWARD -o purple0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"},
		{"Docker", legacyChain{true, true}, []string{"DOCKER-USER"}, "ip filter FORWARD may drop: its policy in iptables-legacy is drop",
			"iptables-legacy -I DOCKER-USER -i purple0 -j ACCEPT\niptables-legacy -I DOCKER-USER -o purple0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"},
		{"ufw", legacyChain{true, true}, []string{"ufw-"}, "ip filter FORWARD may drop: its policy in iptables-legacy is drop", "ufw route allow in on purple0"},
		{"rules", legacyChain{false, true}, nil, "ip filter FORWARD may drop: it has rules in iptables-legacy, which Purple cannot read",
			"iptables-legacy -I FORWARD -i purple0 -j ACCEPT\niptables-legacy -I FORWARD -o purple0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"},
	}
	for _, c := range cases {
		r := Ruleset{legacy: []legacyTable{{family: IPv4, hooks: map[Hook]legacyChain{Forward: c.chain}, chains: c.makers}}}
		found := r.Obstacles(out)
		if got := say(found); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if len(found) > 0 && found[0].Remedy != c.remedy {
			t.Errorf("%s: remedy %q", c.name, found[0].Remedy)
		}
		if found := r.Obstacles(v6(out)); found != nil {
			t.Errorf("%s: IPv6: %s", c.name, say(found))
		}
	}
}
