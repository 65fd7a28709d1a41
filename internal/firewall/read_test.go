package firewall

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

var (
	out    = Flow{In: "purple0", Out: "eth0", Protocol: "tcp", Port: 443, Destination: netip.MustParseAddr("203.0.113.1"), State: New}
	reply  = Flow{In: "eth0", Out: "purple0", Protocol: "tcp", State: Established}
	lookUp = Flow{Hook: Input, In: "purple0", Protocol: "udp", Port: 53, State: New}
)

func v6(f Flow) Flow {
	f.Family, f.Source, f.Destination = IPv6, netip.Addr{}, netip.Addr{}
	return f
}

func load(t testing.TB, n *namespace, fixture string) {
	t.Helper()
	rules, err := os.ReadFile("testdata/" + fixture + ".nft")
	if err != nil {
		t.Fatal(err)
	}
	n.command(t, string(rules), "nft", "-f", "-")
}

// say is an obstacle in one line.
func say(found []Obstacle) string {
	var all []string
	for _, o := range found {
		verb := "may drop"
		if o.Certain {
			verb = "drops"
		}
		all = append(all, fmt.Sprintf("%s %s %s %s: %s", o.Family, o.Table, o.Chain, verb, o.Reason))
	}
	return strings.Join(all, "; ")
}

const dockerRemedy = "iptables -I DOCKER-USER -i purple0 -j ACCEPT\niptables -I DOCKER-USER -o purple0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
const adminRemedy = "nft insert rule inet filter forward iifname \"purple0\" accept\nnft insert rule inet filter forward oifname \"purple0\" ct state established,related accept"
const firewalldRemedy = "firewall-cmd --zone=trusted --add-interface=purple0\nfirewall-cmd --permanent --zone=trusted --add-interface=purple0"

func TestFixtures(t *testing.T) {
	cases := []struct {
		fixture, name string
		flow          Flow
		want, remedy  string
	}{
		{"admin-drop", "out", out, "inet filter forward drops: its policy is drop", adminRemedy},
		{"admin-drop", "out6", v6(out), "inet filter forward drops: its policy is drop", adminRemedy},
		{"admin-drop", "reply", reply, "inet filter forward drops: its policy is drop", adminRemedy},
		{"admin-drop", "look-up", lookUp, "inet filter input drops: its policy is drop", `nft insert rule inet filter input iifname "purple0" udp dport 53 accept`},
		{"docker", "out", out, "ip filter FORWARD drops: its policy is drop", dockerRemedy},
		{"docker", "out6", v6(out), "", ""},
		{"docker", "reply", reply, "ip filter FORWARD drops: its policy is drop", dockerRemedy},
		{"docker", "look-up", lookUp, "", ""},
		{"ufw", "out", out, `ip filter FORWARD drops: rule handle H of the chain "ufw-reject-forward" rejects it`, "ufw route allow in on purple0"},
		{"ufw", "reply", reply, "", ""},
		{"ufw", "look-up", lookUp, "ip filter INPUT drops: its policy is drop", "ufw allow in on purple0 to any port 53 proto udp"},
		{"firewalld", "out", out, `inet firewalld filter_FORWARD drops: rule handle H of the chain "filter_FWD_public" rejects it`, firewalldRemedy},
		{"firewalld", "out6", v6(out), `inet firewalld filter_FORWARD drops: rule handle H of the chain "filter_FWD_public" rejects it`, firewalldRemedy},
		{"firewalld", "reply", reply, "", ""},
		{"firewalld", "look-up", lookUp, `inet firewalld filter_INPUT drops: rule handle H of the chain "filter_IN_public" rejects it`, firewalldRemedy},
	}
	for _, c := range cases {
		t.Run(c.fixture+"/"+c.name, func(t *testing.T) {
			n := newNamespace(t)
			load(t, n, c.fixture)
			found := n.read(t).Obstacles(c.flow)
			if got := withoutHandles(say(found)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if len(found) > 0 && found[0].Remedy != c.remedy {
				t.Errorf("remedy %s\nwant %s", found[0].Remedy, c.remedy)
			}
		})
	}
}

func withoutHandles(s string) string {
	words := strings.Fields(s)
	for i := 1; i < len(words); i++ {
		if words[i-1] == "handle" {
			words[i] = "H"
		}
	}
	return strings.Join(words, " ")
}

// The remedies as nft has them: what ufw, firewalld and iptables make of theirs.
func TestRemediesRemove(t *testing.T) {
	cases := []struct{ fixture, remedy string }{
		{"admin-drop", ""}, // as printed
		{"docker", `
			nft insert rule ip filter DOCKER-USER iifname purple0 counter accept
			nft insert rule ip filter DOCKER-USER oifname purple0 ct state related,established counter accept`},
		{"ufw", "nft add rule ip filter ufw-user-forward iifname purple0 counter accept"},
		{"firewalld", "nft insert rule inet firewalld filter_FORWARD_ZONES iifname purple0 goto filter_FWD_trusted"},
	}
	for _, c := range cases {
		t.Run(c.fixture, func(t *testing.T) {
			n := newNamespace(t)
			load(t, n, c.fixture)
			found := n.read(t).Obstacles(out)
			if len(found) != 1 {
				t.Fatalf("%d obstacles, want 1: %s", len(found), say(found))
			}
			if c.remedy == "" {
				c.remedy = found[0].Remedy
			}
			n.script(t, c.remedy)
			for _, f := range []Flow{out, reply} {
				if left := n.read(t).Obstacles(f); left != nil {
					t.Errorf("after the remedy: %s", say(left))
				}
			}
			other := out
			other.In = "docker1"
			if n.read(t).Obstacles(other) == nil {
				t.Error("the remedy lets another interface through")
			}
		})
	}
}

func TestPrintedInputRemedyRemoves(t *testing.T) {
	n := newNamespace(t)
	load(t, n, "admin-drop")
	n.script(t, n.read(t).Obstacles(lookUp)[0].Remedy)
	if left := n.read(t).Obstacles(lookUp); left != nil {
		t.Error(say(left))
	}
	ssh := lookUp
	ssh.Protocol, ssh.Port = "tcp", 22
	if n.read(t).Obstacles(ssh) == nil {
		t.Error("the remedy opens more than the flow's port")
	}
}

// The rules are nft's, so what nft and the kernel make of them is tested too.
func TestRules(t *testing.T) {
	flow := out
	flow.Source = netip.MustParseAddr("10.77.0.2")
	cases := []struct{ rule, want string }{ // want: yes, no or maybe
		{`iifname "purple0"`, "yes"},
		{`iifname "purple1"`, "no"},
		{`iifname "purple*"`, "yes"},
		{`iifname "purple00*"`, "no"},
		{`iifname != "purple0"`, "no"},
		{`iifname { "lo", "purple0" }`, "yes"},
		{`iifname { "lo", "purple*" }`, "yes"},
		{`iifname { "lo", "pur" }`, "no"},
		{`iifname != { "lo", "docker*" }`, "yes"},
		{`iif "lo"`, "no"},
		{`iif != "lo"`, "yes"},
		{`oifname "eth0"`, "yes"},
		{`oifname . iifname { "eth0" . "purple0" }`, "yes"},
		{`oifname . iifname { "eth0" . "purple1" }`, "no"},
		{`meta nfproto ipv4`, "yes"},
		{`meta nfproto ipv6`, "no"},
		{`meta protocol ip`, "yes"},
		{`meta l4proto tcp`, "yes"},
		{`meta l4proto { udp, icmp }`, "no"},
		{`ip protocol tcp`, "yes"},
		{`ip saddr 10.77.0.2`, "yes"},
		{`ip saddr 10.0.0.0/8`, "yes"},
		{`ip saddr 10.128.0.0/9`, "no"},
		{`ip saddr 10.76.0.0/15`, "yes"},
		{`ip saddr != 10.77.0.0/16`, "no"},
		{`ip daddr { 10.0.0.0/8, 192.168.0.0/16 }`, "no"},
		{`ip daddr { 10.0.0.0/8, 203.0.113.0-203.0.113.9 }`, "yes"},
		{`ip daddr != { 10.0.0.0/8, 203.0.113.0-203.0.113.9 }`, "no"},
		{`ip saddr 10.77.0.1-10.77.0.3`, "yes"},
		{`ip saddr 10.77.0.3-10.77.0.4`, "no"},
		{`ip saddr @named`, "yes"},
		{`ip daddr @named`, "no"},
		{`ip daddr @empty`, "no"},
		{`ip6 saddr ::1`, "no"},
		{`tcp dport 443`, "yes"},
		{`tcp dport != 443`, "no"},
		{`tcp dport { 80, 400-500 }`, "yes"},
		{`tcp dport 440-450`, "yes"},
		{`tcp dport != 440-450`, "no"},
		{`tcp dport < 443`, "no"},
		{`tcp dport >= 443`, "yes"},
		{`udp dport 443`, "no"},
		{`th dport 443`, "yes"},
		{`tcp sport 1`, "maybe"},
		{`ct state new`, "yes"},
		{`ct state established,related`, "no"},
		{`ct state { new, related }`, "yes"},
		{`ct state invalid`, "no"},
		{`ct state != established`, "yes"},
		{`ct status dnat`, "no"},
		{`ct status snat`, "maybe"},
		{`counter log prefix "x" ct state new`, "yes"},
		{`limit rate 1/second`, "maybe"},
		{`meta mark 1`, "maybe"},
		{`meta mark & 0 == 0`, "yes"},
		{`fib saddr type local`, "maybe"},
		{`rt classid 1`, "maybe"},
		// An expression that is not understood writes the register that
		// the one before it has compared.
		{`meta l4proto tcp rt classid 1`, "maybe"},
		{`ip daddr . tcp dport { 203.0.113.1 . 443 }`, "yes"},
		{`ip daddr . tcp dport { 203.0.113.0/24 . 1-1000 }`, "maybe"},
		{`tcp flags syn`, "maybe"},
		{`ip version 4`, "maybe"},
		{`quota over 1 mbytes`, "maybe"},
	}
	const sets = "set named { type ipv4_addr; flags interval; elements = { 10.77.0.0/24, 10.77.1.0/24 }; }\nset empty { type ipv4_addr; }\n"
	n := newNamespace(t)
	for _, c := range cases {
		n.command(t, "flush ruleset\ntable inet t {\n"+sets+"chain c {\ntype filter hook forward priority 0; policy accept;\n"+c.rule+" drop\n}\n}\n", "nft", "-f", "-")
		got := map[string]string{"": "no"}
		for _, o := range n.read(t).Obstacles(flow) {
			got[""] = map[bool]string{true: "yes", false: "maybe"}[o.Certain]
		}
		if got[""] != c.want {
			t.Errorf("%s: %s, want %s", c.rule, got[""], c.want)
		}
	}
}

func TestReadSkips(t *testing.T) {
	n := newNamespace(t)
	n.command(t, `
table inet purple { chain forward { type filter hook forward priority 0; policy drop; }; }
table ip asleep { flags dormant; chain forward { type filter hook forward priority 0; policy drop; }; }
table bridge b { chain forward { type filter hook forward priority 0; policy drop; }; }
table ip6 six { chain forward { type filter hook forward priority 0; policy drop; }; }
table ip four { chain output { type filter hook output priority 0; policy drop; }; }
`, "nft", "-f", "-")
	r := n.read(t)
	if found := r.Obstacles(out); found != nil {
		t.Error(say(found))
	}
	if got, want := say(r.Obstacles(v6(out))), "ip6 six forward drops: its policy is drop"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLargeSetIsNotRead(t *testing.T) {
	n := newNamespace(t)
	var elements []string
	for i := range 2 * maxElements {
		elements = append(elements, fmt.Sprintf("10.1.%d.%d", i/250, i%250))
	}
	n.command(t, "table ip t {\nset s { type ipv4_addr; elements = { "+strings.Join(elements, ",")+" }; }\nchain c {\ntype filter hook forward priority 0;\nip daddr @s drop\n}\n}\n", "nft", "-f", "-")
	if got, want := withoutHandles(say(n.read(t).Obstacles(out))), `ip t c may drop: rule handle H of the chain "c" drops it`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func BenchmarkRead(b *testing.B) {
	for _, fixtures := range [][]string{nil, {"admin-drop"}, {"docker", "firewalld"}} {
		b.Run("rules="+strings.Join(fixtures, "+"), func(b *testing.B) {
			n := newNamespace(b)
			for _, f := range fixtures {
				load(b, n, f)
			}
			n.do(func() {
				for b.Loop() {
					if _, err := Read(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
