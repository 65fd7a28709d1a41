//go:build integration

package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The world around the test host, in network namespaces of the suite's own:
//
//	pt-public   the router to the internet, and the internet itself
//	pt-lan      another machine of the host's LAN
//	pt-metadata what a cloud answers on link-local addresses
//
// Each has servers that note every hit, a packet capture and an nft counter.
// Addresses are documentation ranges where the internet is meant.
const (
	publicWeb, publicWeb6   = "198.51.100.10", "2001:db8:1::10"
	publicDNS, publicDNS6   = "198.51.100.53", "2001:db8:1::53"
	foreignDNS              = "198.51.100.54"
	hostPublic, hostPublic6 = "203.0.113.7", "2001:db8:203::7"

	lanHost, lanHost6       = "192.168.77.2", "fd77::2"
	lanHostTen              = "10.9.0.2"
	hostLAN, hostLAN6       = "192.168.77.1", "fd77::1"
	hostTen                 = "10.9.0.1"
	metadata, metadata6     = "169.254.169.254", "fd00:ec2::254"
	nobody, testPort        = "198.51.100.99", "443"
	serverPorts             = "80,443,853,5353,5432,8000,8080,8443,9999"
	hostServerPorts         = "80,443,853,5353,5432,8443,9999" // 8080 is for the sandboxes
	protocolSCTP, protoGRE  = 132, 47
	protocolICMP, protoTCP  = 1, 6
	protocolICMP6, protoUDP = 58, 17
)

// layout makes the namespaces, links and addresses. The host gets default
// routes where it has none; a machine that has keeps them, and gets routes to
// the documentation ranges.
const layout = `
set -euo pipefail
for ns in pt-public pt-lan pt-metadata; do
	ip netns add $ns
	ip -n $ns link set lo up
done
join() { # NAMESPACE LINK-ON-THE-HOST
	ip link add "$2" type veth peer name eth0 netns "$1"
	# Its link-local address is there at once, and not in the middle of a test.
	sysctl -qw "net/ipv6/conf/$2/accept_dad=0"
	ip link set "$2" up
	ip -n "$1" link set eth0 up
}
on_host() { local link=$1 a; shift; for a in "$@"; do ip addr add "$a" dev "$link" $(nodad "$a"); done; }
in_namespace() { local ns=$1 link=$2 a; shift 2; for a in "$@"; do ip -n "$ns" addr add "$a" dev "$link" $(nodad "$a"); done; }
nodad() { case $1 in *:*) echo nodad ;; esac; }

join pt-public pt-wan0
on_host pt-wan0 203.0.113.7/24 2001:db8:203::7/64
in_namespace pt-public eth0 203.0.113.1/24 2001:db8:203::1/64
in_namespace pt-public lo 198.51.100.10/32 198.51.100.11/32 198.51.100.53/32 198.51.100.54/32 \
	2001:db8:1::10/128 2001:db8:1::11/128 2001:db8:1::53/128
ip -n pt-public route add default via 203.0.113.7
ip -n pt-public route add default via 2001:db8:203::7
ip route show default | grep -q . || ip route add default via 203.0.113.1
ip -6 route show default | grep -q . || ip route add default via 2001:db8:203::1
ip route add 198.51.100.0/24 via 203.0.113.1
ip route add 2001:db8:1::/64 via 2001:db8:203::1

join pt-lan pt-lan0
on_host pt-lan0 192.168.77.1/24 10.9.0.1/24 fd77::1/64
in_namespace pt-lan eth0 192.168.77.2/24 10.9.0.2/24 fd77::2/64
in_namespace pt-lan lo 172.16.9.2/32 100.64.9.2/32
ip route add 172.16.9.2 via 192.168.77.2
ip route add 100.64.9.2 via 192.168.77.2
ip -n pt-lan route add default via 192.168.77.1
ip -n pt-lan route add default via fd77::1

join pt-metadata pt-meta0
on_host pt-meta0 169.254.169.1/24 fd00:ec2::1/64
in_namespace pt-metadata eth0 169.254.169.254/24 fd00:ec2::254/64
in_namespace pt-metadata lo 169.254.7.7/32
ip route add 169.254.7.7 via 169.254.169.254
ip -n pt-metadata route add default via 169.254.169.1
ip -n pt-metadata route add default via fd00:ec2::1

# The kernel answers echo requests of the suite's unprivileged sockets.
sysctl -qw net.ipv4.ping_group_range="0 2147483647"
# Nobody's neighbour discovery may be mistaken for a sandbox's packet.
for ns in pt-public pt-lan pt-metadata; do
	nsenter --net=/run/netns/$ns nft -f - <<'NFT'
table inet seen {
	set four { typeof ip daddr . meta l4proto; flags dynamic; size 65535; counter; }
	set six { typeof ip6 daddr . meta l4proto; flags dynamic; size 65535; counter; }
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "eth0" update @four { ip daddr . meta l4proto counter }
		iifname "eth0" update @six { ip6 daddr . meta l4proto counter }
	}
	chain input {
		type filter hook input priority filter; policy accept;
		udp dport 20000-29999 drop comment "the barriers of settle, which nobody is to answer"
	}
}
NFT
done`

// demolish is what layout made, taken away; the links go with the namespaces.
const demolish = `
ip route del 198.51.100.0/24 via 203.0.113.1 2>/dev/null
for ns in pt-public pt-lan pt-metadata; do ip netns del $ns; done
for link in pt-wan0 pt-lan0 pt-meta0; do ip link del $link 2>/dev/null; done
true`

// netHost is one machine: a network namespace with servers and a capture.
type netHost struct {
	namespace string // "" is the test host's own
	hitFile   string
	capture   *capture
	stop      []func()
}

// netHosts are all of them.
type netHosts struct {
	host, public, lan, metadata *netHost

	dir       string
	pingRange string // net.ipv4.ping_group_range, as it was
}

var world struct {
	sync.Mutex
	hosts *netHosts
}

// theWorld builds the hosts at the first call; runSuite removes them.
func theWorld(t *testing.T) *netHosts {
	t.Helper()
	world.Lock()
	defer world.Unlock()
	if world.hosts == nil {
		noSandboxes(t) // nor what an earlier test's has on the host
		hosts, err := buildWorld()
		if err != nil {
			t.Fatal(err)
		}
		world.hosts = hosts
	}
	return world.hosts
}

func endWorld() {
	world.Lock()
	defer world.Unlock()
	if world.hosts != nil {
		world.hosts.remove()
		world.hosts = nil
	}
}

func buildWorld() (*netHosts, error) {
	dir, err := os.MkdirTemp("", "purple-nethosts.")
	if err != nil {
		return nil, err
	}
	pingRange, err := os.ReadFile("/proc/sys/net/ipv4/ping_group_range")
	if err != nil {
		return nil, err
	}
	w := &netHosts{dir: dir, pingRange: strings.TrimSpace(string(pingRange))}
	if out, err := exec.Command("bash", "-c", layout).CombinedOutput(); err != nil {
		w.remove()
		return nil, fmt.Errorf("cannot lay out the network: %v\n%s", err, out)
	}
	if err := w.populate(); err != nil {
		w.remove()
		return nil, err
	}
	return w, nil
}

// populate starts the servers and the captures.
func (w *netHosts) populate() error {
	udp := func(addresses string) string { return "udp/" + addresses + "/" + serverPorts }
	var err error
	add := func(host **netHost, name, namespace string, servers ...string) {
		if err == nil {
			*host, err = w.newHost(name, namespace, servers)
		}
	}
	add(&w.public, "public", "pt-public", "tcp/*/"+serverPorts, udp("198.51.100.10,198.51.100.11,2001:db8:1::10,2001:db8:1::11"),
		"dns/"+publicDNS+","+foreignDNS+","+publicDNS6+"/53")
	add(&w.lan, "lan", "pt-lan", "tcp/*/"+serverPorts, udp("192.168.77.2,10.9.0.2,172.16.9.2,100.64.9.2,fd77::2"),
		"dns/"+lanHost+","+lanHostTen+","+lanHost6+"/53")
	add(&w.metadata, "metadata", "pt-metadata", "tcp/*/"+serverPorts, udp(metadata+",169.254.7.7,"+metadata6),
		"dns/"+metadata+"/53")
	add(&w.host, "host", "", "tcp/*/"+hostServerPorts, "udp/*/"+hostServerPorts)
	return err
}

func (w *netHosts) newHost(name, namespace string, servers []string) (*netHost, error) {
	h := &netHost{namespace: namespace, hitFile: filepath.Join(w.dir, name+".hits")}
	stop, err := background(h.probeCommand(append([]string{"serve", name, h.hitFile}, servers...)...))
	if err != nil {
		return nil, fmt.Errorf("cannot start the servers of %s: %w", name, err)
	}
	h.stop = append(h.stop, stop)
	if h.capture, err = startCapture(namespace, filepath.Join(w.dir, name+".packets")); err != nil {
		return nil, err
	}
	h.stop = append(h.stop, h.capture.stop)
	return h, nil
}

func (w *netHosts) remove() {
	for _, h := range []*netHost{w.host, w.public, w.lan, w.metadata} {
		if h != nil {
			for _, stop := range h.stop {
				stop()
			}
		}
	}
	out, err := exec.Command("bash", "-c", demolish).CombinedOutput()
	if err == nil {
		err = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(w.pingRange), 0o644)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "suite: cannot remove the network: %v\n%s\n", err, out)
	}
	os.RemoveAll(w.dir)
}

// enter is how to run a command in a network namespace: a name of ip netns,
// a path, or "" for the host's own.
func enter(namespace string, args ...string) *exec.Cmd {
	if namespace == "" {
		return exec.Command(args[0], args[1:]...)
	}
	if !strings.HasPrefix(namespace, "/") {
		namespace = "/run/netns/" + namespace
	}
	return exec.Command("nsenter", append([]string{"--net=" + namespace, "--"}, args...)...)
}

func (h *netHost) probeCommand(args ...string) *exec.Cmd {
	return enter(h.namespace, append([]string{filepath.Join(bin, "probe")}, args...)...)
}

// background starts a probe that says "ready" and ends with its standard
// input: when the suite ends, however it ends, so does the probe.
func background(cmd *exec.Cmd) (stop func(), err error) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if line != "ready\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("%q: %q, %v, %s", cmd.Args, line, err, stderr.String())
	}
	return func() {
		stdin.Close()
		_ = cmd.Wait()
	}, nil
}

// --- what was seen -----------------------------------------------------------

type hit struct{ Server, Protocol, Local, Remote, Question string }

type packet struct {
	Link         int
	Outgoing     bool
	Protocol     int
	Source, Dest string
	Port, Type   int
}

func (p packet) String() string {
	return fmt.Sprintf("protocol %d from %s to %s port %d (link %d)", p.Protocol, p.Source, p.Dest, p.Port, p.Link)
}

// lines reads the JSON lines of a file from an offset on.
func lines[T any](t *testing.T, file string, offset int64) []T {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var all []T
	for decoder := json.NewDecoder(f); ; {
		var one T
		if err := decoder.Decode(&one); err != nil {
			return all // the end, or half a line that is still being written
		}
		all = append(all, one)
	}
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// capture is a running packet capture.
type capture struct {
	file string
	stop func()
}

func startCapture(namespace, file string) (*capture, error) {
	stop, err := background(enter(namespace, filepath.Join(bin, "probe"), "capture", file))
	if err != nil {
		return nil, fmt.Errorf("cannot capture: %w", err)
	}
	return &capture{file, stop}, nil
}

// watch is a moment from which on hits and packets count.
type watch struct {
	w                   *netHosts
	hits, packetOffsets map[*netHost]int64
	counted             string
}

func (w *netHosts) all() []*netHost { return []*netHost{w.host, w.public, w.lan, w.metadata} }

func (w *netHosts) watch(t *testing.T) *watch {
	t.Helper()
	seen := &watch{w: w, hits: map[*netHost]int64{}, packetOffsets: map[*netHost]int64{}}
	w.settle(t)
	for _, h := range w.all() {
		seen.hits[h], seen.packetOffsets[h] = size(t, h.hitFile), size(t, h.capture.file)
	}
	return seen
}

// barriers are where settle sends to; nothing listens on those ports, and
// nothing else goes there.
var barriers = map[string]func(*netHosts) []*netHost{
	"198.51.100.53": func(w *netHosts) []*netHost { return []*netHost{w.public, w.host} },
	"192.168.77.2":  func(w *netHosts) []*netHost { return []*netHost{w.lan} },
	"169.254.7.7":   func(w *netHosts) []*netHost { return []*netHost{w.metadata} },
}

var barrierPort = 20000

// settle sends a packet of its own to every host and waits until each capture
// has it: what was sent before is written by then, and a capture that does not
// work fails its test.
func (w *netHosts) settle(t *testing.T) {
	t.Helper()
	barrierPort++
	for address, hosts := range barriers {
		offsets := map[*netHost]int64{}
		for _, h := range hosts(w) {
			offsets[h] = size(t, h.capture.file)
		}
		conn, err := net.Dial("udp", net.JoinHostPort(address, strconv.Itoa(barrierPort)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("barrier")); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		for h, offset := range offsets {
			eventually(t, "the capture has what was sent to "+address, time.Minute, func() bool {
				return slices.ContainsFunc(lines[packet](t, h.capture.file, offset), func(p packet) bool {
					return p.Dest == address && p.Port == barrierPort
				})
			})
		}
	}
}

// hitsAt are the hits at a host since the watch began.
func (s *watch) hitsAt(t *testing.T, h *netHost) []hit {
	t.Helper()
	return lines[hit](t, h.hitFile, s.hits[h])
}

// packetsAt are the packets at a host since the watch began, without settle's.
func (s *watch) packetsAt(t *testing.T, h *netHost, match func(packet) bool) []packet {
	t.Helper()
	s.w.settle(t)
	return slices.DeleteFunc(lines[packet](t, h.capture.file, s.packetOffsets[h]), func(p packet) bool {
		return !match(p) || (p.Port >= 20000 && p.Port <= barrierPort)
	})
}

// to matches packets to one of the addresses.
func to(addresses ...string) func(packet) bool {
	return func(p packet) bool { return slices.Contains(addresses, p.Dest) }
}

// notHousekeeping matches everything but neighbour discovery, router
// solicitations and multicast listener reports, which kernels send unasked.
func notHousekeeping(p packet) bool {
	discovery := p.Protocol == protocolICMP6 && p.Type >= 130 && p.Type <= 143
	report := p.Protocol == 0 && strings.HasPrefix(p.Dest, "ff02::")
	return !discovery && !report
}

// nothingSeen: no hit and no packet anywhere but on the host's own links.
func (s *watch) nothingSeen(t *testing.T, hosts ...*netHost) {
	t.Helper()
	for _, h := range hosts {
		for _, hit := range s.hitsAt(t, h) {
			t.Errorf("%s was reached: %+v", hit.Server, hit)
		}
		if h == s.w.host {
			continue // its links carry everybody's packets
		}
		for _, p := range s.packetsAt(t, h, func(p packet) bool { return !p.Outgoing && notHousekeeping(p) }) {
			t.Errorf("a packet reached %s: %v", h.namespace, p)
		}
	}
}

// counted is how many packets of one protocol nft has counted for an address
// in that namespace: the second witness beside the capture.
func (h *netHost) counted(t *testing.T, address string, protocol int) int {
	t.Helper()
	out, err := enter(h.namespace, "nft", "-j", "list", "table", "inet", "seen").Output()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, e := range countedElements(t, out) {
		if e.address == address && e.protocol == protocol {
			total += e.packets
		}
	}
	return total
}

type countedElement struct {
	address           string
	protocol, packets int
}

// protocolNames are how nft writes the numbers in its sets.
var protocolNames = map[string]int{"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132}

func countedElements(t *testing.T, listing []byte) []countedElement {
	t.Helper()
	var ruleset struct {
		NFTables []struct {
			Set struct {
				Elem []struct {
					Elem struct {
						Val     struct{ Concat []any }
						Counter struct{ Packets int }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(listing, &ruleset); err != nil {
		t.Fatalf("%v\n%s", err, listing)
	}
	var all []countedElement
	for _, object := range ruleset.NFTables {
		for _, e := range object.Set.Elem {
			if len(e.Elem.Val.Concat) != 2 {
				t.Fatalf("nft counts in a form that is not known here: %s", listing)
			}
			address, _ := e.Elem.Val.Concat[0].(string)
			all = append(all, countedElement{address, protocolNumber(e.Elem.Val.Concat[1]), e.Elem.Counter.Packets})
		}
	}
	return all
}

func protocolNumber(v any) int {
	switch v := v.(type) {
	case float64:
		return int(v)
	case string:
		if n, err := strconv.Atoi(v); err == nil {
			return n
		}
		return protocolNames[v]
	}
	return -1
}

// --- attempts ----------------------------------------------------------------

// attempt is the probe's answer to dial.
type attempt struct {
	Target, Outcome, Call, Answer string
	MS                            int
}

// dialFrom tries flows from another host, or from inside a network namespace
// as root with every capability.
func dialFrom(t *testing.T, namespace string, targets ...string) map[string]attempt {
	t.Helper()
	out, err := enter(namespace, append([]string{filepath.Join(bin, "probe"), "dial"}, targets...)...).Output()
	if err != nil {
		t.Fatalf("dial from %q: %v", namespace, err)
	}
	return byTarget(decode[[]attempt](t, result{stdout: string(out)}))
}

func byTarget(attempts []attempt) map[string]attempt {
	m := map[string]attempt{}
	for _, a := range attempts {
		m[a.Target] = a
	}
	return m
}

// flows are PROTOCOL/ADDRESS/PORT of all three lists.
func flows(protocols, addresses []string, ports ...string) []string {
	var all []string
	for _, protocol := range protocols {
		for _, address := range addresses {
			for _, port := range ports {
				all = append(all, protocol+"/"+address+"/"+port)
			}
		}
	}
	return all
}

// --- self-test ---------------------------------------------------------------

// The positive control of everything in the network tests: from the host, each
// server answers, each hit is noted, each packet is captured and counted.
func TestNetworkTopology(t *testing.T) {
	endWorld()
	noSandboxes(t)
	before := takeHostNetwork(t)
	w := theWorld(t)
	t.Run("quiet", w.testQuiet)
	t.Run("servers", w.testServers)
	t.Run("protocols", w.testProtocols)
	t.Run("names", w.testNames)
	t.Run("routed", w.testRouted)
	t.Run("throughput", w.testThroughput)
	t.Run("early", w.testEarly)
	endWorld()
	if changes := before.changes(t); len(changes) > 0 {
		t.Errorf("the suite itself leaves behind:\n%s", strings.Join(changes, "\n"))
	}
}

// testQuiet: where nobody sends, nothing is seen, not even after a while.
func (w *netHosts) testQuiet(t *testing.T) {
	seen := w.watch(t)
	time.Sleep(time.Second)
	seen.nothingSeen(t, w.all()...)
	seen.noPacketsTo(t, slices.Concat(privateHosts, hostAddresses, groups, []string{publicWeb, publicWeb6})...)
}

func (w *netHosts) testServers(t *testing.T) {
	servers := map[*netHost][]string{
		w.public:   {publicWeb, publicWeb6},
		w.lan:      {lanHost, lanHost6, lanHostTen, "172.16.9.2", "100.64.9.2"},
		w.metadata: {metadata, metadata6, "169.254.7.7"},
		w.host:     {hostPublic, hostPublic6, hostLAN, hostLAN6, hostTen, "127.0.0.1", "::1"},
	}
	for h, addresses := range servers {
		seen := w.watch(t)
		targets := flows([]string{"tcp", "udp"}, addresses, "80", "443")
		for target, a := range dialFrom(t, "", targets...) {
			if a.Outcome != "ok" || a.Answer == "" {
				t.Errorf("%s: %+v", target, a)
			}
		}
		if hits := seen.hitsAt(t, h); len(hits) != len(targets) {
			t.Errorf("%s: %d hits, %d attempts", addresses[0], len(hits), len(targets))
		}
		for _, address := range addresses {
			if len(seen.packetsAt(t, h, to(address))) == 0 {
				t.Errorf("no packet to %s was captured", address)
			}
		}
	}
	// An unanswered port and a mapped address answer as the tests expect.
	got := dialFrom(t, "", "tcp/"+publicWeb+"/81", "tcp/::ffff:"+lanHost+"/443", "mptcp/"+publicWeb+"/443", "icmp/"+publicWeb+"/0", "icmp/"+lanHost6+"/0")
	for target, want := range map[string]string{
		"tcp/" + publicWeb + "/81": "ECONNREFUSED", "tcp/::ffff:" + lanHost + "/443": "ok", "mptcp/" + publicWeb + "/443": "ok",
		"icmp/" + publicWeb + "/0": "ok", "icmp/" + lanHost6 + "/0": "ok",
	} {
		if got[target].Outcome != want {
			t.Errorf("%s: %+v, want %s", target, got[target], want)
		}
	}
}

// testProtocols: what is sent by a raw socket is captured and counted as the
// protocol that it is, also where the kernel has no sockets for that protocol.
func (w *netHosts) testProtocols(t *testing.T) {
	for _, c := range []struct {
		host     *netHost
		address  string
		protocol int
	}{
		{w.public, publicWeb, protocolICMP}, {w.public, publicWeb, protocolSCTP}, {w.public, publicWeb, protoGRE},
		{w.public, publicWeb6, protocolICMP6}, {w.public, publicWeb6, protocolSCTP},
		{w.lan, lanHost, protocolSCTP}, {w.lan, lanHost6, protoUDP}, {w.lan, lanHost, protoTCP},
		{w.metadata, metadata, protocolICMP}, {w.metadata, metadata6, protoGRE},
	} {
		before, seen := c.host.counted(t, c.address, c.protocol), w.watch(t)
		target := fmt.Sprintf("raw%d/%s/443", c.protocol, c.address)
		if a := dialFrom(t, "", target)[target]; a.Outcome != "ok" {
			t.Errorf("%s: %+v", target, a)
		}
		packets := seen.packetsAt(t, c.host, func(p packet) bool { return p.Protocol == c.protocol && p.Dest == c.address && !p.Outgoing })
		if len(packets) != 1 {
			t.Errorf("%s: captured %v", target, packets)
		}
		if counted := c.host.counted(t, c.address, c.protocol) - before; counted != 1 {
			t.Errorf("%s: nft has counted %d packets", target, counted)
		}
	}
}

func (w *netHosts) testNames(t *testing.T) {
	seen := w.watch(t)
	for name, want := range map[string]string{"web.test": "RCodeSuccess", "canary-topology.test": "RCodeNameError"} {
		got := outside[map[string]string](t, "ask", publicDNS+","+lanHost, name)
		for _, asked := range []string{"udp " + publicDNS, "tcp " + publicDNS, "udp " + lanHost, "tcp " + lanHost} {
			if got[asked] != want {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	questions := 0
	for _, h := range seen.hitsAt(t, w.public) {
		if h.Question == "canary-topology.test." {
			questions++
		}
	}
	if questions != 2 {
		t.Errorf("%d canaries noted, 2 sent", questions)
	}
	withResolver(t, "nameserver "+lanHost+"\n")
	if out := sh(t, "getent ahosts web.test"); !strings.Contains(out, publicWeb) || !strings.Contains(out, publicWeb6) {
		t.Errorf("getent: %s", out)
	}
}

// testRouted: the hosts reach each other through the test host when it
// forwards, so that a forgotten reject or masquerade would show.
func (w *netHosts) testRouted(t *testing.T) {
	targets := []string{"tcp/" + publicWeb + "/443", "tcp/" + publicWeb6 + "/443", "udp/" + publicWeb + "/443"}
	withForwarding(t)
	for target, a := range dialFrom(t, "pt-lan", targets...) {
		if a.Outcome != "ok" || a.Answer != "public" {
			t.Errorf("%s from the LAN: %+v", target, a)
		}
	}
	for target, a := range dialFrom(t, "pt-public", "tcp/"+lanHost+"/443", "tcp/"+hostLAN+"/443", "tcp/"+hostPublic6+"/443") {
		if a.Outcome != "ok" {
			t.Errorf("%s from the internet: %+v", target, a)
		}
	}
	// Each firewall of the tests drops what is forwarded.
	for name, rules := range droppingFirewalls {
		withFirewall(t, name, rules, func() {
			for target, a := range dialFrom(t, "pt-lan", targets...) {
				if a.Outcome == "ok" {
					t.Errorf("%s lets %s pass", name, target)
				}
			}
		})
	}
}

func (w *netHosts) testThroughput(t *testing.T) {
	stop, err := background(w.public.probeCommand("serve", "sink", filepath.Join(tempDir(t), "hits"), "sink/*/5201"))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if got := outside[map[string]float64](t, "pump", publicWeb+"/5201", "0.3"); got["bytes_per_second"] < 1e6 {
		t.Errorf("%v", got)
	}
}

func (w *netHosts) testEarly(t *testing.T) {
	seen := w.watch(t)
	got := outside[map[string]string](t, "early", publicWeb+"/9999", publicWeb6+"/9999")
	if len(got) != 2 || len(seen.packetsAt(t, w.public, func(p packet) bool { return p.Port == 9999 && !p.Outgoing })) != 2 {
		t.Errorf("%v", got)
	}
}
