package policies

import "slices"

// defaultPolicy is what a profile gets where it says nothing. docs/policy.md
// has the same values as a table, and a test compares them.
func defaultPolicy() *Policy {
	return &Policy{
		Filesystem: Filesystem{
			Scratch:    []Scratch{{Path: "/tmp", Key: "filesystem.scratch_paths[0]"}},
			WorkingDir: "/home/agent",
			Workspace:  WorkspaceNone,
		},
		Syscalls: Syscalls{DefaultDeny: true},
		Resources: Resources{
			CPU:     Limit{Unlimited: true},
			Memory:  Limit{Value: 2 << 30},
			Tasks:   Limit{Value: 512},
			BlockIO: Limit{Unlimited: true},
			Timeout: Limit{Value: 3600 * 1_000_000},
		},
		Capabilities: Capabilities{DefaultDrop: true},
		Network:      Network{Isolated: true},
		Audit:        Audit{Enabled: true, Detail: slices.Clone(defaultDetails)},
	}
}

// defaultAllow is systemd's own proposal for services. It is too wide for a
// command that nobody vouches for: defaultDeny takes the rest away.
var defaultAllow = []string{"@system-service"}

// defaultDeny is what reaches beyond the sandbox, or has been a way out of one
// before, and is of no use to an ordinary program.
var defaultDeny = []string{
	"@clock",         // the clock is the host's: there is no namespace for it
	"@cpu-emulation", // modify_ldt: old code, CVE-2015-5157
	"@debug",         // ptrace, perf_event_open (CVE-2013-2094), pidfd_getfd
	"@keyring",       // keys have no namespace, and live as long as the user's session
	"@module",
	"@mount", // chroot, pivot_root and the new mount API are in it
	"@obsolete",
	"@raw-io",
	"@reboot",
	"@swap",
	"acct",
	"bpf",
	"fanotify_init",
	"io_uring_enter", // seccomp sees no request that goes through the ring
	"io_uring_register",
	"io_uring_setup",
	"kcmp", // compares kernel pointers of other processes
	"lookup_dcookie",
	"migrate_pages",
	"move_pages",
	"name_to_handle_at",
	"open_by_handle_at", // opens by inode number, past the sandbox's root
	"perf_event_open",
	"personality", // turns off address randomisation
	"pidfd_getfd",
	"process_madvise",
	"process_vm_readv",
	"process_vm_writev",
	"quotactl",
	"quotactl_fd",
	"setdomainname",
	"sethostname",
	"setns",
	"syslog",
	"userfaultfd", // stops the kernel in the middle of a copy: the tool of race exploits
	"vhangup",
}

// DefaultDeny are the rules that stand where a profile names no calls.
func DefaultDeny() []SyscallRule { return defaultRules(defaultDeny, "syscalls.deny") }

// fillSyscalls adds the default lists. The default allow list stands for one
// that the profile does not have. The default deny list goes with it, and a
// profile that extends one with the default list keeps it: a deny survives.
func fillSyscalls(s *Syscalls, hasAllow, parentHadNone bool) {
	if !hasAllow && s.DefaultDeny {
		s.Allow = defaultRules(defaultAllow, "syscalls.allow")
	}
	if !hasAllow || parentHadNone {
		s.Deny = append(s.Deny, defaultRules(defaultDeny, "syscalls.deny")...)
	}
}

func defaultRules(names []string, key string) []SyscallRule {
	var rules []SyscallRule
	for _, name := range names {
		rules = append(rules, SyscallRule{Name: name, Key: key})
	}
	return rules
}
