package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/purple-sandbox/purple/internal/ruleset"
	"golang.org/x/sys/unix"
)

// openNFT opens a connection to nftables in the calling thread's namespace.
func openNFT() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel about nftables: %w", err)
	}
	return c, nil
}

// Load loads a ruleset into the network namespace of the calling thread, which
// has none, in one transaction, and reads it back. It takes CAP_NET_ADMIN over it.
func Load(t ruleset.Table) error {
	if err := loadRules(t); err != nil {
		return fmt.Errorf("cannot load the ruleset: %w", err)
	}
	if err := verifyRules(t); err != nil {
		return fmt.Errorf("cannot read the ruleset back: %w", err)
	}
	return nil
}

func (n *Namespace) loadRules() error   { return loadRules(n.config.Rules) }
func (n *Namespace) verifyRules() error { return verifyRules(n.config.Rules) }

// loadRules loads a ruleset in one transaction.
func loadRules(t ruleset.Table) error {
	c, err := openNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if err := add(c, t); err != nil {
		return err
	}
	return c.Flush()
}

func add(c *nftables.Conn, t ruleset.Table) error {
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: t.Name})
	for _, s := range t.Sets {
		set := addressSet(table, s)
		if err := c.AddSet(set, elements(s.Prefixes)); err != nil {
			return fmt.Errorf("cannot encode the set %q: %w", s.Name, err)
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, chain := range t.Chains {
		chains[chain.Name] = c.AddChain(baseChain(table, chain))
	}
	for _, chain := range t.Chains {
		for _, r := range chain.Rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chains[chain.Name], Exprs: expressions(r), UserData: comment(r.Comment)})
		}
	}
	return nil
}

func addressSet(table *nftables.Table, s ruleset.Set) *nftables.Set {
	kind := nftables.TypeIPAddr
	if s.IPv6 {
		kind = nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: table, Name: s.Name, KeyType: kind, Interval: true}
}

// elements are the prefixes as nftables has intervals: the first address, and
// as the end the first one behind it. The last interval of all may have none.
func elements(prefixes []netip.Prefix) []nftables.SetElement {
	var out []nftables.SetElement
	for _, p := range prefixes {
		out = append(out, nftables.SetElement{Key: p.Masked().Addr().AsSlice()})
		if end := behind(p); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// behind is the first address after a prefix, and invalid after the last one.
func behind(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

var hooks = map[ruleset.Hook]*nftables.ChainHook{
	ruleset.Input: nftables.ChainHookInput, ruleset.Output: nftables.ChainHookOutput, ruleset.Forward: nftables.ChainHookForward,
}

func baseChain(table *nftables.Table, c ruleset.Chain) *nftables.Chain {
	chain := &nftables.Chain{Table: table, Name: c.Name}
	if c.Hook != "" {
		drop := nftables.ChainPolicyDrop
		chain.Type, chain.Hooknum, chain.Priority, chain.Policy = nftables.ChainTypeFilter, hooks[c.Hook], nftables.ChainPriorityFilter, &drop
	}
	return chain
}

func comment(text string) []byte {
	if text == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, text)
}

// register is the one that every match uses.
const register = 1

func expressions(r ruleset.Rule) []expr.Any {
	var out []expr.Any
	for _, s := range r.Statements {
		out = append(out, expression(s)...)
	}
	return out
}

// expression is a statement in the kernel's terms; `nft --debug=netlink` shows
// the same of nft's own.
func expression(s ruleset.Statement) []expr.Any {
	switch s := s.(type) {
	case ruleset.Established:
		return ctState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	case ruleset.InLoopback:
		return interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, "lo")
	case ruleset.OutLoopback:
		return interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, "lo")
	case ruleset.ForeignSource:
		return []expr.Any{
			&expr.Fib{Register: register, ResultADDRTYPE: true, FlagSADDR: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		}
	case ruleset.ListenerReport:
		const mld2Report = 143 // of <linux/icmpv6.h>
		return append(icmp6Type(), &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{mld2Report}})
	case ruleset.NeighbourDiscovery:
		const solicitation, advertisement = 135, 136
		return append(icmp6Type(), &expr.Range{Op: expr.CmpOpEq, Register: register, FromData: []byte{solicitation}, ToData: []byte{advertisement}})
	case ruleset.TCP:
		return protocolIs(unix.IPPROTO_TCP)
	case ruleset.To:
		return destinationIn(s.Prefix)
	case ruleset.ToSet:
		return append(load(destination, s.IPv6), &expr.Lookup{SourceRegister: register, SetName: s.Set})
	case ruleset.Ports:
		return ports(s.Protocol, s.First, s.Last)
	case ruleset.Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	case ruleset.Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	case ruleset.Reject:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
	case ruleset.Reset:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case ruleset.Log:
		return []expr.Any{&expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: s.Group}}
	case ruleset.Goto:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: s.Chain}}
	}
	panic(fmt.Sprintf("internal error: no expression for %T", s))
}

func icmp6Type() []expr.Any {
	return append(protocolIs(unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1})
}

func ctState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: register, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

func interfaceIs(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: register}, &expr.Cmp{Op: op, Register: register, Data: padded}}
}

// field is an address in the network header.
type field struct{ offset4, offset6 uint32 }

var (
	source      = field{12, 8}
	destination = field{16, 24}
)

// load loads an address of one family; the rule ends for the other's packets.
func load(f field, ipv6 bool) []expr.Any {
	family, offset, size := byte(unix.NFPROTO_IPV4), f.offset4, uint32(4)
	if ipv6 {
		family, offset, size = unix.NFPROTO_IPV6, f.offset6, 16
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{family}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
}

func destinationIn(p netip.Prefix) []expr.Any {
	p = p.Masked()
	size := p.Addr().BitLen() / 8
	exprs := load(destination, p.Addr().Is6())
	if !p.IsSingleIP() {
		mask := make([]byte, size)
		for bit := range p.Bits() {
			mask[bit/8] |= 0x80 >> (bit % 8)
		}
		exprs = append(exprs, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(size), Mask: mask, Xor: make([]byte, size)})
	}
	return append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: p.Addr().AsSlice()})
}

func protocolIs(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{number}},
	}
}

func ports(protocol string, first, last uint16) []expr.Any {
	number := byte(unix.IPPROTO_TCP)
	if protocol == "udp" {
		number = unix.IPPROTO_UDP
	}
	exprs := append(protocolIs(number), &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	if first == last {
		return append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(first)})
	}
	return append(exprs, &expr.Range{Op: expr.CmpOpEq, Register: register,
		FromData: binaryutil.BigEndian.PutUint16(first), ToData: binaryutil.BigEndian.PutUint16(last)})
}

// verifyRules reads back what the kernel has: every chain with its hook and
// policy, every rule and every element, and nothing else.
func verifyRules(want ruleset.Table) error {
	c, err := openNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	tables, err := c.ListTables()
	if err != nil {
		return err
	}
	if len(tables) != 1 || tables[0].Name != want.Name || tables[0].Family != nftables.TableFamilyINet {
		return fmt.Errorf("there are %d tables, not the one", len(tables))
	}
	if err := verifyChains(c, tables[0], want); err != nil {
		return err
	}
	return verifySets(c, tables[0], want)
}

func verifyChains(c *nftables.Conn, table *nftables.Table, want ruleset.Table) error {
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	if len(chains) != len(want.Chains) {
		return fmt.Errorf("there are %d chains, not %d", len(chains), len(want.Chains))
	}
	for _, wanted := range want.Chains {
		i := slices.IndexFunc(chains, func(got *nftables.Chain) bool { return got.Name == wanted.Name })
		if i < 0 || !sameHook(chains[i], wanted) {
			return fmt.Errorf("the chain %q is missing, or not on its hook with the policy drop", wanted.Name)
		}
		rules, err := c.GetRules(table, chains[i])
		if err != nil {
			return err
		}
		if err := sameRules(rules, wanted.Rules); err != nil {
			return fmt.Errorf("chain %q: %w", wanted.Name, err)
		}
	}
	return nil
}

func sameHook(got *nftables.Chain, want ruleset.Chain) bool {
	if want.Hook == "" {
		return got.Hooknum == nil
	}
	return got.Hooknum != nil && *got.Hooknum == *hooks[want.Hook] && got.Policy != nil && *got.Policy == nftables.ChainPolicyDrop
}

func sameRules(got []*nftables.Rule, want []ruleset.Rule) error {
	if len(got) != len(want) {
		return fmt.Errorf("there are %d rules, not %d", len(got), len(want))
	}
	for i := range want {
		same, err := sameExpressions(got[i].Exprs, expressions(want[i]))
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("rule %d is another one", i+1)
		}
	}
	return nil
}

// sameExpressions compares the expressions as they are encoded for the kernel.
func sameExpressions(got, want []expr.Any) (bool, error) {
	if len(got) != len(want) {
		return false, nil
	}
	for i := range want {
		g, errGot := expr.Marshal(byte(unix.NFPROTO_INET), got[i])
		w, errWant := expr.Marshal(byte(unix.NFPROTO_INET), want[i])
		if err := errors.Join(errGot, errWant); err != nil {
			return false, err
		}
		if !bytes.Equal(g, w) {
			return false, nil
		}
	}
	return true, nil
}

func verifySets(c *nftables.Conn, table *nftables.Table, want ruleset.Table) error {
	for _, s := range want.Sets {
		set := addressSet(table, s)
		got, err := c.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("cannot read the set %q: %w", s.Name, err)
		}
		if !sameElements(got, elements(s.Prefixes)) {
			return fmt.Errorf("the set %q has other elements", s.Name)
		}
	}
	return nil
}

// sameElements compares without order. The kernel adds an end in front of the
// first interval, which means nothing.
func sameElements(got, want []nftables.SetElement) bool {
	keys := func(elements []nftables.SetElement) []string {
		var out []string
		for _, e := range elements {
			out = append(out, fmt.Sprintf("%x %v", e.Key, e.IntervalEnd))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(keys(got), keys(want))
}
