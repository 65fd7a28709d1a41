package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/ruleset"
)

const filtered = `name: web
network:
  isolated: false
  allow_outgoing:
    - 443
    - 53
    - 8000-8100/tcp
    - 10.1.0.0/16:5432/tcp
    - "[fd00:1::/64]:443"
    - 10.9.0.1:80/tcp
  allow_incoming: [8080, 0.0.0.0:8081, "[::]:8082"]
`

// networked is a machine in a LAN, with a resolver there.
func networked(_ *Command, h *host.Facts) {
	h.Network = host.Network{
		Addresses: addrs("192.168.1.7", "198.51.100.7", "2001:db8::7"),
		Taken:     prefixes("192.168.1.0/24", "10.213.0.0/18", "2001:db8::/64"),
		MTU:       1400, IPv6: true,
		DNS: host.DNS{File: "/etc/resolv.conf", Resolvers: addrs("192.168.1.1", "9.9.9.9"), Lines: []string{"search lan"}},
	}
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// The ruleset as nft prints it.
func TestNetworkGolden(t *testing.T) {
	plan := mustBuild(t, filtered, networked)
	golden(t, "network.nft", []byte(plan.Network.Rules.Text()))
	golden(t, "network.txt", []byte(plan.Text()))
	if unit := plan.UnitFile(); !strings.Contains(unit, "NetworkNamespacePath=") || strings.Contains(unit, "PrivateNetwork") {
		t.Error(unit)
	}
}

// Ports that only root may listen on are published for root's profiles.
func TestLowPorts(t *testing.T) {
	const text = "name: low\nnetwork: {isolated: false, allow_incoming: [1023]}\n"
	for _, c := range []struct {
		invoker Invoker
		roots   []string
		start   uint16
		want    string
	}{
		{Invoker{}, nil, 1024, ""},
		{Invoker{UID: 1001, GID: 1001}, nil, 1024, "cannot publish port 1023 for uid 1001: those below 1024 are root's"},
		{Invoker{UID: 1001, GID: 1001}, nil, 1023, ""},
		{Invoker{UID: 1001, GID: 1001}, []string{"full.yaml"}, 1024, ""},
	} {
		_, err := build(t, text, func(own *Command, h *host.Facts) {
			networked(own, h)
			own.Invoker, own.RootsFiles, h.Network.UnprivilegedPortStart = c.invoker, c.roots, c.start
		})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// The machine's routes are root's: no other than a profile of root's changes them.
func TestAddressRangeOfTheInvoker(t *testing.T) {
	const text = "name: range\nnetwork: {isolated: false, address_range: 10.200.0.0/20}\n"
	user := Invoker{UID: 1001, GID: 1001}
	for _, c := range []struct {
		invoker Invoker
		roots   []string
		want    string
	}{
		{Invoker{}, nil, ""},
		{user, nil, "network.address_range: cannot lead 10.200.0.0/20 to sandboxes for uid 1001"},
		{user, []string{"full.yaml"}, ""},
	} {
		_, err := build(t, text, func(own *Command, h *host.Facts) {
			networked(own, h)
			own.Invoker, own.RootsFiles = c.invoker, c.roots
		})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestAddressRanges(t *testing.T) {
	ranges := func(text string, change func(*Command, *host.Facts)) string {
		n := mustBuild(t, text, change).Network
		return n.Range4.String() + " " + n.Range6.String()
	}
	// No interface with a smaller MTU has IPv6.
	small := func(_ *Command, h *host.Facts) { h.Network = host.Network{MTU: 1279, IPv6: true} }
	if got := ranges(filtered, small); got != "10.213.0.0/20 invalid Prefix" {
		t.Error(got)
	}
	// The first four of the candidates are taken.
	if got := ranges(filtered, networked); got != "10.213.64.0/20 fd70:7572:ad5:4000::/64" {
		t.Error(got)
	}
	// The bridge that is there decides.
	withBridge := func(c *Command, h *host.Facts) {
		networked(c, h)
		h.Network.BridgeAddresses = prefixes("fd70:7572:ac8::1/64", "10.200.0.1/24")
	}
	if got := ranges(filtered, withBridge); got != "10.200.0.0/24 fd70:7572:ac8::/64" {
		t.Error(got)
	}
	// The policy's own goes before both, and a machine without IPv6 has none.
	own := strings.Replace(filtered, "allow_outgoing", "address_range: 172.20.0.0/16\n  allow_outgoing", 1)
	inBridge := strings.Replace(filtered, "allow_outgoing", "address_range: 10.200.0.0/20\n  allow_outgoing", 1)
	if _, err := build(t, inBridge, withBridge); err == nil || !strings.Contains(err.Error(), "overlaps 10.200.0.0/24, in which other sandboxes run now") {
		t.Error(err)
	}
	without6 := func(c *Command, h *host.Facts) {
		withBridge(c, h)
		h.Network.IPv6 = false
	}
	if got := ranges(own, without6); got != "172.20.0.0/16 invalid Prefix" {
		t.Error(got)
	}
}

// verdict evaluates the output chain for a new flow from the sandbox's own
// address: the meaning of the ruleset, without a kernel.
func verdict(t *testing.T, table ruleset.Table, to netip.Addr, protocol string, port uint16) string {
	t.Helper()
	i := slices.IndexFunc(table.Chains, func(c ruleset.Chain) bool { return c.Hook == ruleset.Output })
	for _, rule := range table.Chains[i].Rules {
		if !slices.ContainsFunc(rule.Statements, func(s ruleset.Statement) bool { return mismatch(table, s, to, protocol, port) }) {
			return fmt.Sprintf("%T", rule.Statements[len(rule.Statements)-1])
		}
	}
	return "policy"
}

func mismatch(table ruleset.Table, s ruleset.Statement, to netip.Addr, protocol string, port uint16) bool {
	switch s := s.(type) {
	case ruleset.OutLoopback, ruleset.ForeignSource, ruleset.Established, ruleset.ListenerReport:
		return true
	case ruleset.To:
		return !s.Prefix.Contains(to)
	case ruleset.ToSet:
		i := slices.IndexFunc(table.Sets, func(set ruleset.Set) bool { return set.Name == s.Set })
		return !slices.ContainsFunc(table.Sets[i].Prefixes, func(p netip.Prefix) bool { return p.Contains(to) })
	case ruleset.Ports:
		return protocol != s.Protocol || port < s.First || s.Last < port
	}
	return false
}

func TestRulesetMeans(t *testing.T) {
	table := mustBuild(t, filtered, networked).Network.Rules
	const allowed, refused = "ruleset.Accept", "ruleset.Goto"
	cases := []struct {
		to, protocol string
		port         uint16
		want         string
	}{
		{"93.184.216.34", "tcp", 443, allowed}, {"93.184.216.34", "udp", 443, allowed}, {"2606:2800::1", "tcp", 443, allowed},
		{"93.184.216.34", "tcp", 80, refused}, {"2606:2800::1", "tcp", 80, refused}, {"93.184.216.34", "sctp", 443, refused}, {"93.184.216.34", "icmp", 0, refused},
		{"93.184.216.34", "tcp", 8000, allowed}, {"93.184.216.34", "tcp", 8100, allowed},
		{"93.184.216.34", "tcp", 7999, refused}, {"93.184.216.34", "tcp", 8101, refused}, {"93.184.216.34", "udp", 8050, refused},
		// The host: its addresses in the LAN and in public, the bridge's, its loopback.
		{"192.168.1.7", "tcp", 443, refused}, {"198.51.100.7", "tcp", 443, refused}, {"2001:db8::7", "tcp", 443, refused},
		{"10.213.64.1", "tcp", 443, refused}, {"127.0.0.1", "tcp", 443, refused}, {"::1", "tcp", 443, refused}, {"0.0.0.0", "tcp", 443, refused}, {"::", "tcp", 443, refused},
		// Another sandbox.
		{"10.213.64.9", "tcp", 443, refused}, {"fd70:7572:ad5:4000::9", "tcp", 443, refused},
		// Metadata, link-local, private, multicast, broadcast, in either family.
		{"169.254.169.254", "tcp", 443, refused}, {"168.63.129.16", "tcp", 443, refused}, {"100.100.100.200", "tcp", 443, refused}, {"192.0.0.192", "tcp", 443, refused},
		{"fd00:ec2::254", "tcp", 443, refused}, {"fe80::1", "tcp", 443, refused}, {"fec0::1", "tcp", 443, refused}, {"ff02::1", "udp", 443, refused},
		{"10.0.0.1", "tcp", 443, refused}, {"172.31.255.255", "tcp", 443, refused}, {"192.168.255.1", "tcp", 443, refused}, {"100.64.0.1", "tcp", 443, refused},
		{"224.0.0.251", "udp", 443, refused}, {"239.1.1.1", "udp", 443, refused}, {"255.255.255.255", "udp", 443, refused}, {"198.19.0.1", "tcp", 443, refused},
		// The same, dressed as IPv6.
		{"::ffff:10.0.0.1", "tcp", 443, refused}, {"64:ff9b::a00:1", "tcp", 443, refused}, {"2002:a00:1::1", "tcp", 443, refused}, {"2001::1", "tcp", 443, refused},
		{"64:ff9b::808:808", "tcp", 443, allowed}, {"172.32.0.1", "tcp", 443, allowed}, {"11.0.0.1", "tcp", 443, allowed}, {"2001:1::1", "tcp", 443, allowed},
		// What the policy names.
		{"10.1.2.3", "tcp", 5432, allowed}, {"10.1.2.3", "udp", 5432, refused}, {"10.1.2.3", "tcp", 443, refused}, {"10.2.0.1", "tcp", 5432, refused},
		{"fd00:1::5", "udp", 443, allowed}, {"fd00:2::5", "udp", 443, refused}, {"10.9.0.1", "tcp", 80, allowed}, {"10.9.0.2", "tcp", 80, refused},
		// The resolvers, on their port, and nothing else private.
		{"192.168.1.1", "udp", 53, allowed}, {"192.168.1.1", "tcp", 53, allowed}, {"192.168.1.1", "tcp", 443, refused}, {"192.168.1.2", "udp", 53, refused},
		{"9.9.9.9", "udp", 53, allowed}, {"8.8.8.8", "udp", 53, allowed},
	}
	for _, c := range cases {
		if got := verdict(t, table, netip.MustParseAddr(c.to), c.protocol, c.port); got != c.want {
			t.Errorf("%s to %s port %d: %s, want %s", c.protocol, c.to, c.port, got, c.want)
		}
	}
}

// A range never reaches the host, even one that holds its address; the address
// alone does.
func TestHostIsReachedByItsAddressOnly(t *testing.T) {
	host7 := netip.MustParseAddr("192.168.1.7")
	byRange := mustBuild(t, "name: x\nnetwork:\n  isolated: false\n  allow_outgoing: [192.168.1.0/24:5432]\n", networked).Network
	if got := verdict(t, byRange.Rules, host7, "tcp", 5432); got != "ruleset.Goto" || len(byRange.ToHost) != 0 {
		t.Errorf("%s, %v", got, byRange.ToHost)
	}
	alone := mustBuild(t, "name: x\nnetwork:\n  isolated: false\n  allow_outgoing: [192.168.1.7:5432/tcp]\n", networked).Network
	if got := verdict(t, alone.Rules, host7, "tcp", 5432); got != "ruleset.Accept" || !slices.Equal(alone.ToHost, []Destination{{host7, "tcp", 5432, 5432}}) {
		t.Errorf("%s, %v", got, alone.ToHost)
	}
}

func TestNothingListedNothingAllowed(t *testing.T) {
	n := mustBuild(t, "name: x\nnetwork:\n  isolated: false\n", networked).Network
	for _, to := range []string{"8.8.8.8", "192.168.1.1", "2606:2800::1"} {
		if got := verdict(t, n.Rules, netip.MustParseAddr(to), "udp", 53); got != "ruleset.Goto" {
			t.Errorf("%s: %s", to, got)
		}
	}
}

// Sets are intervals for the kernel: they must not overlap.
func TestSetsDoNotOverlap(t *testing.T) {
	for _, set := range mustBuild(t, filtered, networked).Network.Rules.Sets {
		for i, p := range set.Prefixes[1:] {
			if before := set.Prefixes[i]; before.Overlaps(p) || before.Addr().Compare(p.Addr()) >= 0 {
				t.Errorf("%s: %s, %s", set.Name, before, p)
			}
		}
	}
}

func TestResolvConf(t *testing.T) {
	file := func(change func(*host.Network)) (string, []string) {
		plan := mustBuild(t, filtered, func(c *Command, h *host.Facts) {
			networked(c, h)
			change(&h.Network)
		})
		var warnings []string
		for _, w := range plan.Warnings {
			warnings = append(warnings, w.Text)
		}
		for _, f := range plan.Spec.Files {
			if f.Path == "/etc/resolv.conf" {
				return string(f.Content), warnings
			}
		}
		return "", warnings
	}
	got, warnings := file(func(*host.Network) {})
	if got != "# Written by Purple from /etc/resolv.conf of the host.\nnameserver 192.168.1.1\nnameserver 9.9.9.9\nsearch lan\n" || len(warnings) != 0 {
		t.Errorf("%q, %q", got, warnings)
	}
	_, warnings = file(func(n *host.Network) { n.DNS = host.DNS{File: "/etc/resolv.conf", Unreachable: []string{"127.0.0.1"}} })
	if len(warnings) != 1 || !strings.Contains(warnings[0], "127.0.0.1 of /etc/resolv.conf") {
		t.Errorf("%q", warnings)
	}
	isolated := mustBuild(t, full, nil)
	for _, f := range isolated.Spec.Files {
		if f.Path == "/etc/resolv.conf" {
			t.Error("an isolated sandbox has a resolver")
		}
	}
}

func TestPublishedPorts(t *testing.T) {
	var got []string
	for _, p := range mustBuild(t, filtered, networked).Network.Published {
		got = append(got, fmt.Sprint(p.Port, p.Addresses))
	}
	if want := []string{"8080 [127.0.0.1 ::1]", "8081 [0.0.0.0]", "8082 [::]"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
