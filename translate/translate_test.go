package translate

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// full is a profile that uses everything that this version enforces.
const full = `
name: full
filesystem:
  immutable_paths:
    - /usr
    - {host_path: /opt/tool, sandbox_path: /tool}
    - {host_path: /nowhere, optional: true}
  scratch_paths: [/tmp, /cache]
  output_paths:
    - {host_path: /srv/out, sandbox_path: /output}
    - {host_path: /srv/tree, sandbox_path: /tree, mode: read-write}
  working_dir: /home/agent
  workspace: read-only
resources:
  cpu_shares: 0.5
  memory_limit_bytes: 64M
  pids_limit: 100
  block_io_limit: 100MBps
  session_timeout_seconds: 60
capabilities:
  add: [CAP_NET_BIND_SERVICE, CAP_NET_RAW]
network:
  isolated: true
environment:
  set: {MODE: "100% $HOME"}
  pass: [PASSED, MISSING]
`

func parse(t testing.TB, text string) *policies.Policy {
	t.Helper()
	p, err := policies.Parse("", "full.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func disk(device string) host.PathFact {
	return host.PathFact{Exists: true, IsDir: true, FSType: "ext4", Device: device}
}

// machine is a Debian 12 with cgroup v2 and one disk.
func machine() host.Facts {
	f := host.Facts{
		Manager: host.SystemManager, Cgroup: host.Unified, Controllers: []string{"cpu", "memory", "pids", "io"},
		LandlockABI: 2, PageSize: 4096, Arch: "amd64", Homes: []string{"/home", "/root", "/home/ann"},
		ManagerNamespaces: map[string]uint64{"mnt": 1, "uts": 2, "ipc": 3, "net": 4, "pid": 5, "user": 6, "cgroup": 7},
		Paths:             map[string]host.PathFact{},
	}
	for _, p := range []string{"/usr", "/opt/tool", "/srv/out", "/srv/tree", "/home/ann/project"} {
		f.Paths[p] = disk("254:0")
	}
	return f
}

func caller() Command {
	return Command{
		Argv: [][]byte{[]byte("sh"), []byte("-c"), []byte("true")}, Dir: "/home/ann/project", RunID: "0badcafe",
		Environ:  map[string]string{"PASSED": "yes", "SECRET": "no", "LANG": "de_DE.UTF-8", "TERM": "xterm"},
		InitPath: "/usr/libexec/purple/purple-init",
	}
}

func build(t testing.TB, text string, change func(*Command, *host.Facts)) (*Plan, error) {
	t.Helper()
	c, h := caller(), machine()
	if change != nil {
		change(&c, &h)
	}
	return Build(parse(t, text), c, h)
}

func mustBuild(t testing.TB, text string, change func(*Command, *host.Facts)) *Plan {
	t.Helper()
	p, err := build(t, text, change)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBuildRefuses(t *testing.T) {
	hybridWithSwap := func(_ *Command, h *host.Facts) { h.Cgroup, h.SwapTotal = host.Hybrid, 1 }
	without := func(controller string) func(*Command, *host.Facts) {
		return func(_ *Command, h *host.Facts) {
			h.Controllers = slices.DeleteFunc(h.Controllers, func(c string) bool { return c == controller })
		}
	}
	in := func(dir string) func(*Command, *host.Facts) { return func(c *Command, _ *host.Facts) { c.Dir = dir } }
	writable := func(dir string) func(*Command, *host.Facts) {
		return func(c *Command, _ *host.Facts) { c.Workspace = dir }
	}
	routeTo := func(texts ...string) func(*Command, *host.Facts) {
		return func(_ *Command, h *host.Facts) { h.Network.Taken = prefixes(texts...) }
	}
	cases := []struct {
		name, text  string
		change      func(*Command, *host.Facts)
		want        string
		unsupported bool
	}{
		{"address range in use", "name: x\nnetwork:\n  isolated: false\n  address_range: 10.1.0.0/16\n", routeTo("10.1.2.0/24"), "full.yaml:4:3: network.address_range: 10.1.0.0/16 overlaps 10.1.2.0/24", false},
		{"address range of a destination", "name: x\nnetwork:\n  isolated: false\n  address_range: 10.1.0.0/16\n  allow_outgoing: [10.0.0.0/8:80]\n", nil, "overlaps 10.0.0.0/8", false},
		{"no address range left", "name: x\nnetwork:\n  isolated: false\n", routeTo("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"), "cannot find an unused private address range", false},
		{"output path in .ssh", "name: x\nfilesystem:\n  output_paths: [{host_path: /home/ann/.ssh/sub, mode: read-write}]\nnetwork: {isolated: true}\n", func(c *Command, h *host.Facts) {
			c.Invoker = Invoker{UID: 1000, GID: 1000, Name: "ann", Home: "/home/ann"}
			h.Paths["/home/ann/.ssh/sub"] = disk("254:0")
		}, "outside of the sandbox, by who may log in, and mail", false},
		{"workspace above user units", full, func(c *Command, _ *host.Facts) {
			c.Invoker, c.Workspace = Invoker{UID: 1000, GID: 1000, Name: "ann", Home: "/home/ann"}, "/home/ann/.config"
		}, "/home/ann/.config/", false},
		{"workspace with purple", full, func(c *Command, _ *host.Facts) {
			c.Workspace, c.SelfPath = "/home/ann/project", "/home/ann/project/bin/purple"
		}, "/home/ann/project/bin/purple", false},
		{"no memory controller", full, without("memory"), "resources.memory_limit_bytes", true},
		{"no pids controller", full, without("pids"), "resources.pids_limit", true},
		{"no cpu controller", full, without("cpu"), "resources.cpu_shares", true},
		{"no io controller", full, without("io"), "resources.block_io_limit", true},
		{"swap on v1", full, hybridWithSwap, "swap", true},
		{"write-only without Landlock", full, func(_ *Command, h *host.Facts) { h.LandlockABI = 0 }, "mode: read-write", true},
		{"disk unknown", full, func(_ *Command, h *host.Facts) {
			h.Paths["/usr"] = host.PathFact{Exists: true, FSType: "overlay"}
		}, "no disk can be found", true},
		{"missing path", full, func(_ *Command, h *host.Facts) { delete(h.Paths, "/opt/tool") }, "optional: true", false},
		{"missing output", full, func(_ *Command, h *host.Facts) { delete(h.Paths, "/srv/out") }, "install -d", false},
		{"workspace /", full, in("/"), "directory of the system", false},
		{"workspace home", full, in("/home/ann"), "home directory", false},
		{"workspace root's home", full, in("/root"), "home directory", false},
		{"workspace holds homes", full, in("/home"), "home directory", false},
		{"workspace in /proc", full, in("/proc/1"), "/proc", false},
		{"workspace /tmp", full, in("/tmp"), "directory of the system", false},
		{"writable home", full, writable("/home/ann"), "home directory", false},
		{"workspace in /etc", full, in("/etc/purple"), "directory of the system", false},
		{"log in the writable workspace", full + "audit: {log_path: /home/ann/project/logs/x.log}\n", writable("/home/ann/project"), "it holds the log", false},
		{"log in an output path", full + "audit: {log_path: /srv/tree/x.log}\n", nil, "it holds the log", false},
		{"profile in the writable workspace", full, func(c *Command, h *host.Facts) {
			c.Workspace, c.Profiles = "/home/ann/project", []string{"/home/ann/project/sub/p.yaml"}
		}, "holds the profile", false},
		{"profile in an output path", full, func(c *Command, _ *host.Facts) { c.Profiles = []string{"/srv/tree/p.yaml"} }, "full.yaml:11:7", false},
		{"workspace holds the profiles", full, func(c *Command, _ *host.Facts) {
			c.Workspace, c.ProfileDirs = "/home/ann/.config", []string{"/home/ann/.config/purple/policies"}
		}, "profiles are found in", false},
		{"workspace among the profiles", full, func(c *Command, _ *host.Facts) {
			c.Workspace, c.ProfileDirs = "/home/ann/.config/purple/policies/sub", []string{"/home/ann/.config/purple/policies"}
		}, "profiles are found in", false},
		{"workspace holds purple-init", full, func(c *Command, _ *host.Facts) {
			c.Workspace, c.InitPath = "/home/ann/project", "/home/ann/project/bin/purple-init"
		}, "executed outside of the sandbox", false},
		{"home of a directory service", full, func(c *Command, _ *host.Facts) {
			c.Dir, c.Invoker = "/net/people/eve", Invoker{UID: 70000, GID: 70000, Home: "/net/people/eve/"}
		}, "home directory", false},
		{"disk of a submount unknown", full, func(_ *Command, h *host.Facts) {
			h.Paths["/usr"] = host.PathFact{Exists: true, FSType: "ext4", Device: "254:0", Submounts: []string{"/usr/far"}}
			h.Paths["/usr/far"] = host.PathFact{Exists: true, FSType: "nfs4"}
		}, `no disk can be found behind "/usr/far" (nfs4)`, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := build(t, c.text, c.change)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			var u *UnsupportedError
			if errors.As(err, &u) != c.unsupported {
				t.Errorf("%T: %v", err, err)
			}
		})
	}
}

// TestGoldens has the whole plan in each of its three texts.
func TestGoldens(t *testing.T) {
	plan := mustBuild(t, full, nil)
	sudo := mustBuild(t, full, func(c *Command, h *host.Facts) {
		c.Invoker = Invoker{UID: 1000, GID: 1000, Name: "ann"}
		c.Workspace = "/home/ann/project"
		h.Cgroup = host.Hybrid
	})
	json, err := plan.JSON()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.txt", []byte(plan.Text()))
	golden(t, "plan.json", json)
	golden(t, "plan.service", []byte(plan.UnitFile()))
	golden(t, "sudo-hybrid.txt", []byte(sudo.Text()))
}

// golden compares with a file of testdata, which -update rewrites.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (rewrite with -update and look at the change); got:\n%s", file, got)
	}
}

// signatures are those of systemd's D-Bus interface
// (org.freedesktop.systemd1(5)).
var signatures = map[string]string{
	"Description": "s", "Slice": "s", "Type": "s", "NotifyAccess": "s", "ExecStart": "a(sasb)", "Environment": "as", "SyslogIdentifier": "s", "TimerSlackNSec": "t",
	"SyslogLevelPrefix": "b", "KillMode": "s", "TimeoutStartUSec": "t", "TimeoutStopUSec": "t", "CollectMode": "s", "OOMPolicy": "s", "IgnoreSIGPIPE": "b",
	"PrivateNetwork": "b", "CPUQuotaPerSecUSec": "t", "MemoryMax": "t", "MemorySwapMax": "t", "TasksMax": "t",
	"IOReadBandwidthMax": "a(st)", "IOWriteBandwidthMax": "a(st)", "RuntimeMaxUSec": "t",
}

func TestSignatures(t *testing.T) {
	plan := mustBuild(t, full, nil)
	for _, p := range plan.Properties {
		if got := dbus.SignatureOf(p.Value).String(); got != signatures[p.Name] {
			t.Errorf("%s: %s, want %s", p.Name, got, signatures[p.Name])
		}
	}
	if len(plan.Properties) != len(rows) || len(rows) != len(signatures) {
		t.Errorf("%d properties of %d rows, %d signatures: the full profile must use every row", len(plan.Properties), len(rows), len(signatures))
	}
}

// Every property is saved by systemd under its own name and read again at a
// daemon-reload: a name that is none in a unit file makes the unit a bad one,
// without limits. Those in saved have names that differ and are saved rightly.
func TestPropertiesSurviveAReload(t *testing.T) {
	saved := []string{"TimeoutStartUSec", "TimeoutStopUSec", "RuntimeMaxUSec", "CPUQuotaPerSecUSec"}
	for _, p := range mustBuild(t, full, nil).Properties {
		if p.Name != p.File && !slices.Contains(saved, p.Name) {
			t.Errorf("%s is not %s", p.Name, p.File)
		}
	}
}

// TestUnlimitedRows is the other polarity of the rows that depend on a limit.
func TestUnlimitedRows(t *testing.T) {
	plan := mustBuild(t, strings.NewReplacer("0.5", "unlimited", "64M", "unlimited", " 100\n", " unlimited\n", "100MBps", "unlimited", " 60\n", " unlimited\n").Replace(full), nil)
	got := map[string]any{}
	for _, p := range plan.Properties {
		got[p.Name] = p.Value
	}
	const infinity = ^uint64(0)
	want := map[string]any{"MemoryMax": infinity, "TasksMax": infinity, "RuntimeMaxUSec": infinity}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	for _, name := range []string{"CPUQuotaPerSecUSec", "MemorySwapMax", "IOReadBandwidthMax", "IOWriteBandwidthMax"} {
		if value, ok := got[name]; ok {
			t.Errorf("%s is %v, should be left out", name, value)
		}
	}
	if len(plan.Spec.Checks) != 0 || plan.Spec.TasksLimit != 0 {
		t.Errorf("checks %v, tasks %d", plan.Spec.Checks, plan.Spec.TasksLimit)
	}
}

func TestChecks(t *testing.T) {
	unified := mustBuild(t, full, nil).Spec.Checks
	want := []spec.CgroupCheck{
		{Setting: keyMemory, File: "memory.max", Want: []string{"67108864"}},
		{Setting: keyMemory, File: "memory.swap.max", Want: []string{"0"}},
		{Setting: keyTasks, File: "pids.max", Want: []string{"148"}},
		{Setting: keyCPU, File: "cpu.max", Want: []string{"50000", "100000"}},
		{Setting: keyBlockIO, File: "io.max", Device: "254:0", Want: []string{"rbps=100000000", "wbps=100000000"}},
	}
	if !reflect.DeepEqual(unified, want) {
		t.Errorf("unified: %+v", unified)
	}
	hybrid := mustBuild(t, full, func(_ *Command, h *host.Facts) { h.Cgroup = host.Hybrid }).Spec.Checks
	want = []spec.CgroupCheck{
		{Setting: keyMemory, Controller: "memory", File: "memory.limit_in_bytes", Want: []string{"67108864"}},
		{Setting: keyTasks, Controller: "pids", File: "pids.max", Want: []string{"148"}},
		{Setting: keyCPU, Controller: "cpu", File: "cpu.cfs_quota_us", Want: []string{"50000"}},
		{Setting: keyCPU, Controller: "cpu", File: "cpu.cfs_period_us", Want: []string{"100000"}},
		{Setting: keyBlockIO, Controller: "blkio", File: "blkio.throttle.read_bps_device", Device: "254:0", Want: []string{"100000000"}},
		{Setting: keyBlockIO, Controller: "blkio", File: "blkio.throttle.write_bps_device", Device: "254:0", Want: []string{"100000000"}},
	}
	if !reflect.DeepEqual(hybrid, want) {
		t.Errorf("hybrid: %+v", hybrid)
	}
}

// A folder is not writable in which a session, a shell or a tool of the caller's would run
// what the command leaves; and what programs keep data in is.
func TestSessionPlaces(t *testing.T) {
	ann := func(dir string) func(*Command, *host.Facts) {
		return func(c *Command, _ *host.Facts) {
			c.Invoker, c.Workspace = Invoker{UID: 1000, GID: 1000, Name: "ann", Home: "/home/ann"}, dir
			c.Environ = map[string]string{"XDG_CONFIG_HOME": "/data/config", "XDG_DATA_HOME": "relative"}
			c.Links = map[string]string{"/home/ann/.bashrc": "/home/ann/dotfiles/bash/rc"}
		}
	}
	refused := []string{"/data/config/systemd/user", "/data/config", "/home/ann/dotfiles", "/home/ann/dotfiles/bash", "/home/bob/.ssh", "/root/.config/systemd"}
	for _, place := range SessionPaths("/home/ann") {
		refused = append(refused, place, place+"/sub")
		if dir := filepath.Dir(place); dir != "/home/ann" {
			refused = append(refused, dir)
		}
	}
	homes := func(change func(*Command, *host.Facts)) func(*Command, *host.Facts) {
		return func(c *Command, h *host.Facts) {
			change(c, h)
			h.Homes = append(h.Homes, "/home/bob")
		}
	}
	for _, dir := range refused {
		if _, err := build(t, "name: x\n", homes(ann(dir))); err == nil || !strings.Contains(err.Error(), "outside of the sandbox, by") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, dir := range []string{"/home/ann/project", "/home/ann/.cache/pip", "/home/ann/.npm", "/home/ann/.cargo/registry", "/home/ann/go/src/x", "/home/ann/.config/mine",
		"/home/ann/binary", "/home/ann/.local/share/mine", "/home/ann/.m2/repository", "/home/ann/dotfiles/zsh", "/data/share/systemd", "/home/ann/.sshx"} {
		if _, err := build(t, "name: x\n", homes(ann(dir))); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for _, name := range []string{".config/user-tmpfiles.d", ".local/share/user-tmpfiles.d", ".local/share/dbus-1", ".config/containers", ".config/plasma-workspace", ".local/bin", ".config/git", ".gitconfig", ".gnupg"} {
		if !slices.Contains(SessionPaths(""), name) {
			t.Errorf("%s is not there", name)
		}
	}
}

// Root's runs show each folder's owner as the command's user.
func TestOwnersOfFolders(t *testing.T) {
	owners := func(invoker Invoker) string {
		s := mustBuild(t, full, func(c *Command, h *host.Facts) {
			c.Invoker, c.Workspace = invoker, "/home/ann/project"
			for path, id := range map[string]uint32{"/home/ann/project": 1000, "/srv/out": 7, "/srv/tree": 1000} {
				fact := h.Paths[path]
				fact.UID, fact.GID = id, id+1
				h.Paths[path] = fact
			}
		}).Spec
		var text strings.Builder
		for _, m := range s.Mounts {
			if m.Idmap != 0 {
				fmt.Fprintf(&text, "%s:%d ", m.Source, s.Idmaps[m.Idmap-1])
			}
		}
		return fmt.Sprint(text.String(), len(s.Idmaps))
	}
	if got := owners(Invoker{}); got != "/home/ann/project:{1000 1001} /srv/out:{7 8} /srv/tree:{1000 1001} 2" {
		t.Errorf("%q", got)
	}
	if got := owners(Invoker{UID: 1000, GID: 1000}); got != "0" {
		t.Errorf("behind sudo: %q", got)
	}
}

// What a profile of root's asks for is opened as root, and all else behind sudo as who
// called: the position in the profile says whose it is.
func TestWhoAsks(t *testing.T) {
	const profile = "name: mine\nfilesystem:\n  immutable_paths: [/usr]\n  output_paths: [{host_path: /srv/out, sandbox_path: /output}]\n  workspace: read-only\n"
	const file = "full.yaml"
	asked := func(c Command, isUser bool) string {
		var b strings.Builder
		for _, m := range mustBuild(t, profile, func(own *Command, h *host.Facts) {
			own.Invoker, own.RootsFiles = c.Invoker, c.RootsFiles
			if isUser {
				h.Manager = host.UserManager
			}
		}).Spec.Mounts {
			if m.Kind != spec.Tmpfs {
				fmt.Fprintf(&b, "%s:%t ", m.Target, m.AsOwner)
			}
		}
		return strings.TrimSpace(b.String())
	}
	bob := Invoker{UID: 1001, GID: 1002, Name: "bob", Groups: []uint32{7}}
	for want, got := range map[string]string{
		"/home/ann/project:true /output:true /usr:true":    asked(Command{Invoker: bob}, false),
		"/home/ann/project:true /output:false /usr:false":  asked(Command{Invoker: bob, RootsFiles: []string{file}}, false),
		"/home/ann/project:false /output:false /usr:false": asked(Command{}, false),
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	// There all of the unit has the invoker's rights.
	if got := asked(Command{Invoker: bob}, true); got != "/home/ann/project:false /output:false /usr:false" {
		t.Errorf("under a user manager: %s", got)
	}
	if IsInvokers(policies.Position{}, nil) || !IsInvokers(policies.Position{File: "x"}, []string{"y"}) {
		t.Error("a default is root's, and another file is not")
	}
}

func TestWarnsOfCores(t *testing.T) {
	for pattern, want := range map[string]bool{"": false, "core": false, "|/usr/lib/systemd/systemd-coredump %P": false, "@/run/dump.socket": true, "@@/run/\x1b": true} {
		warnings := fmt.Sprint(mustBuild(t, full, func(_ *Command, h *host.Facts) { h.CorePattern = pattern }).Warnings)
		if strings.Contains(warnings, "warning: kernel.core_pattern is ") != want || strings.Contains(warnings, "\x1b") {
			t.Errorf("%q: %s", pattern, warnings)
		}
	}
}

func TestCPUQuota(t *testing.T) {
	for perSecond, want := range map[uint64][2]uint64{
		500_000: {50_000, 100_000}, 2_000_000: {200_000, 100_000}, 10_000: {1_000, 100_000},
		5_000: {1_000, 200_000}, 1_000: {1_000, 1_000_000},
		// systemd divides down: 333_334 would never read back.
		3_000: {1_000, 333_333}, 7_777: {1_000, 128_584},
	} {
		if quota, period := cpuQuota(perSecond); quota != want[0] || period != want[1] {
			t.Errorf("%d: %d %d, want %v", perSecond, quota, period, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	root := mustBuild(t, full, nil).Spec
	if id := root.Identity; id.HostUID != 0x73adcafe || id.HostGID != id.HostUID || id.UID != 1000 || id.OwnerUID != 0 {
		t.Errorf("root: %+v", id)
	}
	sudo := mustBuild(t, full, func(c *Command, _ *host.Facts) { c.Invoker = Invoker{UID: 1001, GID: 1002, Name: "bob"} }).Spec
	if sudo.Identity != (spec.Identity{UID: 1001, GID: 1002, HostUID: 1001, HostGID: 1002, OwnerUID: 1001, OwnerGID: 1002}) {
		t.Errorf("sudo: %+v", sudo.Identity)
	}
	for _, s := range []spec.Spec{root, sudo} {
		idmapped := slices.ContainsFunc(s.Mounts, func(m spec.Mount) bool { return m.Idmap != 0 })
		if idmapped != (s.Identity.OwnerUID != s.Identity.HostUID) {
			t.Errorf("%+v: idmapped %v", s.Identity, idmapped)
		}
	}
	if _, err := build(t, full, func(c *Command, _ *host.Facts) { c.Invoker = Invoker{UID: 1001, Name: "bob"} }); err == nil {
		t.Error("the host's group 0 was accepted")
	}
}

// The environment is five names and what was asked for; the caller's secrets
// stay outside.
func TestEnvironment(t *testing.T) {
	plan := mustBuild(t, full, func(c *Command, _ *host.Facts) {
		c.Env, c.Terminal = map[string]string{"EXTRA": "1", "USER": "me"}, [3]bool{true, true, true}
	})
	var got []string
	for _, e := range plan.Spec.Command.Env {
		got = append(got, string(e))
	}
	want := []string{"EXTRA=1", "HOME=/home/agent", "LANG=de_DE.UTF-8", "MODE=100% $HOME", "PASSED=yes", "PATH=" + searchPath, "TERM=xterm", "USER=me"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, text := range []string{plan.Text(), plan.UnitFile()} {
		if strings.Contains(text, "100% $HOME") || strings.Contains(text, "=yes") && strings.Contains(text, "PASSED=yes") {
			t.Error("a value of the environment is in the plan's text")
		}
	}
}

// A read-only folder cannot be changed, whatever it holds.
func TestReadOnlyWorkspaceMayHoldPurple(t *testing.T) {
	mustBuild(t, full, func(c *Command, _ *host.Facts) {
		c.Profiles, c.InitPath = []string{"/home/ann/project/p.yaml"}, "/home/ann/project/bin/purple-init"
	})
}

// Every disk that the sandbox reaches is limited: also what is mounted below a
// bound path, each by one name, in one assignment.
func TestBlockIOOfEveryDisk(t *testing.T) {
	plan := mustBuild(t, full, func(c *Command, h *host.Facts) {
		c.Dir = "/data/two words\nExecStopPost=/bin/evil"
		h.Paths[c.Dir] = disk("8:0")
		usr := disk("254:0")
		usr.Submounts = []string{"/usr/local", "/usr/proc"}
		h.Paths["/usr"], h.Paths["/usr/local"], h.Paths["/usr/proc"] = usr, disk("8:16"), host.PathFact{Exists: true, FSType: "proc"}
		h.Paths["/srv/out"] = host.PathFact{Exists: true, IsDir: true, FSType: "tmpfs"}
	})
	const limit = uint64(100_000_000)
	want := []deviceLimit{{"/dev/block/8:0", limit}, {"/opt/tool", limit}, {"/usr/local", limit}}
	for _, p := range plan.Properties {
		if !strings.HasSuffix(p.Name, "BandwidthMax") {
			continue
		}
		got := slices.SortedFunc(slices.Values(p.Value.([]deviceLimit)), func(x, y deviceLimit) int { return strings.Compare(x.Path, y.Path) })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v", p.Name, got)
		}
	}
	for _, want := range []string{"IOReadBandwidthMax=/dev/block/8:0 100000000\n", "IOReadBandwidthMax=/usr/local 100000000\n"} {
		if !strings.Contains(plan.UnitFile(), want) {
			t.Errorf("no %q in\n%s", want, plan.UnitFile())
		}
	}
	var checked []string
	for _, c := range plan.Spec.Checks {
		if c.Device != "" {
			checked = append(checked, c.Device)
		}
	}
	slices.Sort(checked)
	if !slices.Equal(checked, []string{"254:0", "8:0", "8:16"}) {
		t.Errorf("checked %v", checked)
	}
	for name, want := range map[string]bool{"/srv/out": true, "/usr/proc": true, "/usr/local": false} {
		if got := slices.ContainsFunc(plan.Warnings, func(w policies.Warning) bool { return strings.Contains(w.Text, `"`+name+`"`) }); got != want {
			t.Errorf("warning of %s: %v", name, got)
		}
	}
}

// No line of a plan is anybody's but Purple's, whatever a folder is called.
func TestPlanIsPrintable(t *testing.T) {
	const dir = "/data/\x1b[2J\nMemoryMax=infinity"
	plan := mustBuild(t, full, func(c *Command, h *host.Facts) {
		c.Dir, h.Paths[dir] = dir, disk("8:0")
	})
	for _, text := range []string{plan.Text(), plan.UnitFile()} {
		if strings.Contains(text, "\x1b") || strings.Contains(text, "\nMemoryMax=infinity") {
			t.Errorf("%q", text)
		}
	}
}

// unquoteWord reads what systemd.syntax(7) says of a quoted word, and a
// doubled % as unit_full_printf() does.
func unquoteWord(t *testing.T, s string) string {
	t.Helper()
	if strings.HasPrefix(s, `"`) {
		// The escapes that quoteWord writes are C's, and so Go's.
		var err error
		if s, err = strconv.Unquote(s); err != nil {
			t.Fatal(err)
		}
	} else if strings.ContainsAny(s, " \t\n\"'\\;") {
		t.Fatalf("%q is not one word", s)
	}
	if strings.Contains(strings.ReplaceAll(s, "%%", ""), "%") {
		t.Fatalf("%q holds a specifier", s)
	}
	return strings.ReplaceAll(s, "%%", "%")
}

func TestQuoteWordRoundTrips(t *testing.T) {
	for _, s := range []string{"/usr/libexec/purple-init", "/a b", "/a:b", `:/a"b'c`, `/back\slash`, "/a\nb\tc\x7f", "/100%h", "/$HOME", "/semi;colon", "/ü", "/#"} {
		quoted := quoteWord(s)
		if strings.Contains(quoted, "\n") || unquoteWord(t, quoted) != s {
			t.Errorf("%q became %s", s, quoted)
		}
	}
	if got := quoteWord("/usr/bin/x-1.2_y@z"); got != "/usr/bin/x-1.2_y@z" {
		t.Errorf("needless quotes: %s", got)
	}
}

// Each variable names what causes it.
func TestCausesOfTheEnvironment(t *testing.T) {
	plan := mustBuild(t, full, func(c *Command, _ *host.Facts) { c.Env = map[string]string{"EXTRA": "1"} })
	got := map[string]string{}
	for _, l := range plan.Lines() {
		if name, ok := strings.CutPrefix(l.Statement, "environment "); ok {
			got[name] = l.reason()
		}
	}
	want := map[string]string{
		"EXTRA": "--env", "HOME": "full.yaml:12:3 filesystem.working_dir", "LANG": "every command has it", "PATH": "every command has it",
		"USER": "every command has it", "MODE": "full.yaml:25:9 environment.set.MODE", "PASSED": "full.yaml:26:3 environment.pass",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestUnknownNamespacesAreSaid(t *testing.T) {
	const said = "the manager's are not known"
	if text := mustBuild(t, full, nil).Text(); strings.Contains(text, said) {
		t.Error(text)
	}
	text := mustBuild(t, full, func(_ *Command, h *host.Facts) { h.ManagerNamespaces = nil }).Text()
	if !strings.Contains(text, said) {
		t.Error(text)
	}
}

func TestMountsAreOrderedAndOptionalOnesLeftOut(t *testing.T) {
	var targets []string
	for _, m := range mustBuild(t, full, nil).Spec.Mounts {
		targets = append(targets, m.Target)
	}
	if !slices.IsSorted(targets) || slices.Contains(targets, "/nowhere") {
		t.Errorf("%v", targets)
	}
}

func TestAudit(t *testing.T) {
	hash, err := parse(t, full).Digest()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]*spec.Audit{
		"": {Resources: true},
		"audit:\n  log_path: /var/log/x.log\n  detail_level: [network]\n": {LogPath: "/var/log/x.log"},
		"audit:\n  enabled: false\n  log_path: /var/log/x.log\n":          nil,
	} {
		plan := mustBuild(t, full+text, nil)
		if !reflect.DeepEqual(plan.Spec.Audit, want) {
			t.Errorf("%q: %+v", text, plan.Spec.Audit)
		}
		if len(plan.Warnings) != 1 { // CAP_NET_RAW
			t.Errorf("%q: %v", text, plan.Warnings)
		}
		limits := spec.Limits{Memory: 64 << 20, Tasks: 100, CPU: 500_000, IO: 100_000_000, Timeout: 60e6}
		if plan.Spec.Limits != limits || len(plan.Spec.PolicyHash) != 64 || (text == "") != (plan.Spec.PolicyHash == hash) {
			t.Errorf("%q: %+v, %s", text, plan.Spec.Limits, plan.Spec.PolicyHash)
		}
	}
	plan := mustBuild(t, full+"audit:\n  log_path: /var/log/x.log\n", nil)
	if plan.LogNamedIn.File != "full.yaml" || !strings.Contains(plan.Text(), "events are appended to /var/log/x.log") {
		t.Errorf("%v\n%s", plan.LogNamedIn, plan.Text())
	}
}

// TestBuildIsPure: the same input gives the same, and no input is changed.
func TestBuildIsPure(t *testing.T) {
	c, h, p := caller(), machine(), parse(t, full)
	first, err := Build(p, c, h)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := Build(p, c, h)
		if err != nil || !reflect.DeepEqual(first, again) || first.Text() != again.Text() {
			t.Fatalf("not the same: %v", err)
		}
	}
	if !reflect.DeepEqual(c, caller()) || !reflect.DeepEqual(h, machine()) {
		t.Error("an argument was changed")
	}
}
