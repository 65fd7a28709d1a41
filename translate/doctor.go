package translate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/policies"
)

// Verdict says how a check went.
type Verdict string

// The verdicts: it is there; it is not, and can be had; it is there and does not work.
const (
	OK      Verdict = "ok"
	Missing Verdict = "missing"
	Broken  Verdict = "broken"
)

// Check is one thing that a run may need of the machine.
type Check struct {
	Name    string
	Verdict Verdict
	Found   string // what there is
	Cost    string // what does not work without it; empty where the verdict is OK
	Remedy  string // what mends it
	Needed  bool   // by the profile: without it a run is refused
}

// Examine says what a run under the policy needs of the machine and whether it is
// there. What `run` refuses before the start it refuses by the same functions.
func Examine(p *policies.Policy, h host.Facts, s host.Survey) []Check {
	e := examination{p, h, s}
	checks := []Check{
		e.manager(), e.helpers(), e.cgroups(),
		e.controller("memory", p.Resources.Memory), e.controller("pids", p.Resources.Tasks),
		e.controller("cpu", p.Resources.CPU), e.controller("io", p.Resources.BlockIO),
	}
	if h.Cgroup == host.Hybrid && h.Manager == host.SystemManager {
		checks = append(checks, e.swap())
	}
	checks = append(checks, e.namespaces(), e.proc(), e.seccomp(), e.notification(), e.landlock(), e.cores(), e.nftables())
	if h.Manager == host.UserManager {
		checks = append(checks, e.pasta(), e.linger())
	}
	return append(checks, e.journal())
}

// CouldRun tells whether everything is there that the profile needs.
func CouldRun(checks []Check) bool {
	return !slices.ContainsFunc(checks, func(c Check) bool { return c.Needed && c.Verdict != OK })
}

type examination struct {
	p *policies.Policy
	h host.Facts
	s host.Survey
}

func (e examination) isUser() bool { return e.h.Manager == host.UserManager }

// check is ok where failed is empty.
func check(name, found, failed string, otherwise Check) Check {
	otherwise.Name, otherwise.Found = name, found
	if failed == "" {
		otherwise.Verdict, otherwise.Cost, otherwise.Remedy = OK, "", ""
		return otherwise
	}
	otherwise.Found = failed
	if otherwise.Verdict == "" {
		otherwise.Verdict = Broken
	}
	return otherwise
}

func (e examination) manager() Check {
	found := fmt.Sprintf("systemd %s, the %s manager", e.s.Version, e.h.Manager)
	remedy := "boot with systemd 252 or later, and install the package dbus"
	if e.isUser() {
		remedy = "log in through PAM with pam_systemd, or let root call `loginctl enable-linger`; install dbus-user-session or dbus-broker"
	}
	return check("manager", found, e.s.ManagerError, Check{Verdict: Missing, Cost: "nothing runs", Remedy: remedy, Needed: true})
}

func (e examination) helpers() Check {
	return check("programs", "purple-init, purple-net", e.s.HelperError, Check{Cost: "nothing runs", Remedy: "install purple completely, in directories that only their owner can write", Needed: true})
}

func (e examination) cgroups() Check {
	if e.h.Cgroup == host.Unified {
		return check("control groups", "cgroup v2", "", Check{})
	}
	return Check{
		Name: "control groups", Verdict: Missing, Found: "cgroup v1 (hybrid)", Cost: "users have no limits at all, and out of memory is noticed later",
		Remedy: "boot with systemd.unified_cgroup_hierarchy=1",
	}
}

// controller is needed unless the policy lifts its limit.
func (e examination) controller(name string, limit policies.Limit) Check {
	b := builder{h: e.h}
	found := "limits of " + name
	if slices.Contains(e.h.Controllers, name) {
		return check("controller "+name, found, "", Check{Needed: !limit.Unlimited})
	}
	why, hint := b.missing(name)
	return Check{Name: "controller " + name, Verdict: Missing, Found: why, Cost: "a profile that limits it is refused", Remedy: hint, Needed: !limit.Unlimited}
}

func (e examination) cores() Check {
	failed := ""
	if server := coreServer(e.h); server != "" {
		failed = "kernel.core_pattern is " + printable(server)
	}
	return check("core dumps", "none of a command's", failed, Check{
		Cost: whyCore, Remedy: "let root call `sysctl kernel.core_pattern=core`, or give it a pattern with `|`, which the limit of a run holds for",
	})
}

func (e examination) swap() Check {
	failed := ""
	if swaps(e.h) {
		failed = whySwap
	}
	return check("swap", "none, which cgroup v1 could not limit", failed, Check{Cost: "a profile that limits memory is refused", Remedy: hintSwap, Needed: !e.p.Resources.Memory.Unlimited})
}

func (e examination) namespaces() Check {
	return check("namespaces", "all seven can be made", e.s.NamespacesError, Check{Cost: "nothing runs", Remedy: e.namespacesRemedy(), Needed: true})
}

func (e examination) namespacesRemedy() string {
	switch {
	case e.s.MaxUserNamespaces == 0:
		return "sysctl -w user.max_user_namespaces=15000"
	case e.isUser() && !e.s.CloneAllowed:
		return "sysctl -w kernel.unprivileged_userns_clone=1"
	case e.isUser() && e.s.AppArmorRestricts:
		return "load the AppArmor profile of the package, which lifts the restriction for purple-init alone: apparmor_parser -r /etc/apparmor.d/purple-init"
	default:
		return "in a container, let it make user namespaces; see user_namespaces(7)"
	}
}

func (e examination) proc() Check {
	return check("/proc", "a sandbox can have its own", e.s.ProcError, Check{Cost: "nothing runs", Remedy: "in a container, start it without masks on /proc (podman: --security-opt unmask=ALL)", Needed: true})
}

func (e examination) seccomp() Check {
	failed := ""
	for _, action := range []string{"kill_process", "errno", "allow"} {
		if !slices.Contains(e.s.SeccompActions, action) {
			failed = "this kernel has no action " + action
		}
	}
	return check("seccomp", "filters", failed, Check{Verdict: Missing, Cost: "nothing runs", Remedy: "boot a kernel with CONFIG_SECCOMP_FILTER", Needed: true})
}

func (e examination) notification() Check {
	failed := ""
	if !slices.Contains(e.s.SeccompActions, "user_notif") {
		failed = "this kernel has no action user_notif"
	}
	return check("seccomp notification", "denied calls can be told", failed, Check{
		Verdict: Missing, Cost: "a profile that records denied system calls is refused", Remedy: "boot Linux 5.0 or later, or leave syscall out of audit.detail_level",
		Needed: e.p.Audit.Enabled && slices.Contains(e.p.Audit.Detail, "syscall"),
	})
}

func (e examination) landlock() Check {
	failed := ""
	if e.h.LandlockABI == 0 {
		failed = whyLandlock
	}
	return check("Landlock", fmt.Sprintf("ABI %d", e.h.LandlockABI), failed, Check{Verdict: Missing, Cost: "a profile with a write-only output path is refused; what keeps Purple's own supervisor from files is its filter alone", Remedy: hintLandlock, Needed: hasWriteOnly(e.p, e.h)})
}

func (e examination) nftables() Check {
	return check("nftables", "rulesets can be loaded", e.s.RulesError, Check{Cost: "a profile whose network is not isolated is refused", Remedy: "boot a kernel with nf_tables, nft_ct, nft_fib_inet, nft_log and nft_reject_inet (modprobe nf_tables)", Needed: !e.p.Network.Isolated})
}

func (e examination) pasta() Check {
	failed := ""
	if e.h.Network.Pasta == "" {
		failed = whyPasta
	}
	found := strings.TrimSpace(e.h.Network.Pasta + " " + e.s.PastaVersion)
	return check("pasta", found, failed, Check{Verdict: Missing, Cost: "a profile whose network is not isolated is refused", Remedy: hintPasta, Needed: !e.p.Network.Isolated})
}

func (e examination) linger() Check {
	failed := ""
	if !e.s.Lingers {
		failed = "your manager ends with your last session"
	}
	return check("linger", "your manager outlives your sessions", failed, Check{Verdict: Missing, Cost: "a detached run ends when you log out", Remedy: "loginctl enable-linger"})
}

func (e examination) journal() Check {
	failed := ""
	if !e.s.JournalReadable {
		failed = "you are not shown all of it"
	}
	return check("journal", "can be read", failed, Check{
		Verdict: Missing, Cost: "logs, why and the denials in ps may show nothing",
		Remedy: "keep it on disk (mkdir -p /var/log/journal; systemctl restart systemd-journald), or let root add you to the group systemd-journal",
	})
}
