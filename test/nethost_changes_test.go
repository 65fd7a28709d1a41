//go:build integration

package test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the tests change about the test host for a while, and how it is seen
// that Purple has put everything back.

// withResolver makes the content /etc/resolv.conf, until the test ends.
func withResolver(t *testing.T, content string) {
	t.Helper()
	replaceResolver(t)
	if err := os.WriteFile("/etc/resolv.conf", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// withResolved lays out /run/systemd/resolve as systemd-resolved does, with
// uplink as the server that it would ask, and an answering 127.0.0.53.
func withResolved(t *testing.T, uplink string) {
	t.Helper()
	const dir = "/run/systemd/resolve"
	replaceResolver(t)
	sh(t, fmt.Sprintf(`
mkdir -p %[1]s
printf '# This is %[1]s/resolv.conf managed by man:systemd-resolved(8).\n# Do not edit.\nnameserver %[2]s\nsearch .\n' > %[1]s/resolv.conf
printf '# This is %[1]s/stub-resolv.conf managed by man:systemd-resolved(8).\n# Do not edit.\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n' > %[1]s/stub-resolv.conf
ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf`, dir, uplink))
	t.Cleanup(func() { sh(t, "rm -rf "+dir) })
	serveDNS(t, "stub", "127.0.0.53")
}

func replaceResolver(t *testing.T) {
	t.Helper()
	const kept = "/etc/resolv.conf.purple-test"
	sh(t, "if [[ -e /etc/resolv.conf || -L /etc/resolv.conf ]]; then mv /etc/resolv.conf "+kept+"; fi")
	t.Cleanup(func() {
		sh(t, "rm -f /etc/resolv.conf; if [[ -e "+kept+" || -L "+kept+" ]]; then mv "+kept+" /etc/resolv.conf; fi")
	})
}

// serveDNS runs a DNS server on an address of the host's, and gives its hits.
func serveDNS(t *testing.T, name, address string) (hits func() []hit) {
	t.Helper()
	return serveOn(t, "", name, "dns/"+address+"/53")
}

// serveOn runs servers in a network namespace until the test ends.
func serveOn(t *testing.T, namespace, name string, targets ...string) (hits func() []hit) {
	t.Helper()
	file := filepath.Join(tempDir(t), name+".hits")
	h := &netHost{namespace: namespace, hitFile: file}
	stop, err := background(h.probeCommand(append([]string{"serve", name, file}, targets...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return func() []hit { return lines[hit](t, file, 0) }
}

// withForwarding makes the host a router, until the test ends.
func withForwarding(t *testing.T) {
	t.Helper()
	before := sysctls(t)
	sh(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	t.Cleanup(func() {
		// Twice: a change of the host's setting is one of every interface's,
		// and writing what is there already is none.
		for range 2 {
			for name, value := range before {
				if strings.HasSuffix(name, "forward") || strings.HasSuffix(name, "forwarding") || strings.Contains(name, "_redirects") {
					_ = os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) // an interface that is gone
				}
			}
		}
	})
}

// droppingFirewalls drop what the host forwards and no rule of theirs lets
// pass, each in the shape of its model. The verdict of any one base chain is
// final for a packet, so Purple cannot allow it from its own table.
var droppingFirewalls = map[string]string{
	"docker": `
table ip filter {
	chain DOCKER-USER { counter return; }
	chain DOCKER-FORWARD { oifname "docker0" ct state related,established accept; iifname "docker0" accept; }
	chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; jump DOCKER-FORWARD; }
}
table ip6 filter {
	chain DOCKER-USER { counter return; }
	chain DOCKER-FORWARD { oifname "docker0" ct state related,established accept; iifname "docker0" accept; }
	chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER; jump DOCKER-FORWARD; }
}`,
	"ufw": `
table ip filter {
	chain ufw-user-forward { }
	chain ufw-before-forward { ct state related,established accept; ip protocol icmp accept; jump ufw-user-forward; }
	chain ufw-reject-forward { }
	chain FORWARD { type filter hook forward priority filter; policy drop; counter jump ufw-before-forward; counter jump ufw-reject-forward; }
}
table ip6 filter {
	chain ufw6-user-forward { }
	chain ufw6-before-forward { ct state related,established accept; jump ufw6-user-forward; }
	chain FORWARD { type filter hook forward priority filter; policy drop; counter jump ufw6-before-forward; }
}`,
	"firewalld": `
table inet firewalld {
	chain filter_FORWARD_POLICIES { iifname "virbr9" accept; }
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		jump filter_FORWARD_POLICIES
		ct state invalid drop
		reject with icmpx admin-prohibited
	}
}`,
	"admin": `
table inet admin {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname "wg0" accept
	}
}`,
}

// firewallNames are what a refusal must name: family, table, chain.
var firewallNames = map[string][]string{
	"docker":    {"ip", "filter", "FORWARD"},
	"ufw":       {"ip", "filter", "FORWARD"},
	"firewalld": {"inet", "firewalld", "filter_FORWARD"},
	"admin":     {"inet", "admin", "forward"},
}

// harmlessFirewalls do not stand in a sandbox's way.
var harmlessFirewalls = map[string]string{
	"admin who lets purple pass": `
table inet admin {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname "purple0" accept
	}
}`,
	"input only": `
table inet admin {
	chain input { type filter hook input priority filter; policy drop; iifname "lo" accept; ct state established,related accept; meta l4proto 58 accept; udp dport 20000-65535 accept; }
	chain forward { type filter hook forward priority filter; policy accept; }
}`,
	"drops others": `
table inet admin {
	chain forward { type filter hook forward priority filter; policy accept; iifname "pt-lan0" drop; ip daddr 192.0.2.0/24 drop; }
}`,
}

// withFirewall loads rules on the host for the time of a function.
func withFirewall(t *testing.T, name, rules string, during func()) {
	t.Helper()
	file := filepath.Join(tempDir(t), "rules.nft")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, "nft -f "+file)
	defer func() {
		for _, table := range regexp.MustCompile(`(?m)^table (\w+ \w+)`).FindAllStringSubmatch(rules, -1) {
			sh(t, "nft delete table "+table[1])
		}
	}()
	during()
}

// --- before and after --------------------------------------------------------

// sysctls are all readable net.* settings of the host's network namespace.
func sysctls(t *testing.T) map[string]string {
	t.Helper()
	values := map[string]string{}
	for _, root := range []string{"net/ipv4", "net/ipv6", "net/bridge", "net/netfilter"} {
		_ = filepath.WalkDir("/proc/sys/"+root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // an interface that has just gone, a module not loaded
			}
			if data, err := os.ReadFile(path); err == nil {
				values[strings.TrimPrefix(path, "/proc/sys/")] = strings.TrimSpace(string(data))
			}
			return nil
		})
	}
	delete(values, "net/netfilter/nf_conntrack_count")
	return values
}

// networkState is everything of the host's network that a run could change, as
// lines to compare.
func networkState(t *testing.T) []string {
	t.Helper()
	state := strings.Split(sh(t, `
ip -o link show | sed -E 's/^[0-9]+: /link /; s/ state [A-Z]+//; s/ qlen [0-9]+//; s/<[^>]*>//'
ip -o addr show | awk '{print "address", $2, $4}'
ip -4 route show table all | sed 's/^/route4 /; s/ linkdown//'
ip -6 route show table all | sed 's/^/route6 /; s/ linkdown//; s/ expires [0-9]+sec//'
ip rule | sed 's/^/rule4 /'; ip -6 rule | sed 's/^/rule6 /'
nft list ruleset | sed -E 's/packets [0-9]+ bytes [0-9]+//; s/^/nft /'
awk '$0 ~ / - nsfs / {print "namespace", $5}' /proc/self/mountinfo
ip netns list | awk '{print "netns", $1}'`), "\n")
	slices.Sort(state)
	return slices.DeleteFunc(state, func(line string) bool { return line == "" || strings.HasPrefix(line, "route6 multicast") })
}

// hostNetwork is the state and the sysctls at one moment.
type hostNetwork struct {
	state   []string
	sysctls map[string]string
}

func takeHostNetwork(t *testing.T) hostNetwork {
	t.Helper()
	return hostNetwork{networkState(t), sysctls(t)}
}

// changes are what is different now. A setting that a kernel module has
// or an interface has brought along is no change: the interface is one.
func (before hostNetwork) changes(t *testing.T) []string {
	t.Helper()
	after := takeHostNetwork(t)
	var diff []string
	for _, line := range after.state {
		if !slices.Contains(before.state, line) {
			diff = append(diff, "+ "+line)
		}
	}
	for _, line := range before.state {
		if !slices.Contains(after.state, line) {
			diff = append(diff, "- "+line)
		}
	}
	for name, value := range after.sysctls {
		if old, known := before.sysctls[name]; known && old != value {
			diff = append(diff, fmt.Sprintf("sysctl %s: %q, was %q", name, value, old))
		}
	}
	slices.Sort(diff)
	return diff
}
