package policies

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/policies/syscalls"
)

func loadBuiltin(t *testing.T, name string) *Policy {
	t.Helper()
	file, content, ok := builtin(name)
	if !ok {
		t.Fatalf("no built-in profile %q", name)
	}
	p, err := Parse(name, file, content)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBuiltins(t *testing.T) {
	want := []string{"ai-dev-safe", "node", "offline", "python"}
	if got := Builtins(); !slices.Equal(got, want) {
		t.Fatalf("Builtins() = %q, want %q", got, want)
	}
	for _, name := range want {
		t.Run(name, func(t *testing.T) {
			p := loadBuiltin(t, name)
			if len(p.Warnings) != 0 || p.Description == "" {
				t.Errorf("warnings %v, description %q", p.Warnings, p.Description)
			}
			if p.Network.Isolated != (name != "ai-dev-safe") || len(p.Network.Incoming) != 0 || p.Filesystem.Workspace != WorkspaceReadOnly || !p.Audit.Enabled {
				t.Errorf("isolated %t, workspace %s, audit %t", p.Network.Isolated, p.Filesystem.Workspace, p.Audit.Enabled)
			}
			r := p.Resources
			if r.CPU.Unlimited || r.Memory.Unlimited || r.Tasks.Unlimited || r.Timeout.Unlimited {
				t.Errorf("a limit is missing: %+v", r)
			}
			if !p.Capabilities.DefaultDrop || len(p.Capabilities.Add) != 0 || len(p.Filesystem.Output) != 0 {
				t.Errorf("%+v, %v", p.Capabilities, p.Filesystem.Output)
			}
			checkRoundTrip(t, p)
			golden(t, name+".golden", encoded(t, p))
		})
	}
}

// Only /usr exists on every distribution, and nothing private may be shown.
func TestBuiltinPaths(t *testing.T) {
	private := []string{"/home", "/root", "/run", "/var", "/sys", "/proc", "/dev", "/tmp", "/boot", "/srv", "/mnt", "/media",
		"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/shadow", "/etc/ssh", "/etc/ssl/private", "/etc/pki/tls/private"}
	for _, name := range Builtins() {
		p := loadBuiltin(t, name)
		for _, b := range p.Filesystem.Immutable {
			if b.HostPath != b.SandboxPath {
				t.Errorf("%s: %s is shown at another place, %s", name, b.HostPath, b.SandboxPath)
			}
			if !b.Optional && b.HostPath != "/usr" {
				t.Errorf("%s: %s is not optional", name, b.HostPath)
			}
			for _, secret := range private {
				if within(b.HostPath, secret) || within(secret, b.HostPath) {
					t.Errorf("%s: %s shows %s", name, b.HostPath, secret)
				}
			}
		}
	}
}

// allowed is what a policy lets through by name.
func allowed(t *testing.T, s Syscalls) map[string]bool {
	t.Helper()
	set := map[string]bool{}
	mark := func(rules []SyscallRule, to bool) {
		for _, r := range rules {
			members, group := syscalls.Group(r.Name)
			if !group {
				members = []string{r.Name}
			}
			for _, m := range members {
				set[m] = to
			}
		}
	}
	if !s.DefaultDeny {
		t.Fatal("allows by default")
	}
	mark(s.Allow, true)
	mark(s.Deny, false)
	return set
}

// dangerous must be refused whatever else a shipped profile is good for.
var dangerous = strings.Fields(`
ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise
bpf perf_event_open userfaultfd fanotify_init
io_uring_setup io_uring_enter io_uring_register
add_key keyctl request_key
mount umount2 pivot_root chroot fsopen fsmount fsconfig fspick open_tree move_mount mount_setattr
setns init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff
acct quotactl quotactl_fd syslog iopl ioperm personality
settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname
name_to_handle_at open_by_handle_at modify_ldt lookup_dcookie migrate_pages move_pages vhangup
nfsservctl uselib ustat sysfs _sysctl`)

func TestBuiltinsAndDefaultRefuseDangerousCalls(t *testing.T) {
	profiles := map[string]*Policy{"default": mustParse(t, "{}")}
	for _, name := range Builtins() {
		profiles[name] = loadBuiltin(t, name)
	}
	for name, p := range profiles {
		set := allowed(t, p.Syscalls)
		for _, call := range dangerous {
			if set[call] {
				t.Errorf("%s allows %s", name, call)
			}
		}
		// The control: without it an empty set would pass.
		for _, call := range []string{"read", "execve", "exit_group", "clone3", "openat", "mmap"} {
			if !set[call] {
				t.Errorf("%s refuses %s", name, call)
			}
		}
	}
	for _, call := range []string{"socket", "connect", "bind", "listen", "chown", "mknod", "unshare", "seccomp", "setuid"} {
		if allowed(t, profiles["offline"].Syscalls)[call] {
			t.Errorf("offline allows %s", call)
		}
	}
}

func TestBuiltinsAllowWhatTheirToolsNeed(t *testing.T) {
	f, err := os.Open("testdata/needs.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var set map[string]bool
	name, checked := "", map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if profile, opens := strings.CutSuffix(line, ":"); opens {
			name, set = profile, allowed(t, loadBuiltin(t, profile).Syscalls)
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		for call := range strings.FieldsSeq(line) {
			checked[name]++
			if !set[call] {
				t.Errorf("%s refuses %s", name, call)
			}
		}
	}
	for _, name := range Builtins() {
		if checked[name] < 50 {
			t.Errorf("%s: only %d calls checked", name, checked[name])
		}
	}
}
