package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/purple-sandbox/purple/internal/host"
	"golang.org/x/sys/unix"
)

// hostTableName is the one table that Purple has on the host. No other is ever
// touched. In nft's syntax it is:
//
//	table inet purple {
//		set ranges4 { type ipv4_addr; flags interval; }  # of the sandboxes' addresses
//		set ranges6 { type ipv6_addr; flags interval; }
//		map runs4 { type ipv4_addr : verdict; }          # those that may reach the host somewhere
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
//		chain purple-web-0badcafe {              # of each run that is in the maps
//			ip daddr 192.168.1.7 udp dport 53 accept
//		}
//		chain forward {
//			type filter hook forward priority filter; policy accept;
//			oifname "purple0" ct state established,related accept
//			oifname "purple0" drop
//			iifname "purple0" ip saddr @ranges4 accept
//			iifname "purple0" ip6 saddr @ranges6 accept
//			iifname "purple0" drop
//			goto guard
//		}
//		chain guard { }                         # see guard()
//		chain postrouting {
//			type nat hook postrouting priority srcnat; policy accept;
//			ip saddr @ranges4 oifname != "purple0" masquerade
//			ip6 saddr @ranges6 oifname != "purple0" masquerade
//		}
//	}
//
// What a sandbox may send is decided in its own namespace; here is what cannot
// be known there (which addresses are the host's), and a second line.
const hostTableName = "purple"

type hostTable struct {
	c      *nftables.Conn
	exists bool
	table  *nftables.Table
	ranges [2]*nftables.Set // IPv4, IPv6
	runs   [2]*nftables.Set
}

func newHostTable(c *nftables.Conn) *hostTable {
	h := &hostTable{c: c, table: &nftables.Table{Family: nftables.TableFamilyINet, Name: hostTableName}}
	for i, kind := range []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		suffix := [2]string{"4", "6"}[i]
		h.ranges[i] = &nftables.Set{Table: h.table, Name: "ranges" + suffix, KeyType: kind, Interval: true}
		h.runs[i] = &nftables.Set{Table: h.table, Name: "runs" + suffix, KeyType: kind, DataType: nftables.TypeVerdict, IsMap: true}
	}
	return h
}

// create adds the table, if it is not there, and the ranges, if they are not.
// What has the name and is another table goes first: it is not known what it
// would do to the packets.
func (h *hostTable) create(ranges []netip.Prefix) error {
	if h.exists {
		complete, err := h.complete()
		if err != nil {
			return err
		}
		if complete {
			return h.addRanges(ranges)
		}
		h.remove()
		h.exists = false
	}
	h.c.CreateTable(h.table)
	for _, s := range append(h.ranges[:], h.runs[:]...) {
		if err := h.c.AddSet(s, nil); err != nil {
			return fmt.Errorf("cannot encode the set %q: %w", s.Name, err)
		}
	}
	h.createInput()
	h.createForward()
	h.createPostrouting()
	for _, r := range ranges {
		if err := h.addRange(r); err != nil {
			return err
		}
	}
	return nil
}

// ownChains are those of every table of Purple's, with their hooks.
var ownChains = map[string]*nftables.ChainHook{
	"input": nftables.ChainHookInput, "forward": nftables.ChainHookForward, "postrouting": nftables.ChainHookPostrouting,
	"to_host": nil, "guard": nil,
}

// complete tells whether the table is one that create has made.
func (h *hostTable) complete() (bool, error) {
	chains, err := h.c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("cannot list the chains: %w", err)
	}
	sets, err := h.c.GetSets(h.table)
	if err != nil {
		return false, fmt.Errorf("cannot list the sets: %w", err)
	}
	found := 0
	for _, c := range chains {
		hook, own := ownChains[c.Name]
		if c.Table.Name == hostTableName && own && sameNumber(c.Hooknum, hook) && (hook == nil || c.Policy != nil && *c.Policy == nftables.ChainPolicyAccept) {
			found++
		}
	}
	for _, want := range append(h.ranges[:], h.runs[:]...) {
		if !slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == want.Name && s.IsMap == want.IsMap }) {
			return false, nil
		}
	}
	return found == len(ownChains), nil
}

func sameNumber(x, y *nftables.ChainHook) bool {
	return x == nil && y == nil || x != nil && y != nil && *x == *y
}

func (h *hostTable) addRange(r netip.Prefix) error {
	if err := h.c.SetAddElements(h.ranges[family(r.Addr())], elements([]netip.Prefix{r})); err != nil {
		return fmt.Errorf("cannot encode the range %s: %w", r, err)
	}
	return nil
}

// addRanges adds those of another policy than the first.
func (h *hostTable) addRanges(ranges []netip.Prefix) error {
	for _, r := range ranges {
		set := h.ranges[family(r.Addr())]
		known, err := h.c.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("cannot read the set %q: %w", set.Name, err)
		}
		start := elements([]netip.Prefix{r})[0]
		same := func(e nftables.SetElement) bool { return !e.IntervalEnd && bytes.Equal(e.Key, start.Key) }
		if slices.ContainsFunc(known, same) {
			continue
		}
		if err := h.addRange(r); err != nil {
			return err
		}
	}
	return nil
}

func (h *hostTable) remove() {
	if h.exists {
		h.c.DelTable(h.table)
	}
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
	h.rule(input, interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, host.Bridge), verdict(expr.VerdictGoto, toHost.Name))
	h.rule(toHost, established(), verdict(expr.VerdictAccept, ""))
	for i, runs := range h.runs {
		h.rule(toHost, load(source, i == 1), []expr.Any{&expr.Lookup{SourceRegister: register, SetName: runs.Name, IsDestRegSet: true}})
	}
	h.rule(toHost, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
}

func (h *hostTable) createForward() {
	guard := h.c.AddChain(h.chain("guard"))
	forward := h.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	in := interfaceIs(expr.MetaKeyIIFNAME, expr.CmpOpEq, host.Bridge)
	out := interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpEq, host.Bridge)
	h.rule(forward, out, established(), verdict(expr.VerdictAccept, ""))
	h.rule(forward, out, verdict(expr.VerdictDrop, ""))
	for i, ranges := range h.ranges {
		h.rule(forward, in, isIn(ranges, i == 1), verdict(expr.VerdictAccept, ""))
	}
	h.rule(forward, in, verdict(expr.VerdictDrop, ""))
	h.rule(forward, verdict(expr.VerdictGoto, guard.Name))
}

func (h *hostTable) createPostrouting() {
	postrouting := h.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	away := interfaceIs(expr.MetaKeyOIFNAME, expr.CmpOpNeq, host.Bridge)
	for i, ranges := range h.ranges {
		h.rule(postrouting, isIn(ranges, i == 1), away, []expr.Any{&expr.Masq{}})
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

// chainOf is the chain of a run: its unit's name, as far as it fits.
func chainOf(unit string) string {
	const longest = 100 // a chain's name has at most 127 characters
	name := strings.TrimSuffix(unit, ".service")
	return name[max(0, len(name)-longest):]
}

// addRun adds a chain that says where on the host a run may go, and nothing for
// a run that may go nowhere there. What a killed one of the same addresses has
// left goes first.
func (h *hostTable) addRun(name string, addrs []netip.Addr, toHost []Destination) error {
	isAddress := func(e nftables.SetElement) bool {
		return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return bytes.Equal(e.Key, a.AsSlice()) })
	}
	if err := h.removeElements(isAddress); err != nil {
		return err
	}
	if len(toHost) == 0 {
		return nil
	}
	chain := h.c.AddChain(h.chain(name))
	for _, d := range toHost {
		h.rule(chain, destinationIn(netip.PrefixFrom(d.Address, d.Address.BitLen())), ports(d.Protocol, d.First, d.Last), verdict(expr.VerdictAccept, ""))
	}
	for _, a := range addrs {
		jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: name}
		if err := h.c.SetAddElements(h.runs[family(a)], []nftables.SetElement{{Key: a.AsSlice(), VerdictData: jump, Comment: name}}); err != nil {
			return fmt.Errorf("cannot encode the address %s: %w", a, err)
		}
	}
	return nil
}

// removeRun removes the chain of a run, and the elements that lead there.
func (h *hostTable) removeRun(name string) error {
	return h.removeElements(func(e nftables.SetElement) bool { return e.Comment == name })
}

// removeElements removes elements of the maps, and the chains that they lead to.
func (h *hostTable) removeElements(which func(nftables.SetElement) bool) error {
	if !h.exists {
		return nil
	}
	chains := map[string]bool{}
	for _, runs := range h.runs {
		elements, err := h.c.GetSetElements(runs)
		if err != nil {
			return fmt.Errorf("cannot read the map %q: %w", runs.Name, err)
		}
		for _, e := range elements {
			if !which(e) {
				continue
			}
			// The library does not read a verdict back; the comment is the
			// same name.
			if e.Comment != "" {
				chains[e.Comment] = true
			}
			if err := h.c.SetDeleteElements(runs, []nftables.SetElement{{Key: e.Key}}); err != nil {
				return fmt.Errorf("cannot encode an address: %w", err)
			}
		}
	}
	for name := range chains {
		h.c.DelChain(h.chain(name))
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
