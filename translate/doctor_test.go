package translate

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/host"
)

// healthy is a machine on which everything works.
func healthy(manager host.ManagerKind) (host.Facts, host.Survey) {
	h := machine()
	h.Manager = manager
	h.Network = host.Network{Pasta: "/usr/bin/pasta", IPv6: true, DefaultRoute4: true, DefaultRoute6: true}
	return h, host.Survey{
		Version: "252.39", SeccompActions: []string{"kill_process", "user_notif", "errno", "allow"},
		MaxUserNamespaces: 1000, CloneAllowed: true, Lingers: true, JournalReadable: true,
	}
}

// needy wants of the machine all that there is.
const needy = `
name: needy
filesystem:
  immutable_paths: [/usr]
  output_paths: [{host_path: /srv/out, sandbox_path: /out}]
resources: {block_io_limit: 10MBps, cpu_shares: 2}
network: {isolated: false, allow_outgoing: [443]}
`

// modest wants the least.
const modest = `
name: modest
filesystem: {immutable_paths: [/usr]}
resources: {cpu_shares: unlimited, memory_limit_bytes: unlimited, pids_limit: unlimited, block_io_limit: unlimited}
network: {isolated: true}
audit: {enabled: false}
`

// Each feature taken away alone: who needs it could not run, who does not could.
// Where run refuses before the start, it does so with the same words.
func TestExamineWithoutAFeature(t *testing.T) {
	both := []host.ManagerKind{host.SystemManager, host.UserManager}
	user := both[1:]
	lack := func(name string) func(*host.Facts, *host.Survey) {
		return func(h *host.Facts, _ *host.Survey) {
			h.Controllers = slices.DeleteFunc(slices.Clone(h.Controllers), func(c string) bool { return c == name })
		}
	}
	action := func(name string) func(*host.Facts, *host.Survey) {
		return func(_ *host.Facts, s *host.Survey) {
			s.SeccompActions = slices.DeleteFunc(slices.Clone(s.SeccompActions), func(a string) bool { return a == name })
		}
	}
	for _, c := range []struct {
		check    string
		managers []host.ManagerKind
		take     func(*host.Facts, *host.Survey)
		everyone bool // needs it
		nobody   bool // does
		planned  bool // Build refuses as well
		remedy   string
	}{
		{check: "manager", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.ManagerError = "no bus" }, everyone: true, remedy: "dbus"},
		{check: "programs", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.HelperError = "not found" }, everyone: true, remedy: "install purple"},
		{check: "namespaces", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.NamespacesError = "EPERM" }, everyone: true, remedy: "user namespaces"},
		{check: "namespaces", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.NamespacesError, s.MaxUserNamespaces = "ENOSPC", 0 }, everyone: true, remedy: "user.max_user_namespaces="},
		{check: "namespaces", managers: user, take: func(_ *host.Facts, s *host.Survey) { s.NamespacesError, s.CloneAllowed = "EPERM", false }, everyone: true, remedy: "kernel.unprivileged_userns_clone=1"},
		{check: "namespaces", managers: user, take: func(_ *host.Facts, s *host.Survey) { s.NamespacesError, s.AppArmorRestricts = "EPERM", true }, everyone: true, remedy: "/etc/apparmor.d/purple-init"},
		{check: "/proc", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.ProcError = "EPERM" }, everyone: true, remedy: "unmask"},
		{check: "seccomp", managers: both, take: action("errno"), everyone: true, remedy: "CONFIG_SECCOMP_FILTER"},
		{check: "seccomp notification", managers: both, take: action("user_notif"), remedy: "audit.detail_level"},
		{check: "controller memory", managers: both, take: lack("memory"), planned: true, remedy: "unlimited"},
		{check: "controller pids", managers: both, take: lack("pids"), planned: true, remedy: "unlimited"},
		{check: "controller cpu", managers: both, take: lack("cpu"), planned: true, remedy: "unlimited"},
		{check: "controller io", managers: user, take: lack("io"), planned: true, remedy: delegateDropIn},
		{check: "swap", managers: both[:1], take: func(h *host.Facts, _ *host.Survey) { h.Cgroup, h.SwapTotal = host.Hybrid, 1 }, planned: true, remedy: "unified_cgroup_hierarchy"},
		{check: "core dumps", managers: both, take: func(h *host.Facts, _ *host.Survey) { h.CorePattern = "@/run/x" }, nobody: true, remedy: "core_pattern=core"},
		{check: "Landlock", managers: both, take: func(h *host.Facts, _ *host.Survey) { h.LandlockABI = 0 }, planned: true, remedy: "lsm=landlock"},
		{check: "nftables", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.RulesError = "EINVAL" }, remedy: "nf_tables"},
		{check: "pasta", managers: user, take: func(h *host.Facts, _ *host.Survey) { h.Network.Pasta = "" }, planned: true, remedy: "passt"},
		{check: "linger", managers: user, take: func(_ *host.Facts, s *host.Survey) { s.Lingers = false }, nobody: true, remedy: "enable-linger"},
		{check: "journal", managers: both, take: func(_ *host.Facts, s *host.Survey) { s.JournalReadable = false }, nobody: true, remedy: "systemd-journal"},
	} {
		for _, manager := range c.managers {
			h, s := healthy(manager)
			c.take(&h, &s)
			for text, needs := range map[string]bool{needy: !c.nobody, modest: c.everyone} {
				p := parse(t, text)
				checks := Examine(p, h, s)
				i := slices.IndexFunc(checks, func(x Check) bool { return x.Name == c.check })
				if i < 0 {
					t.Fatalf("%s, %s: no such check", c.check, manager)
				}
				got := checks[i]
				if got.Verdict == OK || got.Cost == "" || !strings.Contains(got.Remedy, c.remedy) || got.Needed != needs {
					t.Errorf("%s, %s, %s: %+v", c.check, manager, p.Name, got)
				}
				if CouldRun(checks) == needs {
					t.Errorf("%s, %s: could %s run: %v", c.check, manager, p.Name, !needs)
				}
				_, err := Build(p, caller(), h)
				var refused *UnsupportedError
				if errors.As(err, &refused) != (c.planned && needs) {
					t.Errorf("%s, %s, %s: Build: %v", c.check, manager, p.Name, err)
				}
				if refused != nil && (refused.Why != got.Found || refused.Hint != got.Remedy) {
					t.Errorf("%s, %s: run says %q; %q, doctor %q; %q", c.check, manager, refused.Why, refused.Hint, got.Found, got.Remedy)
				}
			}
		}
	}
}

// The control: with everything there, all is well and nothing is to be mended.
func TestExamineAHealthyMachine(t *testing.T) {
	for _, manager := range []host.ManagerKind{host.SystemManager, host.UserManager} {
		for _, text := range []string{needy, modest} {
			h, s := healthy(manager)
			checks := Examine(parse(t, text), h, s)
			for _, c := range checks {
				if c.Verdict != OK || c.Cost != "" || c.Remedy != "" || c.Found == "" {
					t.Errorf("%s: %+v", manager, c)
				}
			}
			if !CouldRun(checks) || len(checks) < 13 {
				t.Errorf("%s: %d checks", manager, len(checks))
			}
			c := caller()
			c.Invoker = Invoker{UID: 1000, GID: 1000, Name: "ann", Home: "/home/ann"}
			if _, err := Build(parse(t, text), c, h); err != nil {
				t.Errorf("%s: %v", manager, err)
			}
		}
	}
}
