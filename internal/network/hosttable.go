package network

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// hostTableName is the one table that Purple has on the host. No other is ever
// touched. In nft's syntax it is:
//
//	table inet purple {
//		set addresses4 { type ipv4_addr; }      # the sandboxes', each with its port as comment
//		set addresses6 { type ipv6_addr; }
//		map runs4 { type ipv4_addr : verdict; } # those that may reach the host somewhere
//		map runs6 { type ipv6_addr : verdict; }
//
//		chain input {
//			type filter hook input priority filter; policy accept;
//			iifname "purple0" goto to_host
//		}
//		chain to_host {
//			ct state established,related accept
//			ip saddr vmap @runs4
//			ip6 saddr vmap @runs6
//			reject with icmpx admin-prohibited
//		}
//		chain purple0-1 {                       # of each run that is in the maps
//			ip daddr 192.168.1.1 udp dport 53 accept
//		}
//		chain forward {
//			type filter hook forward priority filter; policy accept;
//			oifname "purple0" ct state established,related accept
//			oifname "purple0" drop
//			iifname "purple0" ip saddr @addresses4 accept
//			iifname "purple0" ip6 saddr @addresses6 accept
//			iifname "purple0" drop
//			goto guard
//		}
//		chain guard { }                         # see guard()
//		chain postrouting {
//			type nat hook postrouting priority srcnat; policy accept;
//			ip saddr @addresses4 oifname != "purple0" masquerade
//			ip6 saddr @addresses6 oifname != "purple0" masquerade
//		}
//	}
//
// What a sandbox may send is decided in its own namespace; here is what cannot
// be known there (which addresses are the host's), and a second line.
const hostTableName = "purple"

type hostTable struct {
	c         *nftables.Conn
	table     *nftables.Table
	addresses [2]*nftables.Set // IPv4, IPv6
	runs      [2]*nftables.Set
}

func newHostTable(c *nftables.Conn) *hostTable {
	h := &hostTable{c: c, table: &nftables.Table{Family: nftables.TableFamilyINet, Name: hostTableName}}
	for i, kind := range []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		suffix := [2]string{"4", "6"}[i]
		h.addresses[i] = &nftables.Set{Table: h.table, Name: "addresses" + suffix, KeyType: kind}
		h.runs[i] = &nftables.Set{Table: h.table, Name: "runs" + suffix, KeyType: kind, DataType: nftables.TypeVerdict, IsMap: true}
	}
	return h
}

// create adds the table and all that is the same for every run.
func (h *hostTable) create() error {
	h.c.CreateTable(h.table)
	for _, s := range append(h.addresses[:], h.runs[:]...) {
		if err := h.c.AddSet(s, nil); err != nil {
			return fmt.Errorf("cannot encode the set %q: %w", s.Name, err)
		}
	}
	h.createInput()
	h.createForward()
	h.createPostrouting()
	return nil
}

func (h *hostTable) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: h.table, Name: name}
}

func (h *hostTable) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return h.c.AddChain(&nftables.Chain{Table: h.table, Name: name, Type: kind, Hooknum: hook, Priority: priority, Policy: &accept})
}

func (h *hostTable) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	h.c.AddRule(&nftables.Rule{Table: h.table, Chain: chain, Exprs: all})
}

func (h *hostTable) createInput() {
	toHost := h.c.AddChain(h.chain("to_host"))
	input := h.base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	h.rule(input, interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, Bridge), verdict(expr.VerdictGoto, toHost.Name))
	h.rule(toHost, established(), verdict(expr.VerdictAccept, ""))
	for i, runs := range h.runs {
		h.rule(toHost, load(source, i == 1), []expr.Any{&expr.Lookup{SourceRegister: register, SetName: runs.Name, IsDestRegSet: true}})
	}
	h.rule(toHost, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
}

func (h *hostTable) createForward() {
	guard := h.c.AddChain(h.chain("guard"))
	forward := h.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	in := interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, Bridge)
	out := interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, Bridge)
	h.rule(forward, out, established(), verdict(expr.VerdictAccept, ""))
	h.rule(forward, out, verdict(expr.VerdictDrop, ""))
	for i, addresses := range h.addresses {
		h.rule(forward, in, isIn(addresses, i == 1), verdict(expr.VerdictAccept, ""))
	}
	h.rule(forward, in, verdict(expr.VerdictDrop, ""))
	h.rule(forward, verdict(expr.VerdictGoto, guard.Name))
}

func (h *hostTable) createPostrouting() {
	postrouting := h.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	away := interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, Bridge)
	for i, addresses := range h.addresses {
		h.rule(postrouting, isIn(addresses, i == 1), away, []expr.Any{&expr.Masq{}})
	}
}

func established() []expr.Any { return ctState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED) }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func isIn(set *nftables.Set, ipv6 bool) []expr.Any {
	return append(load(source, ipv6), &expr.Lookup{SourceRegister: register, SetName: set.Name})
}

func family(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// addRun adds the addresses of a run and, where it may reach the host, a chain
// that says where. What is left of an earlier run of that name goes first.
func (h *hostTable) addRun(name string, addrs []netip.Addr, toHost []Destination) error {
	var chain *nftables.Chain
	if len(toHost) > 0 {
		chain = h.c.AddChain(h.chain(name))
		h.c.FlushChain(chain)
		for _, d := range toHost {
			h.rule(chain, destinationIn(netip.PrefixFrom(d.Address, d.Address.BitLen())), ports(d.Protocol, d.First, d.Last), verdict(expr.VerdictAccept, ""))
		}
	}
	for _, a := range addrs {
		i := family(a)
		if err := h.c.SetAddElements(h.addresses[i], []nftables.SetElement{{Key: a.AsSlice(), Comment: name}}); err != nil {
			return fmt.Errorf("cannot encode the address %s: %w", a, err)
		}
		if chain == nil {
			continue
		}
		jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: name}
		if err := h.c.SetAddElements(h.runs[i], []nftables.SetElement{{Key: a.AsSlice(), VerdictData: jump}}); err != nil {
			return fmt.Errorf("cannot encode the address %s: %w", a, err)
		}
	}
	return nil
}

// removeRuns removes what the table has of runs that have no port any more, and
// gives their addresses.
func (h *hostTable) removeRuns(ports map[string]bool) ([]netip.Addr, error) {
	var gone []netip.Addr
	chains := map[string]bool{}
	for i, set := range h.addresses {
		elements, err := h.c.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("cannot read the set %q: %w", set.Name, err)
		}
		for _, e := range elements {
			addr, ok := netip.AddrFromSlice(e.Key)
			if !ok || ports[e.Comment] {
				continue
			}
			gone, chains[e.Comment] = append(gone, addr), true
			if err := h.removeAddress(i, e.Key); err != nil {
				return nil, err
			}
		}
	}
	return gone, h.removeChains(chains)
}

func (h *hostTable) removeAddress(family int, key []byte) error {
	if err := h.c.SetDeleteElements(h.addresses[family], []nftables.SetElement{{Key: key}}); err != nil {
		return fmt.Errorf("cannot encode an address: %w", err)
	}
	elements, err := h.c.GetSetElements(h.runs[family])
	if err != nil {
		return fmt.Errorf("cannot read the map %q: %w", h.runs[family].Name, err)
	}
	for _, e := range elements {
		if string(e.Key) == string(key) {
			return h.c.SetDeleteElements(h.runs[family], []nftables.SetElement{{Key: key}})
		}
	}
	return nil
}

// removeChains removes those of the named chains that exist.
func (h *hostTable) removeChains(names map[string]bool) error {
	if len(names) == 0 {
		return nil
	}
	chains, err := h.c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("cannot list the chains: %w", err)
	}
	for _, chain := range chains {
		if chain.Table.Name == hostTableName && names[chain.Name] {
			h.c.DelChain(h.chain(chain.Name))
		}
	}
	return nil
}

// guard keeps the host from routing for others. An interface that forwards only
// since Purple wanted it to passes new flows to the bridge and nowhere else.
// Flows that somebody translates on purpose, such as Docker's, are not new ones
// of that kind.
func (h *hostTable) guard(s sysctls) error {
	guarded, err := s.turnedOn()
	if err != nil {
		return err
	}
	chain := h.chain("guard")
	h.c.FlushChain(chain)
	for _, g := range guarded {
		protocol := byte(unix.NFPROTO_IPV4)
		if g.ipv6 {
			protocol = unix.NFPROTO_IPV6
		}
		match := []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{protocol}}}
		if g.device != "" {
			match = append(match, interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, g.device)...)
		}
		h.rule(chain, match, ctState(expr.CtStateBitNEW), notTranslated(), verdict(expr.VerdictDrop, ""))
	}
	return nil
}

// notTranslated matches flows whose destination nobody rewrites: IPS_DST_NAT of
// <linux/netfilter/nf_conntrack_common.h>.
func notTranslated() []expr.Any {
	const destinationNAT = 1 << 5
	return []expr.Any{
		&expr.Ct{Register: register, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(destinationNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: make([]byte, 4)},
	}
}
