//go:build integration

package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What a run makes on the host, next to whom, and that it is gone afterwards.

// mustBeAsBefore waits until the host's network is what it was.
func mustBeAsBefore(t *testing.T, before hostNetwork) {
	t.Helper()
	var changes []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if changes = before.changes(t); len(changes) == 0 {
			return
		}
	}
	t.Errorf("not as before:\n%s", strings.Join(changes, "\n"))
}

func TestNothingIsLeftOfTheNetwork(t *testing.T) {
	theWorld(t)
	withResolver(t, "nameserver "+publicDNS+"\n")
	noSandboxes(t)
	before := takeHostNetwork(t)
	profile := netProfile(t, "[443, 53]", "[8080]", "")
	s := startSandbox(t, profile, "sleep", "300")
	during := strings.Join(before.changes(t), "\n")
	for _, want := range []string{"link purple0", "table inet purple", "sysctl net/ipv4/conf/"} {
		if !strings.Contains(during, want) {
			t.Errorf("control: %q is no change while a sandbox runs:\n%s", want, during)
		}
	}
	second := startSandbox(t, outgoing(t, "[443]"), "sleep", "300")
	sh(t, "systemctl stop "+s.unit)
	control := "tcp/" + publicWeb + "/443"
	mustReach(t, dialFrom(t, second.namespace, control), "public", control)
	sh(t, "systemctl stop "+second.unit)
	mustBeAsBefore(t, before)
	for _, c := range [][]string{{"true"}, {"false"}, {"sh", "-c", "kill -9 $$"}, {"no-such-command"}} {
		inside(t, profile, c...)
		mustBeAsBefore(t, before)
	}
}

// What the host had set itself stays: forwarding that is on is not turned off.
func TestForwardingOfTheHostsOwnStays(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	withForwarding(t)
	before := takeHostNetwork(t)
	inside(t, outgoing(t, "[443]"), "true").mustSucceed(t)
	mustBeAsBefore(t, before)
}

// L2, for what is in the kernel: SIGKILL of purple at points that chance
// chooses, and of each of Purple's processes.
func TestKilledRunsLeaveNoNetwork(t *testing.T) {
	theWorld(t)
	withResolver(t, "nameserver "+publicDNS+"\n")
	noSandboxes(t)
	before := takeHostNetwork(t)
	profile := netProfile(t, "[443, 53]", "[8080]", "")
	begin := time.Now()
	inside(t, profile, "true").mustSucceed(t)
	whole := time.Since(begin)
	points := time.Duration(starts(t) / 8)
	for i := range points {
		cmd := call{dir: bin, args: []string{"run", "--profile", profile, "--", "sleep", "300"}}.command(context.Background())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(whole * time.Duration(i) / (points - 1))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	noSandboxes(t)
	mustBeAsBefore(t, before)
	for range 8 { // each of the unit's processes, one a run
		killOneProcess(t, profile)
	}
	for _, victims := range []string{"main", "control", "all"} {
		s := startSandbox(t, profile, "sleep", "300")
		sh(t, "systemctl kill --kill-whom="+victims+" -s KILL "+s.unit+" || :; systemctl stop "+s.unit+" || :")
	}
	noSandboxes(t)
	mustBeAsBefore(t, before)
}

var nextVictim int

// killOneProcess kills another process of the unit at each call.
func killOneProcess(t *testing.T, profile string) {
	t.Helper()
	s := startSandbox(t, profile, "sh", "-c", "sleep 300 & sleep 300")
	pids := pidsOf(t, s.unit)
	if len(pids) == 0 {
		t.Fatal("the unit has no process")
	}
	sh(t, fmt.Sprintf("kill -9 %d", pids[nextVictim%len(pids)]))
	nextVictim++
	time.Sleep(200 * time.Millisecond)      // it ends by itself, or goes on without that one
	sh(t, "systemctl stop "+s.unit+" || :") // it may be gone already
}

// What a killed purple-net has left, or another version, is no hindrance, and is
// cleaned up after the next run.
func TestLeftoversAreCleanedUp(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	before := takeHostNetwork(t)
	sh(t, `
ip link add purple0 type bridge
ip addr add 10.213.213.1/24 dev purple0
nft add table inet purple
nft add chain inet purple forward '{ type filter hook forward priority 0; policy drop; }'`)
	t.Cleanup(func() {
		sh(t, "ip link del purple0 2>/dev/null; nft delete table inet purple 2>/dev/null; true")
	})
	control := "tcp/" + publicWeb + "/443"
	mustReach(t, dialInside(t, outgoing(t, "[443]"), control), "public", control)
	noSandboxes(t)
	mustBeAsBefore(t, before)
}

// What some hosts have of their own is no hindrance, and stays.
func TestUnusualHosts(t *testing.T) {
	theWorld(t)
	profile := outgoing(t, "[443]")
	targets := []string{"tcp/" + publicWeb + "/443", "tcp/" + publicWeb6 + "/443"}
	for name, c := range map[string]struct{ change, undo string }{
		"a VPN's two halves": {
			"ip route add 0.0.0.0/1 via 203.0.113.1; ip route add 128.0.0.0/1 via 203.0.113.1",
			"ip route del 0.0.0.0/1; ip route del 128.0.0.0/1",
		},
		"a VPN's own table": {
			"ip route add table 77 $(ip route show default | head -1); ip rule add pref 100 table main suppress_prefixlength 0; ip rule add pref 101 table 77; ip route del default",
			"ip route add $(ip route show table 77 default); ip rule del pref 100; ip rule del pref 101; ip route flush table 77",
		},
		"IPv6 off for new interfaces": {
			"sysctl -qw net.ipv6.conf.default.disable_ipv6=1", "sysctl -qw net.ipv6.conf.default.disable_ipv6=0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			noSandboxes(t)
			sh(t, c.change)
			t.Cleanup(func() { sh(t, c.undo) })
			before := takeHostNetwork(t)
			mustReach(t, dialInside(t, profile, targets...), "public", targets...)
			mustBeAsBefore(t, before)
		})
	}
}

// A run that starts in the moment in which the host's part is removed waits for
// that, makes it anew, and has it removed in turn.
func TestStartWhileTheHostsPartGoes(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	before := takeHostNetwork(t)
	profile := outgoing(t, "[443]")
	inside(t, profile, "true").mustSucceed(t)
	eventually(t, "the link is gone", time.Minute, func() bool { return !strings.Contains(sh(t, "ip -o link"), "purple0-") })
	// purple-net waits for the lock a second later, and the run behind it.
	stop, err := background(exec.Command("flock", "/run/purple/network.lock", "sh", "-c", "echo ready; sleep 2.5"))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	time.Sleep(1800 * time.Millisecond)
	s := startSandbox(t, profile, "sleep", "300")
	control := "tcp/" + publicWeb + "/443"
	mustReach(t, dialFrom(t, s.namespace, control), "public", control)
	if state := strings.TrimSpace(sh(t, "systemctl is-active purplenet.service || :")); state != "active" {
		t.Errorf("purplenet.service is %s while a sandbox runs", state)
	}
	sh(t, "systemctl stop "+s.unit)
	noSandboxes(t)
	mustBeAsBefore(t, before)
}

// Purple's own service on the host is confined, and its link trusts nobody on it.
func TestHostsPartIsConfined(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	s := startSandbox(t, outgoing(t, "[443]"), "sleep", "300")
	for _, line := range []string{"ProtectSystem=strict", "ProtectHome=yes", "MemoryDenyWriteExecute=yes", "RestrictNamespaces=yes"} {
		name, _, _ := strings.Cut(line, "=")
		if got := sh(t, "systemctl show -p "+name+" purplenet.service"); got != line+"\n" {
			t.Errorf("%q, want %q", got, line)
		}
	}
	pid := strings.TrimSpace(sh(t, "systemctl show --value -p MainPID purplenet.service"))
	status := sh(t, "cat /proc/"+pid+"/status")
	for _, line := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000001000", "CapEff:\t0000000000001000"} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("no %q in %s", line, status)
		}
	}
	// It may write what it has to, and nothing else.
	if got := sh(t, "for d in /etc /usr /var /tmp /run/purple; do nsenter -t "+pid+" -m sh -c \"touch $d/purple-test 2>/dev/null && rm $d/purple-test && echo $d\" || :; done"); got != "/run/purple\n" {
		t.Errorf("it can write to %q", got)
	}
	read := func(device string) string {
		return "cat /proc/sys/net/ipv{4,6}/conf/" + device + "/{accept_redirects,accept_source_route} /proc/sys/net/ipv4/conf/" + device + "/{secure,send}_redirects /proc/sys/net/ipv6/conf/" + device + "/accept_ra | sort | uniq -c | tr -s ' '"
	}
	if got := sh(t, read("purple0")); got != " 7 0\n" {
		t.Errorf("purple0: %q", got)
	}
	if got := sh(t, "nsenter --net="+s.namespace+" bash -c "+quote(read("eth0"))); got != " 7 0\n" {
		t.Errorf("eth0 inside: %q", got)
	}
}

// --- other people's firewalls ------------------------------------------------

// A firewall that drops what a sandbox sends is named, with a way out, and
// stays as it is.
func TestFirewallThatDropsIsNamed(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	profile := outgoing(t, "[443]")
	for name, rules := range droppingFirewalls {
		t.Run(name, func(t *testing.T) {
			withFirewall(t, name, rules, func() {
				before := takeHostNetwork(t)
				r := inside(t, profile, "echo", "ran")
				r.mustRefuse(t, 125, append(firewallNames[name], "purple0")...)
				if len(remedies(r.stderr)) == 0 {
					t.Errorf("no remedy: %s", r.stderr)
				}
				mustBeAsBefore(t, before)
				// An isolated run has nothing to do with it.
				purple(t, "plain", "true").mustSucceed(t)
			})
		})
	}
}

// remedies are the commands that a refusal proposes, in backquotes or on lines
// of their own.
func remedies(stderr string) []string {
	var commands []string
	for _, m := range regexp.MustCompile("(?m)`((?:sudo )?(?:nft|iptables|ip6tables|ufw|firewall-cmd) [^`]+)`|^\\s+((?:sudo )?(?:nft|iptables|ip6tables|ufw|firewall-cmd) .+)$").FindAllStringSubmatch(stderr, -1) {
		commands = append(commands, strings.TrimPrefix(m[1]+m[2], "sudo "))
	}
	return commands
}

func TestRemedyForAFirewallWorks(t *testing.T) {
	theWorld(t)
	profile := outgoing(t, "[443]")
	withFirewall(t, "admin", droppingFirewalls["admin"], func() {
		commands := remedies(inside(t, profile, "true").stderr)
		if len(commands) == 0 {
			t.Fatal("no remedy")
		}
		for _, command := range commands {
			sh(t, command)
		}
		targets := []string{"tcp/" + publicWeb + "/443", "tcp/" + publicWeb6 + "/443"}
		mustReach(t, dialInside(t, profile, targets...), "public", targets...)
	})
}

func TestFirewallThatDoesNotDropIsNoHindrance(t *testing.T) {
	theWorld(t)
	profile := outgoing(t, "[443]")
	targets := []string{"tcp/" + publicWeb + "/443", "tcp/" + publicWeb6 + "/443"}
	for name, rules := range harmlessFirewalls {
		t.Run(name, func(t *testing.T) {
			withFirewall(t, name, rules, func() {
				mustReach(t, dialInside(t, profile, targets...), "public", targets...)
			})
		})
	}
}

// --- the rules as text -------------------------------------------------------

var counters = regexp.MustCompile(`packets \d+ bytes \d+`)

// ruleset is what nft lists in a network namespace, without what counts.
func ruleset(t *testing.T, namespace string) string {
	t.Helper()
	out, err := enter(namespace, "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return counters.ReplaceAllString(string(out), "packets 0 bytes 0")
}

// The rules that plan prints are nft's syntax and those that are loaded.
func TestPlannedRulesAreTheLoadedRules(t *testing.T) {
	theWorld(t)
	withResolver(t, "nameserver "+lanHost+"\nnameserver "+publicDNS6+"\n")
	for _, entries := range []string{
		"[]", "[443]", "[443, 53]", `["443/tcp", "8000-8100/udp", "10.1.0.0/16:5432", "[fd00:1::/64]:5432/tcp", "10.9.0.1:5432"]`,
	} {
		t.Run(entries, func(t *testing.T) {
			profile := netProfile(t, entries, "[8080]", "")
			planned := call{dir: bin, args: []string{"plan", "--profile", profile, "--format=nft", "--", "sleep", "300"}}.run(t).mustSucceed(t).stdout
			s := startSandbox(t, profile, "sleep", "300")
			if got, want := ruleset(t, s.namespace), loadInFreshNamespace(t, planned); got != want || !strings.Contains(got, "table inet purple") {
				t.Errorf("loaded:\n%s\nplanned:\n%s", got, want)
			}
			sh(t, "systemctl stop "+s.unit)
		})
	}
}

// loadInFreshNamespace gives rules to nft(8), and lists what it made of them.
func loadInFreshNamespace(t *testing.T, rules string) string {
	t.Helper()
	file := filepath.Join(tempDir(t), "planned.nft")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "-n", "bash", "-c", "nft -f "+file+" && nft list ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("nft does not take the planned rules: %v\n%s\n%s", err, out, rules)
	}
	return counters.ReplaceAllString(string(out), "packets 0 bytes 0")
}

// A plan is a plan.
func TestPlanChangesNothing(t *testing.T) {
	theWorld(t)
	noSandboxes(t)
	before := takeHostNetwork(t)
	for _, format := range []string{"text", "nft", "json", "unit"} {
		call{dir: bin, args: []string{"plan", "--profile", outgoing(t, "[443]"), "--format=" + format, "--", "true"}}.run(t).mustSucceed(t)
	}
	if changes := before.changes(t); len(changes) > 0 {
		t.Errorf("%s", strings.Join(changes, "\n"))
	}
}
