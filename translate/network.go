package translate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/ruleset"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

// Network is what a plan wants of the network: a namespace of the run's own
// with a ruleset, linked to Purple's bridge, or under a user manager to pasta
// (Spec.Uplink). It is nil where the policy isolates.
type Network struct {
	Rules ruleset.Table // in the sandbox's network namespace
	// Range4 and Range6 are where the sandbox and the bridge have their
	// addresses; Range6 is invalid on a machine without IPv6.
	Range4, Range6 netip.Prefix
	MTU            int // of the sandbox's interface, bytes
	// ToHost are the allowed destinations that are addresses of the host itself:
	// everything else that a sandbox sends there is refused on the host.
	ToHost []Destination
	// Routes are addresses in the destinations that the policy names: what
	// leads there has to forward.
	Routes    []netip.Addr
	Published []Published
}

// Destination is one address and ports of a protocol, "tcp" or "udp".
type Destination struct {
	Address     netip.Addr
	Protocol    string
	First, Last uint16
}

// Published is one TCP port of the sandbox on the addresses of the host.
type Published struct {
	Key       string // the policy's
	Port      uint16
	Addresses []netip.Addr
}

const (
	keyIsolated = "network.isolated"
	keyOutgoing = "network.allow_outgoing"
	keyRange    = "network.address_range"
)

// DeniedGroup is the NFLOG group that denied packets go to, in the sandbox's
// own network namespace.
const DeniedGroup = 1

const (
	dnsPort    = 53
	defaultMTU = 1500
	minMTU6    = 1280 // an interface with less has no IPv6 (RFC 8200 §5)
)

const (
	whyPasta  = "pasta is not installed, which is what an ordinary user's sandbox reaches the network by"
	hintPasta = "install the package passt, write `isolated: true`, or call purple with sudo"
)

func (b *builder) network() error {
	if b.p.Network.Isolated {
		return nil
	}
	if b.isUser() && b.h.Network.Pasta == "" {
		return b.unsupported(keyIsolated, "a filtered network", whyPasta, hintPasta)
	}
	n := &Network{MTU: b.h.Network.MTU}
	if n.MTU == 0 {
		n.MTU = defaultMTU
	}
	var err error
	if n.Range4, err = b.addressRange(); err != nil {
		return err
	}
	if b.hasIPv6(n) {
		n.Range6 = range6(n.Range4)
	}
	b.plan.Network = n
	uplink := "on the bridge " + host.Bridge
	if b.isUser() {
		uplink = "through pasta"
	}
	b.say("network", keyIsolated, "", "interface eth0 %s, address from %s", uplink, rangeText(n))
	b.outgoing()
	if err := b.incoming(); err != nil {
		return err
	}
	if b.isUser() {
		return b.pasta(n)
	}
	return nil
}

// hasIPv6 tells whether the sandbox gets an IPv6 address. pasta has none to give
// where no default route is: it opens its connections as any program does.
func (b *builder) hasIPv6(n *Network) bool {
	return b.h.Network.IPv6 && n.MTU >= minMTU6 && (!b.isUser() || b.h.Network.DefaultRoute6)
}

// pasta is the uplink of a run under a user manager: a process of the user's that
// opens, on the host, the connections that the ruleset has let out. It maps no
// address to the host's loopback, and no port in any direction.
func (b *builder) pasta(n *Network) error {
	rules, err := json.Marshal(n.Rules)
	if err != nil {
		return fmt.Errorf("internal error: %v", err)
	}
	b.plan.Spec.Uplink = &spec.Uplink{Helper: b.c.NetPath, Rules: rules, IPv6: n.Range6.IsValid()}
	if !b.h.Network.DefaultRoute4 && !b.h.Network.DefaultRoute6 {
		b.say("network", keyIsolated, "", "this machine has no default route: nothing leads out of the sandbox")
		return nil
	}
	argv := []string{
		b.h.Network.Pasta, "--foreground", "--quiet", "--config-net", "--ns-ifname", "eth0",
		"--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
		"--no-dhcp", "--no-dhcpv6", "--no-ra", "--no-netns-quit",
	}
	if b.h.Network.DefaultRoute4 {
		argv = append(argv, "--address", hostOf(n.Range4, 2), "--netmask", strconv.Itoa(n.Range4.Bits()), "--gateway", hostOf(n.Range4, 1))
	} else {
		argv = append(argv, "--ipv6-only")
	}
	if n.Range6.IsValid() {
		argv = append(argv, "--address", hostOf(n.Range6, 2), "--gateway", hostOf(n.Range6, 1))
	} else {
		argv = append(argv, "--ipv4-only")
	}
	b.plan.Spec.Uplink.Pasta, b.plan.Spec.Uplink.IPv4 = argv, b.h.Network.DefaultRoute4
	return nil
}

// hostOf is the n-th address of a range, which ends in a zero byte.
func hostOf(in netip.Prefix, n byte) string {
	bytes := in.Masked().Addr().AsSlice()
	bytes[len(bytes)-1] += n
	addr, _ := netip.AddrFromSlice(bytes)
	return addr.String()
}

func rangeText(n *Network) string {
	if n.Range6.IsValid() {
		return fmt.Sprintf("%s and %s", n.Range4, n.Range6)
	}
	return n.Range4.String()
}

// addressRange is the policy's, that of the bridge which is there already, or
// the first that nobody on this machine uses.
func (b *builder) addressRange() (netip.Prefix, error) {
	if text := b.p.Network.AddressRange; text != "" {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return prefix, fmt.Errorf("internal error: address range %q: %v", text, err)
		}
		if b.isAskedByInvoker(keyRange) {
			return prefix, fmt.Errorf("%s: %s: cannot lead %s to sandboxes for uid %d: the routes of this machine are root's; leave it out, or let root put the profile into /etc/purple/policies",
				b.p.Where(keyRange), keyRange, prefix, b.c.Invoker.UID)
		}
		if taken, is := b.takenBy(prefix); is {
			return prefix, fmt.Errorf("%s: %s: %s overlaps %s, which this machine has a route to, or the policy allows; name another range, or none", b.p.Where(keyRange), keyRange, prefix, taken)
		}
		for _, a := range b.h.Network.BridgeAddresses {
			if a.Overlaps(prefix) && a.Masked() != prefix {
				return prefix, fmt.Errorf("%s: %s: %s overlaps %s, in which other sandboxes run now; name that one, or another", b.p.Where(keyRange), keyRange, prefix, a.Masked())
			}
		}
		return prefix, nil
	}
	for _, a := range b.h.Network.BridgeAddresses {
		if a.Addr().Is4() {
			return a.Masked(), nil
		}
	}
	for _, prefix := range unusedRanges() {
		if _, is := b.takenBy(prefix); !is {
			return prefix, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("cannot find an unused private address range on this machine: name one in `%s`", keyRange)
}

// takenBy is what on this machine, or in the policy, a range collides with.
func (b *builder) takenBy(prefix netip.Prefix) (netip.Prefix, bool) {
	for _, taken := range b.h.Network.Taken {
		if taken.Overlaps(prefix) {
			return taken, true
		}
	}
	for _, rule := range b.p.Network.Outgoing {
		// 0.0.0.0/0 names no network that a sandbox could stand in the way of.
		if named, err := netip.ParsePrefix(rule.Prefix); err == nil && named.Bits() > 0 && named.Overlaps(prefix) {
			return named, true
		}
	}
	return netip.Prefix{}, false
}

// unusedRanges are the candidates, each for 4094 sandboxes: from the middle of
// each private range, where neither home routers nor Docker begin.
func unusedRanges() []netip.Prefix {
	var ranges []netip.Prefix
	for _, base := range [][2]byte{{10, 213}, {10, 87}, {172, 29}, {192, 168}} {
		for third := 0; third < 256; third += 16 {
			ranges = append(ranges, netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], byte(third), 0}), 20))
		}
	}
	return ranges
}

// range6 is a unique local prefix (RFC 4193) that follows from the IPv4 one, so
// that both collide or neither does.
func range6(v4 netip.Prefix) netip.Prefix {
	a := v4.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x70, 0x75, 0x72, a[0], a[1], a[2], a[3]}), 64)
}

// outgoing makes the ruleset of the sandbox.
func (b *builder) outgoing() {
	r := rules{hostAddresses: b.h.Network.Addresses, discovers: b.isUser()}
	for _, o := range b.p.Network.Outgoing {
		r.allow(o)
		b.say("network", o.Key, "", "allow %s", outgoingText(o))
		if o.Prefix == "" && o.First <= dnsPort && dnsPort <= o.Last {
			b.resolvers(&r, o)
		}
	}
	b.plan.Network.Rules = r.table()
	b.plan.Network.ToHost = r.toHost
	b.plan.Network.Routes = r.routes
	b.say("network", keyOutgoing, "", "everything else is refused, in IPv4 and IPv6")
}

func outgoingText(o policies.Outgoing) string {
	ports, protocol := fmt.Sprint(o.First), "tcp and udp"
	if o.Last != o.First {
		ports = fmt.Sprintf("%d-%d", o.First, o.Last)
	}
	if o.Protocol != "" {
		protocol = o.Protocol
	}
	to := "public addresses"
	if o.Prefix != "" {
		to = o.Prefix
	}
	return fmt.Sprintf("%s %s to %s", protocol, ports, to)
}

// resolvers opens the way to the machine's own name servers, wherever they are.
func (b *builder) resolvers(r *rules, o policies.Outgoing) {
	dns := b.h.Network.DNS
	for _, addr := range dns.Resolvers {
		r.resolver(addr, o)
		b.say("network", o.Key, "", "allow %s %d to %s, a resolver of %s", protocolText(o), dnsPort, addr, dns.File)
	}
	if len(dns.Resolvers) == 0 {
		b.warn(o.Key, "names will not resolve: %s", noResolver(dns))
	}
}

func protocolText(o policies.Outgoing) string { return strings.Join(protocols(o.Protocol), " and ") }

func noResolver(dns host.DNS) string {
	if len(dns.Unreachable) == 0 {
		return fmt.Sprintf("%s names no server", dns.File)
	}
	return fmt.Sprintf("a sandbox cannot reach %s of %s, which is on the host's own loopback or link", strings.Join(dns.Unreachable, " "), dns.File)
}

// resolvConf is the sandbox's own resolv.conf.
func (b *builder) resolvConf() string {
	var out strings.Builder
	dns := b.h.Network.DNS
	fmt.Fprintf(&out, "# Written by Purple from %s of the host.\n", dns.File)
	for _, addr := range dns.Resolvers {
		fmt.Fprintf(&out, "nameserver %s\n", addr)
	}
	for _, line := range dns.Lines {
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

func (b *builder) incoming() error {
	for _, in := range b.p.Network.Incoming {
		if start := b.h.Network.UnprivilegedPortStart; in.Port < start && b.isAskedByInvoker(in.Key) {
			return fmt.Errorf("%s: %s: cannot publish port %d for uid %d: those below %d are root's (net.ipv4.ip_unprivileged_port_start); take a higher one, or let root put the profile into /etc/purple/policies",
				b.p.Where(in.Key), in.Key, in.Port, b.c.Invoker.UID, start)
		}
		p := Published{Key: in.Key, Port: in.Port}
		switch {
		case in.Address != "":
			// Checked by the policy's parser.
			p.Addresses = []netip.Addr{netip.MustParseAddr(in.Address)}
		case b.h.Network.IPv6:
			p.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
		default:
			p.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		}
		b.plan.Network.Published = append(b.plan.Network.Published, p)
		b.say("network", in.Key, "", "publish tcp port %d on %s of the host", in.Port, joined(p.Addresses))
	}
	return nil
}

func joined(addrs []netip.Addr) string {
	var words []string
	for _, a := range addrs {
		words = append(words, a.String())
	}
	return strings.Join(words, " and ")
}

// rules are the outgoing rules in the making, by how far they reach.
type rules struct {
	hostAddresses []netip.Addr
	// discovers: the gateway's link-layer address is not known beforehand, as it
	// is on Purple's own bridge, and IPv6 has to ask for it.
	discovers bool

	single []ruleset.Rule // one address, which may be the host's
	ranges []ruleset.Rule // a range of addresses, never the host's
	public []ruleset.Rule // ports of public addresses

	toHost []Destination
	routes []netip.Addr
}

// allow adds a rule of the policy.
func (r *rules) allow(o policies.Outgoing) {
	for _, protocol := range protocols(o.Protocol) {
		ports := ruleset.Ports{Protocol: protocol, First: o.First, Last: o.Last}
		if o.Prefix == "" {
			r.public = append(r.public, accept(o.Key, ports))
			continue
		}
		prefix := netip.MustParsePrefix(o.Prefix) // checked by the policy's parser
		if prefix.IsSingleIP() {
			r.direct(prefix.Addr(), ports, o.Key)
			continue
		}
		r.routes = append(r.routes, prefix.Addr())
		r.ranges = append(r.ranges, accept(o.Key, ruleset.To{Prefix: prefix}, ports))
	}
}

func protocols(named string) []string {
	if named != "" {
		return []string{named}
	}
	return []string{"tcp", "udp"}
}

func (r *rules) direct(addr netip.Addr, ports ruleset.Ports, key string) {
	r.routes = append(r.routes, addr)
	if slices.Contains(r.hostAddresses, addr) {
		r.toHost = append(r.toHost, Destination{addr, ports.Protocol, ports.First, ports.Last})
	}
	r.single = append(r.single, accept(key, ruleset.To{Prefix: netip.PrefixFrom(addr, addr.BitLen())}, ports))
}

func (r *rules) resolver(addr netip.Addr, o policies.Outgoing) {
	for _, protocol := range protocols(o.Protocol) {
		r.direct(addr, ruleset.Ports{Protocol: protocol, First: dnsPort, Last: dnsPort}, o.Key)
	}
}

func accept(key string, matches ...ruleset.Statement) ruleset.Rule {
	return ruleset.Rule{Statements: append(matches, ruleset.Accept{}), Comment: key}
}

// denied is the chain where everything ends that no rule allows.
const denied = "denied"

func deny(matches ...ruleset.Statement) ruleset.Rule {
	return ruleset.Rule{Statements: append(matches, ruleset.Goto{Chain: denied})}
}

// table is the whole ruleset. Each base chain has the policy drop, so that what
// a mistake here leaves undecided does not pass.
func (r *rules) table() ruleset.Table {
	t := ruleset.Table{Name: "purple"}
	output := []ruleset.Rule{
		// Every flow began with a packet that passed below. Among the related
		// ones are the resets of denied connections, which come from where
		// those were to go.
		accept("", ruleset.Established{}),
		// The kernel's own, which nobody asked for: not the command's to answer for.
		{Statements: []ruleset.Statement{ruleset.ListenerReport{}, ruleset.Drop{}}},
		// On the loopback interface as well: the command would be answering a
		// peer that it has made up, and answers pass as established. Not
		// rejected: that would send something to the made-up peer, too.
		{Statements: []ruleset.Statement{ruleset.ForeignSource{}, ruleset.Log{Group: DeniedGroup}, ruleset.Drop{}}},
		accept("", ruleset.OutLoopback{}),
	}
	input := []ruleset.Rule{
		accept("", ruleset.InLoopback{}),
		accept("", ruleset.Established{}),
	}
	if r.discovers {
		output = append(output, accept("", ruleset.NeighbourDiscovery{}))
		input = append(input, accept("", ruleset.NeighbourDiscovery{}))
	}
	output = append(output, r.single...)
	output = append(output, r.denySets(&t, "host", prefixesOf(r.hostAddresses))...)
	output = append(output, r.ranges...)
	output = append(output, r.denySets(&t, "private", notPublic)...)
	output = append(output, r.public...)
	output = append(output, deny())
	t.Chains = []ruleset.Chain{
		{Name: "input", Hook: ruleset.Input, Rules: input},
		{Name: "forward", Hook: ruleset.Forward},
		{Name: "output", Hook: ruleset.Output, Rules: output},
		// A TCP connection is reset: about an ICMP error the kernel thinks for
		// a second when it comes while connect(2) is still at work.
		{Name: denied, Rules: []ruleset.Rule{
			{Statements: []ruleset.Statement{ruleset.Log{Group: DeniedGroup}}},
			{Statements: []ruleset.Statement{ruleset.TCP{}, ruleset.Reset{}}},
			{Statements: []ruleset.Statement{ruleset.Reject{}}},
		}},
	}
	return t
}

// denySets adds a set for each family that has any of the prefixes, and gives
// the rules that deny what is in them.
func (r *rules) denySets(t *ruleset.Table, name string, prefixes []netip.Prefix) []ruleset.Rule {
	var out []ruleset.Rule
	for _, six := range []bool{false, true} {
		set := ruleset.Set{Name: name + "4", IPv6: six}
		if six {
			set.Name = name + "6"
		}
		for _, p := range prefixes {
			if p.Addr().Is6() == six {
				set.Prefixes = append(set.Prefixes, p)
			}
		}
		if len(set.Prefixes) > 0 {
			t.Sets = append(t.Sets, set)
			out = append(out, deny(ruleset.ToSet{Set: set.Name, IPv6: six}))
		}
	}
	return out
}

func prefixesOf(addrs []netip.Addr) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, a := range addrs {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return prefixes
}

// notPublic is what a bare port never reaches: private ranges, link-local,
// metadata services, multicast, and what IPv6 embeds of them. From the IANA
// special-purpose address registries; ranges for documentation lead nowhere
// and are left out.
var notPublic = sorted(append(embedded(private4), append(private4, private6...)...))

var private4 = prefixes(
	"0.0.0.0/8",        // this host (RFC 1122)
	"10.0.0.0/8",       // private (RFC 1918)
	"100.64.0.0/10",    // behind a carrier's NAT (RFC 6598); Alibaba's metadata
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // Azure's metadata and host agent
	"169.254.0.0/16",   // link-local; the metadata services
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments; Oracle's metadata
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks (RFC 2544), and the made-up addresses of proxies
	"224.0.0.0/3",      // multicast, reserved, broadcast
)

var private6 = prefixes(
	"::/96",          // unspecified, loopback, IPv4-compatible
	"::ffff:0:0/96",  // IPv4-mapped
	"64:ff9b:1::/48", // local-use translation (RFC 8215)
	"100::/64",       // discard
	"2001::/32",      // Teredo: an IPv4 address in disguise
	"fc00::/7",       // unique local; Amazon's and Google's metadata
	"fe80::/9",       // link-local, and the site-local of old
	"ff00::/8",       // multicast
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// embedded is the same IPv4 ranges as a NAT64 gateway (64:ff9b::/96, RFC 6052)
// or a 6to4 relay (2002::/16, RFC 3056) would reach them.
func embedded(v4 []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range v4 {
		a := p.Addr().As4()
		nat64, sixToFour := [16]byte{0, 0x64, 0xff, 0x9b}, [16]byte{0x20, 0x02}
		copy(nat64[12:], a[:])
		copy(sixToFour[2:], a[:])
		out = append(out, netip.PrefixFrom(netip.AddrFrom16(nat64), 96+p.Bits()), netip.PrefixFrom(netip.AddrFrom16(sixToFour), 16+p.Bits()))
	}
	return out
}

func sorted(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
	return prefixes
}
