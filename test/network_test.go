//go:build integration

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// --- sandboxes ---------------------------------------------------------------

// netProfile writes a profile that may reach outgoing and publishes incoming.
// Both are YAML lists; more is added at the top level.
func netProfile(t *testing.T, outgoing, incoming, more string) string {
	t.Helper()
	return writeProfile(t, fmt.Sprintf("name: net\nextends: ai-dev-safe\nresources: {cpu_shares: unlimited}\nnetwork:\n  isolated: false\n  allow_outgoing: %s\n  allow_incoming: %s\n%s", outgoing, incoming, more))
}

func outgoing(t *testing.T, list string) string { return netProfile(t, list, "[]", "") }

// inside runs a command under a profile, in the directory of the probe.
func inside(t *testing.T, profile string, args ...string) result {
	t.Helper()
	return call{dir: bin, args: append([]string{"run", "--profile", profile, "--"}, args...)}.run(t)
}

func probeInside[T any](t *testing.T, profile string, args ...string) T {
	t.Helper()
	return decode[T](t, inside(t, profile, append([]string{filepath.Join(bin, "probe")}, args...)...))
}

// dialInside tries flows as the command of one run.
func dialInside(t *testing.T, profile string, targets ...string) map[string]attempt {
	t.Helper()
	return byTarget(probeInside[[]attempt](t, profile, append([]string{"dial"}, targets...)...))
}

// sandbox is a run that goes on in the background.
type sandbox struct {
	unit      string
	namespace string // a path, for enter
}

func startSandbox(t *testing.T, profile string, args ...string) sandbox {
	t.Helper()
	c := call{dir: bin, args: append([]string{"run", "--detach", "--profile", profile, "--"}, args...)}
	s := sandbox{unit: strings.TrimSpace(c.run(t).mustSucceed(t).stdout)}
	t.Cleanup(func() { sh(t, "systemctl stop "+s.unit+" 2>/dev/null || :") })
	s.namespace = waitForNamespace(t, s.unit)
	return s
}

func waitForNamespace(t *testing.T, unit string) string {
	t.Helper()
	var namespace string
	eventually(t, unit+" has a network namespace", limit, func() bool {
		namespace = namespaceOf(t, unit)
		return namespace != ""
	})
	if namespace == "" {
		t.Fatalf("%s\n%s", sh(t, "systemctl status "+unit+" || test $? = 3 -o $? = 4"), sh(t, "journalctl -o short-precise -u "+unit))
	}
	return namespace
}

// sandboxServer serves in a sandbox, and waits until it does.
func sandboxServer(t *testing.T, profile, name, target, port string) sandbox {
	t.Helper()
	s := startSandbox(t, profile, filepath.Join(bin, "probe"), "serve", name, "-", target)
	local := "tcp/127.0.0.1/" + port
	eventually(t, name+" listens", time.Minute, func() bool {
		return dialFrom(t, s.namespace, local)[local].Answer == name
	})
	return s
}

// namespaceOf is that of the oldest process of the unit whose network is not
// the host's: the supervisor may have stayed outside. It is named by the
// process and not held open, for that would keep the namespace alive.
func namespaceOf(t *testing.T, unit string) string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pidsOf(t, unit) {
		path := "/proc/" + strconv.Itoa(pid) + "/ns/net"
		if link, err := os.Readlink(path); err == nil && link != own {
			return path
		}
	}
	return ""
}

func pidsOf(t *testing.T, unit string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(data), "/"+unit) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// addresses are the global ones of a sandbox's uplink: IPv4 first, then IPv6.
func (s sandbox) addresses(t *testing.T) (four, six string) {
	t.Helper()
	four = strings.TrimSpace(s.sh(t, `ip -4 -o addr show dev eth0 scope global | awk '{sub("/.*","",$4); print $4}'`))
	six = strings.TrimSpace(s.sh(t, `ip -6 -o addr show dev eth0 scope global | awk '{sub("/.*","",$4); print $4}'`))
	if net.ParseIP(four) == nil || net.ParseIP(six) == nil {
		t.Fatalf("eth0 has %q and %q: %s", four, six, s.sh(t, "ip addr"))
	}
	return four, six
}

// gateways are where the default routes of a sandbox lead.
func (s sandbox) gateways(t *testing.T) []string {
	t.Helper()
	found := strings.Fields(s.sh(t, `(ip -4 route show default; ip -6 route show default) | grep -o 'via [^ ]*' | cut -d' ' -f2`))
	if len(found) == 0 {
		t.Fatalf("no gateways: %s", s.sh(t, "ip route; ip -6 route"))
	}
	return found
}

// sh runs a script of the host's in the sandbox's network namespace, as root.
func (s sandbox) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := enter(s.namespace, "bash", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// noSandboxes waits until no run is left.
func noSandboxes(t *testing.T) {
	t.Helper()
	eventually(t, "no unit is left", time.Minute, func() bool {
		return strings.TrimSpace(sh(t, "systemctl list-units --all --plain --no-legend 'purple-*-????????.service' purplenet.service")) == ""
	})
}

// --- verdicts ----------------------------------------------------------------

// atOnce is how long a rejection may take, under emulation too. A packet that
// is dropped makes the caller wait longer: a SYN is repeated after a second.
const atOnce = 950

// mustReach: every flow worked, and the host of that name answered.
func mustReach(t *testing.T, got map[string]attempt, name string, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if a := got[target]; a.Outcome != "ok" || a.Answer != name {
			t.Errorf("%s must reach %s: %+v", target, name, a)
		}
	}
}

// mustReject: no flow worked, and each was told so at once.
func mustReject(t *testing.T, got map[string]attempt, targets ...string) {
	t.Helper()
	for _, target := range targets {
		a, tried := got[target]
		if !tried || a.Outcome == "ok" || a.Outcome == "timeout" || a.Call == "parse" || a.MS > atOnce {
			t.Errorf("%s must be rejected at once: %+v", target, a)
		}
	}
}

// mustNotReach: no flow worked; some destinations can only be silent.
func mustNotReach(t *testing.T, got map[string]attempt, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if a, tried := got[target]; !tried || a.Outcome == "ok" || a.Call == "parse" {
			t.Errorf("%s must not be reached: %+v", target, a)
		}
	}
}

// noPacketsTo: not one packet to these addresses left a sandbox, as seen on
// the host's own links.
func (s *watch) noPacketsTo(t *testing.T, addresses ...string) {
	t.Helper()
	for _, p := range s.packetsAt(t, s.w.host, to(addresses...)) {
		if notHousekeeping(p) && !isAnswer(p) {
			t.Errorf("a packet left the sandbox: %v", p)
		}
	}
}

// isAnswer matches what the servers of the suite send; they never begin.
func isAnswer(p packet) bool {
	return strings.HasPrefix(p.Source, "198.51.100.") || strings.HasPrefix(p.Source, "2001:db8:1:") || slices.Contains(privateHosts, p.Source)
}

// private are addresses that a bare port must never reach, and which answer
// the host itself: see TestNetworkTopology.
var (
	privateHosts  = []string{lanHost, lanHost6, lanHostTen, "172.16.9.2", "100.64.9.2", metadata, metadata6, "169.254.7.7"}
	hostAddresses = []string{hostPublic, hostPublic6, hostLAN, hostLAN6, hostTen, "169.254.169.1", "fd00:ec2::1"}
	groups        = []string{"224.0.0.1", "224.0.0.251", "239.1.2.3", "255.255.255.255", "192.168.77.255"}
	groups6       = []string{"ff02::1%eth0", "ff02::fb%eth0", "ff05::2%eth0", "ff0e::1%eth0"}
)

// --- what may go out ---------------------------------------------------------

func TestListedPortIsReached(t *testing.T) {
	w := theWorld(t)
	seen := w.watch(t)
	allowed := flows([]string{"tcp", "udp"}, []string{publicWeb, publicWeb6}, "443")
	denied := flows([]string{"tcp", "udp"}, []string{publicWeb, publicWeb6}, "80", "8443", "53", "442", "444")
	got := dialInside(t, outgoing(t, "[443]"), append(allowed, denied...)...)
	mustReach(t, got, "public", allowed...)
	mustReject(t, got, denied...)
	if hits := seen.hitsAt(t, w.public); len(hits) != len(allowed) {
		t.Errorf("%d hits, %d flows were allowed: %+v", len(hits), len(allowed), hits)
	}
	if leaked := seen.packetsAt(t, w.public, func(p packet) bool { return !p.Outgoing && p.Port != 443 && notHousekeeping(p) }); len(leaked) > 0 {
		t.Errorf("leaked: %v", leaked)
	}
	for _, p := range seen.packetsAt(t, w.public, to(publicWeb, publicWeb6)) {
		if p.Source != hostPublic && p.Source != hostPublic6 {
			t.Errorf("not masqueraded: %v", p)
		}
	}
}

// N12: nothing listed, nothing allowed.
func TestNothingListedNothingAllowed(t *testing.T) {
	w := theWorld(t)
	seen := w.watch(t)
	all := slices.Concat(privateHosts, hostAddresses, []string{publicWeb, publicWeb6})
	targets := flows([]string{"tcp", "udp"}, all, "443")
	got := dialInside(t, outgoing(t, "[]"), targets...)
	mustReject(t, got, targets...)
	seen.nothingSeen(t, w.all()...)
	seen.noPacketsTo(t, all...)
}

func TestBarePortReachesPublicAddressesOnly(t *testing.T) {
	w := theWorld(t)
	stub := serveOn(t, "", "stub", "tcp/127.0.0.53/53,444", "udp/127.0.0.53/53,444")
	seen := w.watch(t)
	unicast := slices.Concat(privateHosts, hostAddresses)
	targets := flows([]string{"tcp", "udp"}, unicast, "443")
	mapped := flows([]string{"tcp", "udp"}, []string{"::ffff:" + lanHost, "::ffff:" + metadata, "::ffff:" + hostPublic}, "443")
	multicast := slices.Concat(flows([]string{"udp"}, groups, "443"), flows([]string{"udp"}, groups6, "443"))
	loopback := flows([]string{"tcp", "udp"}, []string{"127.0.0.1", "::1", "127.0.0.53", "0.0.0.0", "::"}, "443", "444")
	control := "tcp/" + publicWeb + "/443"
	got := dialInside(t, outgoing(t, "[443, 444]"), slices.Concat(targets, mapped, multicast, loopback, []string{control})...)
	mustReach(t, got, "public", control)
	mustReject(t, got, slices.Concat(targets, mapped)...)
	mustNotReach(t, got, slices.Concat(multicast, loopback)...)
	seen.nothingSeen(t, w.host, w.lan, w.metadata)
	seen.noPacketsTo(t, slices.Concat(unicast, groups, []string{"ff02::1", "ff02::fb", "ff05::2", "ff0e::1"})...)
	if hits := stub(); len(hits) > 0 {
		t.Errorf("the host's loopback was reached: %+v", hits)
	}
}

// N7: the bridge, the gateway and the other end of the uplink are the host.
func TestGatewayIsTheHost(t *testing.T) {
	w := theWorld(t)
	withResolver(t, "nameserver "+publicDNS+"\n")
	s := startSandbox(t, outgoing(t, "[443, 53]"), "sleep", "300")
	gateways := s.gateways(t)
	bridge := strings.Fields(sh(t, `ip -o addr show dev purple0 | awk '{sub("/.*","",$4); print $4}'`))
	var targets []string
	for _, address := range slices.Concat(gateways, bridge) {
		if strings.HasPrefix(address, "fe80:") {
			address += "%eth0"
		}
		targets = append(targets, flows([]string{"tcp", "udp"}, []string{address}, "443", "9999")...)
	}
	seen := w.watch(t)
	got := dialFrom(t, s.namespace, targets...)
	mustNotReach(t, got, targets...)
	if hits := seen.hitsAt(t, w.host); len(hits) > 0 {
		t.Errorf("the host was reached: %+v", hits)
	}
	control := fmt.Sprintf("tcp/%s/443", strings.TrimSuffix(bridge[0], "%eth0"))
	mustReach(t, dialFrom(t, "", control), "host", control)
}

// N2: the rules deny whatever the sockets would let pass. The raw packets are
// root's, sent in the sandbox's network namespace: the command can send none.
func TestEveryProtocolIsDenied(t *testing.T) {
	w := theWorld(t)
	profile := outgoing(t, "[443]")
	seen := w.watch(t)
	addresses := []string{publicWeb, publicWeb6, lanHost, lanHost6, metadata, metadata6, hostPublic, hostPublic6}
	sockets := flows([]string{"icmp", "sctp", "mptcp", "raw1", "raw58", "raw132", "raw47", "raw255"}, addresses, "80")
	sockets = append(sockets, flows([]string{"tcp", "udp"}, addresses, "80")...)
	mustNotReach(t, dialInside(t, profile, sockets...), sockets...)
	seen.nothingSeen(t, w.all()...)

	s := startSandbox(t, profile, "sleep", "300")
	raw := flows([]string{"raw1", "raw2", "raw4", "raw6", "raw17", "raw33", "raw41", "raw47", "raw50", "raw58", "raw103", "raw132", "raw136", "raw253"}, addresses, "80")
	raw = append(raw, flows([]string{"raw132", "raw33", "raw136"}, addresses, "443")...)
	raw = append(raw, flows([]string{"raw6", "raw17"}, addresses[2:], "443")...)
	raw = append(raw, flows([]string{"icmp", "mptcp"}, addresses, "80")...)
	dialFrom(t, s.namespace, raw...) // what it says is no matter, what arrives is
	seen.nothingSeen(t, w.all()...)
	seen.noPacketsTo(t, addresses...)

	control := "raw17/" + publicWeb + "/443"
	before := w.public.counted(t, publicWeb, protoUDP)
	dialFrom(t, s.namespace, control)
	if len(seen.packetsAt(t, w.public, func(p packet) bool { return p.Dest == publicWeb && p.Protocol == protoUDP })) != 1 || w.public.counted(t, publicWeb, protoUDP) != before+1 {
		t.Errorf("control: %s was not seen", control)
	}
}

// Answers pass as established, and any process may bind to any IPv6 address: no
// command makes up the peer that it then answers.
func TestMadeUpPeerOpensNothing(t *testing.T) {
	w := theWorld(t)
	profile := outgoing(t, "[443]")
	seen := w.watch(t)
	targets := flows([]string{"answer"}, []string{publicWeb, publicWeb6, lanHost, lanHost6, metadata, metadata6, hostPublic, hostPublic6}, "9999")
	mustNotReach(t, dialInside(t, profile, targets...), targets...)
	seen.nothingSeen(t, w.all()...)
	// A denied connection on the loopback interface is none of it.
	local := flows([]string{"tcp"}, []string{"127.0.0.1", "::1", lanHost, lanHost6}, "9999")
	for target, got := range dialInside(t, profile, local...) {
		if got.Outcome != "ECONNREFUSED" {
			t.Errorf("%s: %+v, want it refused at once", target, got)
		}
	}
}

// A CIDR entry names a private range on purpose, for its port only; it does
// not reach the host's own address in that range.
func TestPrivateRangeOnPurpose(t *testing.T) {
	w := theWorld(t)
	seen := w.watch(t)
	allowed := []string{"tcp/" + lanHost + "/443", "tcp/" + lanHost6 + "/5432", "udp/" + lanHost6 + "/5432", "tcp/::ffff:" + lanHost + "/443"}
	denied := []string{
		"udp/" + lanHost + "/443", "tcp/" + lanHost + "/80", "tcp/" + lanHost + "/5432", "tcp/" + lanHostTen + "/443",
		"tcp/" + lanHost6 + "/443", "tcp/" + publicWeb + "/443", "tcp/" + publicWeb6 + "/5432",
		"tcp/" + hostLAN + "/443", "tcp/" + hostLAN6 + "/5432", "tcp/" + metadata + "/443",
	}
	got := dialInside(t, outgoing(t, `["192.168.77.0/24:443/tcp", "[fd77::/64]:5432"]`), append(allowed, denied...)...)
	mustReach(t, got, "lan", allowed...)
	mustReject(t, got, denied...)
	seen.nothingSeen(t, w.host, w.public, w.metadata)
	if hits := seen.hitsAt(t, w.lan); len(hits) != len(allowed) {
		t.Errorf("%+v", hits)
	}
}

// The host itself is reached by an entry with one address of its own, there.
func TestHostAddressOnPurpose(t *testing.T) {
	w := theWorld(t)
	seen := w.watch(t)
	allowed := "tcp/" + hostTen + "/5432"
	denied := []string{"tcp/" + hostTen + "/443", "tcp/" + hostLAN + "/5432", "tcp/" + hostPublic + "/5432", "tcp/" + lanHostTen + "/5432", "tcp/127.0.0.1/5432", "udp/" + hostTen + "/5432"}
	got := dialInside(t, outgoing(t, `["10.9.0.1:5432/tcp"]`), append(denied, allowed)...)
	mustReach(t, got, "host", allowed)
	mustReject(t, got, denied...)
	if hits := seen.hitsAt(t, w.host); len(hits) != 1 {
		t.Errorf("%+v", hits)
	}
	everywhere := []string{"tcp/" + hostTen + "/5432", "tcp/" + hostLAN6 + "/5432"}
	got = dialInside(t, outgoing(t, `["0.0.0.0/0:5432", "[::/0]:5432"]`), everywhere...)
	mustReject(t, got, everywhere...)
}

func TestFormsOfEntries(t *testing.T) {
	theWorld(t)
	for _, c := range []struct {
		entries         string
		allowed, denied []string
	}{
		{`["443/tcp"]`, []string{"tcp/" + publicWeb + "/443"}, []string{"udp/" + publicWeb + "/443", "tcp/" + publicWeb + "/80"}},
		{`["443/udp"]`, []string{"udp/" + publicWeb6 + "/443"}, []string{"tcp/" + publicWeb6 + "/443"}},
		{`["8000-8100"]`, []string{"tcp/" + publicWeb + "/8000", "udp/" + publicWeb6 + "/8080"}, []string{"tcp/" + publicWeb + "/443", "tcp/" + publicWeb + "/8443", "tcp/" + publicWeb + "/7999", "tcp/" + publicWeb + "/8101"}},
		{`["198.51.100.10:80"]`, []string{"tcp/" + publicWeb + "/80"}, []string{"tcp/198.51.100.11/80", "tcp/" + publicWeb + "/443", "tcp/" + publicWeb6 + "/80"}},
		{`["[2001:db8:1::10]:80/tcp"]`, []string{"tcp/" + publicWeb6 + "/80"}, []string{"tcp/2001:db8:1::11/80", "udp/" + publicWeb6 + "/80", "tcp/" + publicWeb + "/80"}},
		{`[80, "443", "8000-8100/udp"]`, []string{"tcp/" + publicWeb + "/80", "tcp/" + publicWeb6 + "/443", "udp/" + publicWeb + "/8080"}, []string{"tcp/" + publicWeb + "/8080"}},
	} {
		t.Run(c.entries, func(t *testing.T) {
			got := dialInside(t, outgoing(t, c.entries), append(c.allowed, c.denied...)...)
			mustReach(t, got, "public", c.allowed...)
			mustReject(t, got, c.denied...)
		})
	}
}

// Errors have their place in the file, and nothing is run or left.
func TestBadNetworkEntries(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	before := takeHostNetwork(t)
	for entry, texts := range map[string][]string{
		"0": {"port"}, "70000": {"port"}, "-1": {"port"}, `"https"`: {"443"}, `"443-80"`: {"80-443"}, `"443/sctp"`: {"tcp or udp"},
		`"example.com:443"`: {"address"}, `"10.1.2.0/16:443"`: {"10.1.0.0/16"}, `"10.1.0.0/33:443"`: {"10.1.0.0/33"},
		`"fd00::1:443"`: {"brackets"}, `"::ffff:10.0.0.1"`: {"brackets"}, `"10.1.0.0/16"`: {"port"}, `""`: {"port"},
	} {
		profile := outgoing(t, "["+entry+"]")
		inside(t, profile, "echo", "ran").mustRefuse(t, 125, append(texts, "test.yaml:6:20: network.allow_outgoing[0]")...)
	}
	for entry, text := range map[string]string{"0": "port", "70000": "port", `"http"`: "80", `"name:80"`: "address", `"127.0.0.0/8:80"`: "address"} {
		profile := netProfile(t, "[]", "["+entry+"]", "")
		inside(t, profile, "echo", "ran").mustRefuse(t, 125, text, "test.yaml:7:20: network.allow_incoming[0]")
	}
	for _, entry := range []string{`"10.200.0.0"`, `"10.200.0.1/24"`, `"8.8.8.0/24"`, `"10.200.0.0/31"`, `"fd00::/64"`, "24", `"192.168.77.0/24"`} {
		profile := writeProfile(t, "extends: ai-dev-safe\nnetwork:\n  isolated: false\n  address_range: "+entry+"\n")
		inside(t, profile, "echo", "ran").mustRefuse(t, 125, "network.address_range")
	}
	if changes := before.changes(t); len(changes) > 0 {
		t.Errorf("refused runs have left:\n%s", strings.Join(changes, "\n"))
	}
}

func TestAddressRange(t *testing.T) {
	theWorld(t)
	profile := writeProfile(t, "name: net\nextends: ai-dev-safe\nnetwork:\n  isolated: false\n  allow_outgoing: [443]\n  address_range: \"10.200.0.0/24\"\n")
	s := startSandbox(t, profile, "sleep", "300")
	four, six := s.addresses(t)
	if !strings.HasPrefix(four, "10.200.0.") || !strings.HasPrefix(six, "fd") {
		t.Errorf("%s, %s", four, six)
	}
	control := "tcp/" + publicWeb + "/443"
	mustReach(t, dialInside(t, profile, control), "public", control)
}

// --- names -------------------------------------------------------------------

// resolverSetups are ways in which hosts look names up. Each gives what the
// sandbox may then reach on 53 beside public addresses.
var resolverSetups = map[string]func(t *testing.T, w *netHosts) (allowed []string){
	"public": func(t *testing.T, _ *netHosts) []string {
		withResolver(t, "nameserver "+publicDNS+"\nnameserver "+publicDNS6+"\n")
		return nil
	},
	"LAN": func(t *testing.T, _ *netHosts) []string {
		withResolver(t, "nameserver "+lanHost+"\n")
		return []string{lanHost}
	},
	"LAN, IPv6": func(t *testing.T, _ *netHosts) []string {
		withResolver(t, "nameserver "+lanHost6+"\n")
		return []string{lanHost6}
	},
	"the host's own LAN address": func(t *testing.T, _ *netHosts) []string {
		withResolver(t, "nameserver "+hostLAN+"\n")
		serveDNS(t, "own", hostLAN)
		return []string{hostLAN}
	},
	"systemd-resolved, public uplink": func(t *testing.T, _ *netHosts) []string {
		withResolved(t, publicDNS)
		return nil
	},
	"systemd-resolved, LAN uplink": func(t *testing.T, _ *netHosts) []string {
		withResolved(t, lanHost)
		return []string{lanHost}
	},
}

func TestNamesAreResolved(t *testing.T) {
	w := theWorld(t)
	for name, setUp := range resolverSetups {
		t.Run(name, func(t *testing.T) {
			allowed := setUp(t, w)
			if out := sh(t, "getent ahosts web.test"); !strings.Contains(out, publicWeb) {
				t.Fatalf("control: %s", out)
			}
			w.testResolution(t, outgoing(t, "[443, 53]"), allowed)
			w.testNoResolution(t, outgoing(t, "[443]"))
		})
	}
}

// testResolution: names work, and 53 reaches the resolvers and no other
// private address.
func (w *netHosts) testResolution(t *testing.T, profile string, allowed []string) {
	r := inside(t, profile, "sh", "-c", "getent ahosts web.test; cat /etc/resolv.conf").mustSucceed(t)
	if !strings.Contains(r.stdout, publicWeb) || !strings.Contains(r.stdout, publicWeb6) || strings.Contains(r.stdout, "nameserver 127.") {
		t.Errorf("%s", r.stdout)
	}
	seen := w.watch(t)
	others := slices.DeleteFunc(slices.Concat(privateHosts, hostAddresses), func(a string) bool { return slices.Contains(allowed, a) })
	got := probeInside[map[string]string](t, profile, "ask", strings.Join(others, ","), "canary-"+strings.Repeat("x", 50)+".test")
	if len(got) != 2*len(others) {
		t.Errorf("%v", got)
	}
	for server, code := range got {
		if strings.HasPrefix(code, "RCode") {
			t.Errorf("%s has answered: %s", server, code)
		}
	}
	for _, h := range w.all() {
		for _, hit := range seen.hitsAt(t, h) {
			t.Errorf("a canary arrived: %+v", hit)
		}
	}
	for _, server := range allowed {
		got := probeInside[map[string]string](t, profile, "ask", server, "web.test")
		if got["udp "+server] != "RCodeSuccess" || got["tcp "+server] != "RCodeSuccess" {
			t.Errorf("the resolver %s: %v", server, got)
		}
		others := flows([]string{"tcp", "udp"}, []string{server}, "80", "853", "5353")
		mustReject(t, dialInside(t, profile, others...), others...)
	}
}

// testNoResolution: without 53 no name leaves, by whatever way.
func (w *netHosts) testNoResolution(t *testing.T, profile string) {
	seen := w.watch(t)
	r := inside(t, profile, "sh", "-c", "getent ahosts canary-a.test || getent hosts canary-b.test || getent ahosts web.test")
	if r.status == 0 || strings.Contains(r.stdout, publicWeb) {
		t.Errorf("a name was resolved without 53: %+v", r)
	}
	targets := flows([]string{"tcp", "udp"}, []string{publicDNS, publicDNS6, foreignDNS, lanHost, hostLAN}, "53", "853", "5353")
	mustReject(t, dialInside(t, profile, targets...), targets...)
	for _, h := range w.all() {
		for _, hit := range seen.hitsAt(t, h) {
			t.Errorf("a question left without 53: %+v", hit)
		}
	}
}

// A public resolver that is not the host's is a public address like others;
// with an entry for one resolver it is not reached.
func TestForeignResolver(t *testing.T) {
	w := theWorld(t)
	withResolver(t, "nameserver "+publicDNS+"\n")
	seen := w.watch(t)
	profile := outgoing(t, `["198.51.100.53:53"]`)
	if r := inside(t, profile, "getent", "ahosts", "web.test"); !strings.Contains(r.stdout, publicWeb) {
		t.Errorf("%+v", r)
	}
	for name, code := range probeInside[map[string]string](t, profile, "ask", foreignDNS, "canary-foreign.test") {
		if strings.HasPrefix(code, "RCode") {
			t.Errorf("%s: %s", name, code)
		}
	}
	for _, hit := range seen.hitsAt(t, w.public) {
		if strings.Contains(hit.Question, "canary") {
			t.Errorf("%+v", hit)
		}
	}
}

// N10: sockets of the host's name services would leave the network namespace.
func TestNameServiceSocketsAreUnreachable(t *testing.T) {
	theWorld(t)
	withResolver(t, "nameserver "+publicDNS+"\n")
	sockets := []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/avahi-daemon/socket"}
	var accepted atomic.Int32
	for _, path := range sockets {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				accepted.Add(1)
				conn.Close()
			}
		}()
	}
	for name, answer := range outside[map[string]string](t, append([]string{"connect"}, sockets...)...) {
		if answer != "ok" {
			t.Errorf("control: %s: %s", name, answer)
		}
	}
	eventually(t, "the control is accepted", 5*time.Second, func() bool { return int(accepted.Load()) >= len(sockets) })
	before := accepted.Load()
	profile := outgoing(t, "[443, 53]")
	for name, answer := range probeInside[map[string]string](t, profile, append([]string{"connect"}, append(sockets, "/var/run/nscd/socket")...)...) {
		if answer == "ok" {
			t.Errorf("%s can be reached", name)
		}
	}
	inside(t, outgoing(t, "[443]"), "getent", "hosts", "canary-nss.test")
	if got := accepted.Load() - before; got != 0 {
		t.Errorf("%d connections to the host's name services", got)
	}
}

// --- what may come in --------------------------------------------------------

func TestPublishedPort(t *testing.T) {
	theWorld(t)
	sandboxServer(t, netProfile(t, "[]", "[8080]", ""), "published", "tcp/*/8080", "8080")
	local := flows([]string{"tcp"}, []string{"127.0.0.1", "::1"}, "8080")
	mustReach(t, dialFrom(t, "", local...), "published", local...)
	others := flows([]string{"tcp"}, []string{hostLAN, hostLAN6, hostPublic, hostPublic6, hostTen}, "8080")
	mustNotReach(t, dialFrom(t, "", others...), others...)
	fromLAN := flows([]string{"tcp"}, []string{hostLAN, hostLAN6, hostTen}, "8080")
	mustNotReach(t, dialFrom(t, "pt-lan", fromLAN...), fromLAN...)
	fromPublic := flows([]string{"tcp"}, []string{hostPublic, hostPublic6}, "8080")
	mustNotReach(t, dialFrom(t, "pt-public", fromPublic...), fromPublic...)
}

func TestPublishedEverywhere(t *testing.T) {
	theWorld(t)
	sandboxServer(t, netProfile(t, "[]", `["0.0.0.0:8080", "[::]:8081"]`, ""), "published", "tcp/*/8080,8081", "8080")
	four := flows([]string{"tcp"}, []string{hostLAN, hostTen}, "8080")
	six := flows([]string{"tcp"}, []string{hostLAN6}, "8081")
	mustReach(t, dialFrom(t, "pt-lan", append(four, six...)...), "published", append(four, six...)...)
	mustReach(t, dialFrom(t, "pt-public", "tcp/"+hostPublic+"/8080"), "published", "tcp/"+hostPublic+"/8080")
	unmeant := []string{"tcp/" + hostLAN6 + "/8080"}
	mustNotReach(t, dialFrom(t, "pt-lan", unmeant...), unmeant...)
}

// Only that port: the sandbox's others are nobody's, and it calls nobody.
func TestPublishedPortOpensNothingElse(t *testing.T) {
	w := theWorld(t)
	s := sandboxServer(t, netProfile(t, "[]", "[8080]", ""), "published", "tcp/*/8080,9998", "9998")
	four, six := s.addresses(t)
	targets := flows([]string{"tcp"}, []string{"127.0.0.1", "::1", four, six}, "9998")
	mustNotReach(t, dialFrom(t, "", targets...), targets...)
	seen := w.watch(t)
	out := flows([]string{"tcp", "udp"}, []string{publicWeb, lanHost, hostLAN}, "8080", "443")
	mustNotReach(t, dialFrom(t, s.namespace, out...), out...)
	seen.nothingSeen(t, w.all()...)
}

func TestPortTaken(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	before := takeHostNetwork(t)
	profile := netProfile(t, "[]", "[8080]", "")
	for _, address := range []string{"127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		inside(t, profile, "echo", "ran").mustRefuse(t, 125, "8080")
		listener.Close()
	}
	if changes := before.changes(t); len(changes) > 0 {
		t.Errorf("refused runs have left:\n%s", strings.Join(changes, "\n"))
	}
	s := sandboxServer(t, profile, "first", "tcp/*/8080", "8080")
	inside(t, profile, "echo", "ran").mustRefuse(t, 125, "8080")
	mustReach(t, dialFrom(t, "", "tcp/127.0.0.1/8080"), "first", "tcp/127.0.0.1/8080")
	sh(t, "systemctl stop "+s.unit)
	eventually(t, "the port is free again", time.Minute, func() bool {
		listener, err := net.Listen("tcp", "127.0.0.1:8080")
		if err == nil {
			listener.Close()
		}
		return err == nil
	})
}

// N13: what listens in a sandbox and is not published is its own.
func TestUnpublishedPortIsUnreachable(t *testing.T) {
	w := theWorld(t)
	first := sandboxServer(t, outgoing(t, "[8443]"), "first", "tcp/*/8443", "8443")
	second := startSandbox(t, outgoing(t, "[8443]"), "sleep", "300")
	four, six := first.addresses(t)
	watched, err := startCapture(first.namespace, filepath.Join(tempDir(t), "packets"))
	if err != nil {
		t.Fatal(err)
	}
	defer watched.stop()
	targets := flows([]string{"tcp"}, []string{four, six}, "8443")
	for _, namespace := range []string{"", "pt-lan", "pt-public"} { // the host is the others' router
		t.Logf("from %q", namespace)
		mustNotReach(t, dialFrom(t, namespace, targets...), targets...)
	}
	seen := w.watch(t)
	sibling := append(targets, flows([]string{"udp", "raw1", "raw132", "raw17"}, []string{four, six}, "8443")...)
	mustReject(t, byTarget(probeInside[[]attempt](t, outgoing(t, "[8443]"), append([]string{"dial"}, targets...)...)), targets...)
	dialFrom(t, second.namespace, sibling...)
	dialFrom(t, first.namespace, "tcp/127.0.0.1/8443") // the barrier: what came before is captured
	eventually(t, "the barrier is captured", 10*time.Second, func() bool {
		return slices.ContainsFunc(lines[packet](t, watched.file, 0), func(p packet) bool { return p.Dest == "127.0.0.1" && p.Port == 8443 })
	})
	secondFour, secondSix := second.addresses(t)
	for _, p := range lines[packet](t, watched.file, 0) {
		if p.Source == secondFour || p.Source == secondSix {
			t.Errorf("a sibling's packet arrived: %v", p)
		}
	}
	seen.nothingSeen(t, w.lan, w.public, w.metadata)
}

func TestBindServiceCapability(t *testing.T) {
	theWorld(t)
	with := netProfile(t, "[]", `["8080"]`, "capabilities: {add: [CAP_NET_BIND_SERVICE]}\n")
	sandboxServer(t, with, "web", "tcp/*/80,8080", "80")
	const script = "import socket\ns = socket.socket()\ntry:\n    s.bind(('0.0.0.0', 80)); print('bound')\nexcept OSError as e:\n    print(e.errno)"
	if r := inside(t, outgoing(t, "[]"), "python3", "-c", script).mustSucceed(t); r.stdout != "13\n" {
		t.Errorf("without the capability: %q", r.stdout)
	}
	if r := inside(t, netProfile(t, "[]", "[]", "capabilities: {add: [CAP_NET_BIND_SERVICE]}\n"), "python3", "-c", script).mustSucceed(t); r.stdout != "bound\n" {
		t.Errorf("with the capability: %q", r.stdout)
	}
}

// --- the command cannot change it --------------------------------------------

// N5: the network namespace belongs to a user namespace that the command has
// no capability in, whatever the policy adds to its own.
func TestRulesCannotBeChanged(t *testing.T) {
	theWorld(t)
	profile := netProfile(t, "[443]", "[]", "capabilities: {add: [CAP_NET_BIND_SERVICE]}\n")
	const attempts = `
try() { if "$@" >/dev/null 2>&1; then echo "done: $*"; else echo "refused: $*"; fi; }
export PATH=$PATH:/usr/sbin:/sbin
try nft flush ruleset
try nft add table inet mine
try nft delete table inet purple
try ip link set eth0 down
try ip link add mine type veth
try ip addr add 192.0.2.1/24 dev eth0
try ip route add 192.0.2.0/24 dev eth0
try ip route replace default dev lo
try ip rule add from all lookup 7
try ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev eth0
try sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
try sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet'
try sh -c 'echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start'
sleep 300`
	s := startSandbox(t, profile, "bash", "-c", attempts)
	before := s.sh(t, "nft list ruleset | sed -E 's/packets [0-9]+ bytes [0-9]+//'; ip addr; ip route show table all; ip rule")
	var log string
	eventually(t, "every attempt is made", time.Minute, func() bool {
		log = sh(t, "journalctl -o cat _TRANSPORT=stdout -u "+s.unit)
		return strings.Contains(log, "ip_unprivileged_port_start")
	})
	if strings.Contains(log, "done: ") || strings.Count(log, "refused: ") != 13 {
		t.Errorf("%s", log)
	}
	after := s.sh(t, "nft list ruleset | sed -E 's/packets [0-9]+ bytes [0-9]+//'; ip addr; ip route show table all; ip rule")
	if before != after || !strings.Contains(before, "table inet purple") {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	// The same attempts are possible for root: the tools are there.
	if out := s.sh(t, "nft add table inet mine && ip addr add 192.0.2.1/24 dev eth0 && echo done"); out != "done\n" {
		t.Errorf("control: %s", out)
	}
}

// --- many --------------------------------------------------------------------

// starts is how many starts the race for the first packet gets: 200, and fewer
// under emulation, where one takes seconds (VM_STARTS of the Makefile).
func starts(t *testing.T) int {
	t.Helper()
	text := os.Getenv("PURPLE_TEST_STARTS")
	if text == "" {
		return 200
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 10 {
		t.Fatalf("PURPLE_TEST_STARTS=%s", text)
	}
	return n
}

// N3: the rules stand before the first packet can leave.
func TestFirstInstructionSendsNothing(t *testing.T) {
	w := theWorld(t)
	early := []string{"early", nobody + "/9999", publicWeb + "/9999", publicWeb6 + "/9999", lanHost + "/443", lanHost6 + "/443", metadata + "/443", hostPublic + "/443", hostLAN6 + "/443"}
	seen := w.watch(t)
	probeInside[map[string]string](t, outgoing(t, "[9999]"), early...)
	if len(seen.packetsAt(t, w.host, to(publicWeb, publicWeb6))) == 0 || len(seen.hitsAt(t, w.public)) != 2 {
		t.Fatal("control: the packet of an allowed flow is not seen")
	}
	seen = w.watch(t)
	profile := outgoing(t, "[443]")
	for range starts(t) {
		if got := probeInside[map[string]string](t, profile, early...); len(got) != len(early)-1 {
			t.Fatalf("%v", got)
		}
	}
	seen.nothingSeen(t, w.all()...)
	seen.noPacketsTo(t, nobody, publicWeb, publicWeb6, lanHost, lanHost6, metadata, hostPublic, hostLAN6)
}

func TestFiftyAtOnce(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	before := takeHostNetwork(t)
	profile := outgoing(t, "[443]")
	const count = 50
	units := make(chan string, count)
	failures := make(chan string, count)
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	t.Cleanup(func() { sh(t, "systemctl stop 'purple-net-*'") }) // also when it fails
	for range count {
		go func() {
			out, err := call{dir: bin, args: []string{"run", "--detach", "--profile", profile, "--", "sleep", "600"}}.command(ctx).CombinedOutput()
			if err != nil {
				failures <- fmt.Sprintf("%v: %s", err, out)
				return
			}
			units <- strings.TrimSpace(string(out))
		}()
	}
	taken := map[string]string{}
	for range count {
		select {
		case failure := <-failures:
			t.Errorf("cannot start: %s", failure)
		case unit := <-units:
			s := sandbox{unit: unit, namespace: waitForNamespace(t, unit)}
			four, six := s.addresses(t)
			for _, address := range []string{four, six} {
				if taken[address] != "" {
					t.Errorf("%s is %s's and %s's", address, taken[address], unit)
				}
				taken[address] = unit
			}
		}
	}
	control := "tcp/" + publicWeb + "/443"
	mustReach(t, dialInside(t, profile, control), "public", control)
	sh(t, "systemctl stop 'purple-net-*'")
	noSandboxes(t)
	mustBeAsBefore(t, before)
}

// --- what was denied is told -------------------------------------------------

// The fields of an event for denied connections.
const (
	fieldDestination = "PURPLE_DESTINATION"
	fieldPort        = "PURPLE_PORT"
	fieldProtocol    = "PURPLE_PROTOCOL"
	fieldCount       = "PURPLE_COUNT"
)

// deniedCount is the count in the last event of a unit for one flow: each event
// has that since the start of the run.
func deniedCount(t *testing.T, unit, protocol, address, port string) int {
	t.Helper()
	total := 0
	for line := range strings.Lines(sh(t, journalctlJSON+"-u "+unit)) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if event[fieldDestination] != address || event[fieldPort] != port || !strings.EqualFold(fmt.Sprint(event[fieldProtocol]), protocol) {
			continue
		}
		count, err := strconv.Atoi(fmt.Sprint(event[fieldCount]))
		if err != nil {
			t.Errorf("an event without a count: %s", line)
		}
		if event["_UID"] != fmt.Sprint(callerUID) || event["_TRANSPORT"] == "stdout" {
			t.Errorf("an event that anybody could have written: %s", line)
		}
		total = count
	}
	return total
}

// G6: one event names what was denied; what was allowed has none.
func TestDeniedConnectionsAreEvents(t *testing.T) {
	theWorld(t)
	targets := []string{"tcp/" + publicWeb + "/80", "udp/" + publicWeb6 + "/8443", "tcp/" + lanHost + "/443", "tcp/" + metadata + "/80", "tcp/" + publicWeb + "/443"}
	s := startSandbox(t, outgoing(t, "[443]"), "sh", "-c", filepath.Join(bin, "probe")+" dial "+strings.Join(targets, " ")+"; sleep 300")
	for _, c := range []struct{ protocol, address, port string }{
		{"udp", publicWeb6, "8443"}, {"tcp", publicWeb, "80"}, {"tcp", lanHost, "443"}, {"tcp", metadata, "80"},
	} {
		eventually(t, fmt.Sprintf("an event for %v", c), time.Minute, func() bool { return deniedCount(t, s.unit, c.protocol, c.address, c.port) >= 1 })
	}
	if deniedCount(t, s.unit, "udp", publicWeb6, "8443") != 1 {
		t.Error("one packet was sent, and more or less is counted")
	}
	if deniedCount(t, s.unit, "tcp", publicWeb, "443") != 0 {
		t.Error("an event for what was allowed")
	}
}

// R6: a flood is a few events, and their counts are its exact number.
func TestDeniedFloodIsCountedExactly(t *testing.T) {
	theWorld(t)
	const sent = 10000
	s := startSandbox(t, outgoing(t, "[443]"), "sh", "-c", fmt.Sprintf("%s flood %s/9999 %d; echo flooded; sleep 300", filepath.Join(bin, "probe"), publicWeb, sent))
	eventually(t, "the flood is over", time.Minute, func() bool {
		return strings.Contains(sh(t, "journalctl --sync; journalctl -o cat _TRANSPORT=stdout -u "+s.unit), "flooded")
	})
	if events := strings.Count(sh(t, "journalctl -o json -u "+s.unit), `"`+fieldCount+`"`); events > 200 {
		t.Errorf("%d events", events)
	}
	sh(t, "systemctl stop "+s.unit)
	// What comes faster than it is read, on a busy machine, the kernel has counted.
	eventually(t, "the total is told", time.Minute, func() bool { return len(accessEvents(t, s.unit, "connections-denied-total")) == 1 })
	if total := accessEvents(t, s.unit, "connections-denied-total")[0]; total.number(t, "PURPLE_TOTAL") != sent ||
		deniedCount(t, s.unit, "udp", publicWeb, "9999") != sent-int(total.number(t, "PURPLE_LOST")) {
		t.Errorf("%d sent: %v", sent, total.own())
	}
	// What ends with the run is told as well.
	short := strings.TrimSpace(call{dir: bin, args: []string{"run", "--detach", "--profile", outgoing(t, "[443]"), "--", filepath.Join(bin, "probe"), "flood", publicWeb + "/9999", "500"}}.run(t).mustSucceed(t).stdout)
	eventually(t, "the total of a short run is exact", time.Minute, func() bool { return deniedCount(t, short, "udp", publicWeb, "9999") == 500 })
}

// What the command prints is no event.
func TestEventsCannotBeForged(t *testing.T) {
	theWorld(t)
	s := startSandbox(t, outgoing(t, "[443]"), "sh", "-c", `printf 'PURPLE_DESTINATION=1.2.3.4\nPURPLE_PORT=1\nPURPLE_PROTOCOL=tcp\nPURPLE_COUNT=1\n'; logger --journald </dev/null; sleep 300`)
	eventually(t, "the output is in the journal", time.Minute, func() bool {
		return strings.Contains(sh(t, "journalctl -o cat _TRANSPORT=stdout -u "+s.unit), "PURPLE_COUNT=1")
	})
	if deniedCount(t, s.unit, "tcp", "1.2.3.4", "1") != 0 {
		t.Error("forged")
	}
}
