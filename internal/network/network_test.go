package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/ruleset"
	"golang.org/x/sys/unix"
)

// As in cmd/purple: no namespace is ever that of the main thread, which does not
// end with its goroutine.
func init() { runtime.LockOSThread() }

// TestMain runs the tests in network and mount namespaces of their own, which
// are "the host" here, with a /run of their own. Without root it takes a user
// namespace too.
func TestMain(m *testing.M) {
	const inside = "PURPLE_TEST_IN_NAMESPACES"
	if os.Getenv(inside) != "" {
		os.Exit(runInside(m))
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "in namespaces of their own:", err)
		os.Exit(1)
	}
}

func runInside(m *testing.M) int {
	for _, err := range []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("run", "/run", "tmpfs", 0, ""),
		exec.Command("ip", "link", "set", "lo", "up").Run(),
	} {
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot prepare the namespaces:", err)
			return 1
		}
	}
	return m.Run()
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// config is a ruleset with every kind of statement, and addresses.
func config(unit string) Config {
	rule := func(s ...ruleset.Statement) ruleset.Rule { return ruleset.Rule{Statements: s} }
	return Config{
		Unit: unit, Range4: prefix("10.9.0.0/28"), Range6: prefix("fd00:9::/64"), MTU: 1400,
		Rules: ruleset.Table{
			Name: "purple",
			Sets: []ruleset.Set{
				{Name: "four", Prefixes: []netip.Prefix{prefix("0.0.0.0/8"), prefix("192.0.2.7/32"), prefix("224.0.0.0/3")}},
				{Name: "six", IPv6: true, Prefixes: []netip.Prefix{prefix("::/96"), prefix("fe80::/9"), prefix("ff00::/8")}},
			},
			Chains: []ruleset.Chain{
				{Name: "input", Hook: ruleset.Input, Rules: []ruleset.Rule{rule(ruleset.InLoopback{}, ruleset.Accept{}), rule(ruleset.Established{}, ruleset.Accept{})}},
				{Name: "forward", Hook: ruleset.Forward},
				{Name: "output", Hook: ruleset.Output, Rules: []ruleset.Rule{
					rule(ruleset.OutLoopback{}, ruleset.Accept{}), rule(ruleset.ListenerReport{}, ruleset.Drop{}),
					rule(ruleset.ForeignSource{}, ruleset.Goto{Chain: "denied"}),
					rule(ruleset.To{Prefix: prefix("10.1.0.0/17")}, ruleset.Ports{Protocol: "tcp", First: 1, Last: 9}, ruleset.Accept{}),
					rule(ruleset.To{Prefix: prefix("fd00:1::1/128")}, ruleset.Ports{Protocol: "udp", First: 53, Last: 53}, ruleset.Accept{}),
					rule(ruleset.ToSet{Set: "four"}, ruleset.Goto{Chain: "denied"}), rule(ruleset.ToSet{Set: "six", IPv6: true}, ruleset.Goto{Chain: "denied"}),
				}},
				{Name: "denied", Rules: []ruleset.Rule{rule(ruleset.Log{Group: 1}), rule(ruleset.TCP{}, ruleset.Reset{}), rule(ruleset.Reject{})}},
			},
		},
	}
}

// settle waits until the links of closed namespaces are gone.
func settle(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); strings.Contains(run(t, "ip", "-o", "link"), host.Bridge+"-"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a closed namespace has not gone: " + run(t, "ip", "-o", "link"))
		}
	}
}

func newNamespace(t *testing.T, c Config) *Namespace {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// run runs a command on "the host", or inside of a namespace.
func run(t *testing.T, words ...string) string {
	t.Helper()
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", words, err, out)
	}
	return string(out)
}

func (n *Namespace) exec(t *testing.T, words ...string) string {
	t.Helper()
	return run(t, append([]string{"nsenter", "--net=" + n.Path()}, words...)...)
}

// lockIsTaken: no run gets a link now.
func lockIsTaken(t *testing.T) error {
	t.Helper()
	f, err := os.Open(RunDir + "/network.lock")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("the lock could be had: %v", err)
	}
	return nil
}

// down ends every run of a test, as a crash of all of them would.
func down(t *testing.T, runs ...*Namespace) {
	t.Helper()
	for _, n := range runs {
		n.Close()
	}
	settle(t)
	if err := Hold(nil, func() error { return lockIsTaken(t) }); err != nil {
		t.Fatal(err)
	}
}

// What nft itself makes of the text is what the kernel has of the netlink form.
func TestTextAndNetlinkAgree(t *testing.T) {
	c := config("purple-text-00000001.service")
	n := newNamespace(t, c)
	if <-n.linked; n.linkErr != nil {
		t.Fatal(n.linkErr)
	}
	loaded := n.exec(t, "nft", "list", "ruleset")
	cmd := exec.Command("unshare", "--net", "sh", "-c", "nft -f - && nft list ruleset")
	cmd.Stdin = strings.NewReader(c.Rules.Text())
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != loaded {
		t.Errorf("%v; from the text:\n%s\nfrom netlink:\n%s", err, out, loaded)
	}
}

// Whatever differs from what was loaded is found.
func TestVerifyFindsEveryDifference(t *testing.T) {
	for _, change := range []string{
		"add rule inet purple output accept",
		"insert rule inet purple output accept",
		"flush chain inet purple denied",
		"add chain inet purple forward { policy accept; }",
		"add element inet purple four { 198.51.100.0/24 }",
		"delete element inet purple six { fe80::/9 }",
		"add table inet other",
		"add chain inet purple more",
		"flush ruleset",
	} {
		c := config("purple-verify-00000001.service")
		n := newNamespace(t, c)
		if <-n.linked; n.linkErr != nil {
			t.Fatal(n.linkErr)
		}
		n.exec(t, "nft", change)
		if err := inNamespace(n, n.verifyRules); err == nil {
			t.Errorf("%s: not found", change)
		}
		n.Close()
	}
}

// inNamespace calls f on a thread that is in the namespace and ends with it.
func inNamespace(n *Namespace, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

func TestAddressesAreDistinctAndComeBack(t *testing.T) {
	settle(t)
	var all []*Namespace
	seen := map[string]bool{}
	for i := range 13 {
		n := newNamespace(t, config(fmt.Sprintf("purple-many-%08x.service", i)))
		if <-n.linked; n.linkErr != nil {
			t.Fatal(n.linkErr)
		}
		for _, a := range n.addresses() {
			if seen[a.String()] {
				t.Errorf("%s is given twice", a)
			}
			seen[a.String()] = true
		}
		all = append(all, n)
	}
	// A /28 has 13 addresses for sandboxes.
	n := newNamespace(t, config("purple-many-ffffffff.service"))
	if <-n.linked; n.linkErr == nil || !strings.Contains(n.linkErr.Error(), "all 13 addresses are in use") {
		t.Errorf("%v", n.linkErr)
	}
	down(t, append(all, n)...)
}

func TestConnectAndHold(t *testing.T) {
	c := config("purple-host-0badcafe.service")
	c.ToHost = []Destination{{netip.MustParseAddr("192.0.2.1"), "tcp", 80, 90}}
	before := run(t, "nft", "list", "ruleset") + run(t, "ip", "-o", "addr") + run(t, "sysctl", "net.ipv4.conf.lo.forwarding")
	n := newNamespace(t, c)
	<-n.linked // has the first address
	second := newNamespace(t, config("purple-host-0badcaff.service"))
	for _, each := range []*Namespace{n, second} {
		if err := each.Connect(); err != nil {
			t.Fatal(err)
		}
	}
	table := run(t, "nft", "list", "ruleset")
	for _, want := range []string{"chain purple-host-0badcafe {", "ip daddr 192.0.2.1 tcp dport 80-90 accept", "10.9.0.2 comment \"purple-host-0badcafe\" : jump purple-host-0badcafe", "elements = { 10.9.0.0/28 }"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
	if strings.Contains(table, "0badcaff") {
		t.Errorf("a run that may go nowhere has a chain:\n%s", table)
	}
	if link := run(t, "ip", "-d", "link", "show", "master", host.Bridge); strings.Count(link, "isolated on") != 2 || strings.Count(link, "learning off") != 2 || strings.Count(link, "flood off") < 2 {
		t.Error(link)
	}
	if err := Disconnect(c.Unit); err != nil {
		t.Fatal(err)
	}
	if table = run(t, "nft", "list", "ruleset"); strings.Contains(table, "0badcafe") {
		t.Error(table)
	}
	// While a run has a link, a signal ends Hold and all stays.
	n.Close()
	signals := make(chan os.Signal, 1)
	signals <- unix.SIGTERM
	if err := Hold(signals, func() error { return nil }); err != nil || !strings.Contains(run(t, "nft", "list", "tables"), "purple") {
		t.Errorf("%v", err)
	}
	down(t, second)
	if after := run(t, "nft", "list", "ruleset") + run(t, "ip", "-o", "addr") + run(t, "sysctl", "net.ipv4.conf.lo.forwarding"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// What has only the name of Purple's table or bridge is replaced, unless it is in use.
func TestStrangers(t *testing.T) {
	run(t, "nft", "add table inet purple; add chain inet purple forward { type filter hook forward priority 0; policy drop; }")
	run(t, "ip", "link", "add", host.Bridge, "type", "bridge")
	n := newNamespace(t, config("purple-stranger-00000001.service"))
	if err := n.Connect(); err != nil {
		t.Fatal(err)
	}
	if table := run(t, "nft", "list", "ruleset"); strings.Contains(table, "policy drop") || !strings.Contains(table, "masquerade") {
		t.Error(table)
	}
	down(t, n)
	run(t, "ip", "link", "add", host.Bridge, "type", "bridge")
	run(t, "ip", "link", "add", "busy", "type", "veth", "peer", "name", "peer")
	run(t, "ip", "link", "set", "busy", "master", host.Bridge)
	n = newNamespace(t, config("purple-stranger-00000002.service"))
	if err := n.Connect(); err == nil || !strings.Contains(err.Error(), "somebody else's") {
		t.Errorf("%v", err)
	}
	run(t, "ip", "link", "del", host.Bridge)
	run(t, "ip", "link", "del", "busy")
	down(t, n)
}

func TestSysctls(t *testing.T) {
	run(t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far")
	t.Cleanup(func() { run(t, "ip", "link", "del", "uplink") })
	s := sysctls{dir: t.TempDir()}
	const name = "ipv4/conf/uplink/forwarding"
	value := func() string {
		v, err := readSetting(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for range 2 { // the second time, what stands there is Purple's own
		if err := s.forward4([]string{"uplink"}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.turnedOn(); err != nil || !slices.Equal(got, []guarded{{device: "uplink"}}) || value() != on {
		t.Errorf("%v, %v, %s", got, err, value())
	}
	if err := s.restore(); err != nil || value() != off {
		t.Errorf("%v, %s", err, value())
	}
	if left, err := s.records(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	// What somebody else turns on for all devices meanwhile is theirs.
	if err := s.forward4([]string{"uplink"}); err != nil {
		t.Fatal(err)
	}
	run(t, "sysctl", "-q", "net.ipv4.conf.all.forwarding=1")
	if got, err := s.turnedOn(); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if err := s.restore(); err != nil || value() != on {
		t.Errorf("%v, %s", err, value())
	}
	// What was on before is left alone.
	if err := s.forward4([]string{"uplink"}); err != nil {
		t.Fatal(err)
	}
	run(t, "sysctl", "-q", "net.ipv4.conf.all.forwarding=0", "net.ipv4.conf.uplink.forwarding=1")
	if err := s.restore(); err != nil || value() != on {
		t.Errorf("%v, %s", err, value())
	}
}

// The old way of IPv6: one switch for all, and router advertisements go on.
func TestForwardAll6(t *testing.T) {
	run(t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "far")
	t.Cleanup(func() { run(t, "ip", "link", "del", "uplink") })
	s := sysctls{dir: t.TempDir()}
	if err := s.forwardAll6(); err != nil {
		t.Fatal(err)
	}
	values := func() string {
		return run(t, "sysctl", "-n", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.uplink.accept_ra", "net.ipv6.conf.uplink.forwarding")
	}
	if got := values(); got != "1\n2\n1\n" {
		t.Errorf("%q", got)
	}
	if got, err := s.turnedOn(); err != nil || !slices.Equal(got, []guarded{{ipv6: true}}) {
		t.Errorf("%v, %v", got, err)
	}
	if err := s.restore(); err != nil {
		t.Error(err)
	}
	if got := values(); got != "0\n1\n0\n" {
		t.Errorf("%q", got)
	}
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{
		{"10.9.0.0/28", 1, "10.9.0.1"}, {"10.9.0.0/16", 255, "10.9.0.255"}, {"10.9.0.0/16", 256, "10.9.1.0"}, {"10.0.0.0/12", 1 << 19, "10.8.0.0"},
		{"fd00:9::/64", 258, "fd00:9::102"},
	} {
		if got := address(prefix(c.in), c.n); got.String() != c.want {
			t.Errorf("%d of %s: %s", c.n, c.in, got)
		}
	}
}

func TestBehind(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8": "11.0.0.0", "192.0.2.7/32": "192.0.2.8", "fc00::/7": "fe00::", "224.0.0.0/3": "invalid IP", "ff00::/8": "invalid IP",
	} {
		if got := behind(prefix(in)); got.String() != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// A table that is made anew in place of a stranger keeps the host from routing
// for others, though the settings were changed for an earlier run.
func TestReplacedTableIsGuarded(t *testing.T) {
	run(t, "sh", "-c", "ip link add uplink type veth peer name far && ip link set uplink up && ip addr add 203.0.113.1/24 dev uplink && ip route add default via 203.0.113.2")
	t.Cleanup(func() { run(t, "ip", "link", "del", "uplink") })
	first := newNamespace(t, config("purple-guard-00000001.service"))
	if err := first.Connect(); err != nil {
		t.Fatal(err)
	}
	run(t, "nft", "delete table inet purple; add table inet purple")
	second := newNamespace(t, config("purple-guard-00000002.service"))
	if err := second.Connect(); err != nil {
		t.Fatal(err)
	}
	if guard := run(t, "nft", "list", "chain", "inet", "purple", "guard"); !strings.Contains(guard, `iifname "uplink"`) {
		t.Error(guard)
	}
	down(t, first, second)
}
