// Package seccomp compiles the meaning of a policy's system calls into a
// filter for the kernel. It is the only package with cgo: libseccomp.
//
// The filter is one BPF program of two parts. The floor (floor.go) holds
// whatever the policy says; what it lets pass goes on to the policy's part,
// which libseccomp compiles. Rules is the same in plain Go: what is enforced
// is made from it, what is explained is read from it, and the tests run the
// program against it.
//
// A filter sees numbers and registers, never what a pointer points to. So it
// does not confine paths, addresses or signals: mounts, nftables and the PID
// namespace do.
package seccomp

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

// NativeArch is the architecture that this program runs on, as GOARCH has it.
const NativeArch = runtime.GOARCH

// Decision is what happens to a call, and why.
type Decision struct {
	Action Action
	// Key is the policy's key that decided, "syscalls.deny[3]"; empty when
	// the floor did.
	Key  string
	Rule string // that rule as the policy names it: "@file-system"; may be empty
	Why  string // the reason in words, where Key and Rule do not say enough
}

// Rules are a policy's system calls, resolved for one architecture.
type Rules struct {
	arch    string
	policy  policies.Syscalls
	calls   map[int]Decision // by number, every number that the architecture has
	clone   uint32           // the CLONE_NEW* flags granted to clone
	unshare uint32           // and to unshare
}

// Resolve says what a policy means for every call of arch (a GOARCH). It fails
// on an architecture that Purple has no numbers for, on a name that is none,
// on flags that the call does not take, and on a deny that would keep the
// command from starting or ending.
func Resolve(s policies.Syscalls, arch string) (*Rules, error) {
	if !slices.Contains(syscalls.Architectures(), arch) {
		return nil, fmt.Errorf("cannot make a system call filter for %q: Purple knows %s",
			arch, strings.Join(syscalls.Architectures(), " and "))
	}
	r := &Rules{arch: arch, policy: s, calls: map[int]Decision{}}
	if err := r.grantFlags(s.Allow); err != nil {
		return nil, err
	}
	n, err := readNames(s)
	if err != nil {
		return nil, err
	}
	for _, nr := range syscalls.Numbers(arch) {
		name, _ := syscalls.Name(arch, nr)
		r.calls[nr] = n.decide(name)
	}
	return r, nil
}

// names is what a policy says of calls by their names.
type names struct {
	defaultDeny      bool
	allowed, denied  map[string]Decision
	required, probed map[string]string
}

func readNames(s policies.Syscalls) (*names, error) {
	n := &names{defaultDeny: s.DefaultDeny, required: required(), probed: probed()}
	var err error
	if n.allowed, err = byName(s.Allow, Allow); err != nil {
		return nil, err
	}
	if n.denied, err = byName(s.Deny, Deny); err != nil {
		return nil, err
	}
	n.addProcesses()
	return n, n.refuseDenyOfRequired(s.Deny)
}

// grantFlags collects the namespaces that allow rules grant by name.
func (r *Rules) grantFlags(allow []policies.SyscallRule) error {
	for _, rule := range allow {
		for _, flag := range rule.Flags {
			bit, known := syscalls.NamespaceFlag(flag)
			switch {
			case !known:
				return fmt.Errorf("%s: cannot allow %q: it is no flag that makes a namespace", rule.Key, flag)
			case rule.Name == "unshare":
				r.unshare |= uint32(bit)
			case rule.Name == "clone" && uint32(bit)&cloneNamespaces != 0:
				r.clone |= uint32(bit)
			default:
				return fmt.Errorf("%s: cannot allow %s for %s: the call does not take it", rule.Key, flag, rule.Name)
			}
		}
	}
	return nil
}

// byName is the decision of each call that the rules name. A call named itself
// is the cause before a group that has it; else the first rule is.
func byName(rules []policies.SyscallRule, action Action) (map[string]Decision, error) {
	named := map[string]Decision{}
	for _, rule := range rules {
		calls, isGroup := syscalls.Group(rule.Name)
		if !isGroup && !syscalls.Known(rule.Name) {
			return nil, fmt.Errorf("%s: unknown system call %q", rule.Key, rule.Name)
		}
		if !isGroup {
			calls = []string{rule.Name}
		}
		for _, call := range calls {
			before, taken := named[call]
			if !taken || !isGroup && before.Rule != call {
				named[call] = Decision{Action: action, Key: rule.Key, Rule: rule.Name}
			}
		}
	}
	return named, nil
}

// addProcesses lets clone3 in allow stand for the calls that libc falls back
// to when clone3 answers ENOSYS. A deny of clone3 takes that back.
func (n *names) addProcesses() {
	cause, ok := n.allowed["clone3"]
	if _, denied := n.denied["clone3"]; !ok || denied {
		return
	}
	for _, call := range []string{"clone", "fork", "vfork"} {
		if _, named := n.allowed[call]; !named {
			n.allowed[call] = cause
		}
	}
}

// refuseDenyOfRequired refuses to deny by name what cannot be denied: isolation
// that was asked for and cannot be had is an error. A group is not refused for
// having such a call.
func (n *names) refuseDenyOfRequired(deny []policies.SyscallRule) error {
	for _, rule := range deny {
		if why, ok := n.required[rule.Name]; ok {
			return fmt.Errorf("%s: cannot deny %s: %s", rule.Key, rule.Name, why)
		}
	}
	return nil
}

// decide is the policy's decision on one call; arguments are the floor's.
func (n *names) decide(name string) Decision {
	if why, ok := n.required[name]; ok {
		return Decision{Action: Allow, Why: why}
	}
	if d, ok := n.denied[name]; ok {
		return d
	}
	if d, ok := n.allowed[name]; ok {
		return d
	}
	byDefault := Decision{Action: Allow, Key: "syscalls.default_deny"}
	if n.defaultDeny {
		byDefault.Action = Deny
		if why, ok := n.probed[name]; ok {
			byDefault.Action, byDefault.Why = NoSys, why
		}
	}
	return byDefault
}

// required are the calls that every filter allows, and why.
func required() map[string]string {
	return map[string]string{
		"execve":          "it starts the command, after the filter is loaded",
		"exit":            "a thread must be able to end",
		"exit_group":      "a process must be able to end",
		"rt_sigreturn":    "a signal handler must be able to return",
		"restart_syscall": "the kernel itself goes on with an interrupted call by it",
	}
}

// probed are the calls that a library tries first and replaces by another only
// if the kernel seems to have none, and what it then does: EPERM would be an
// error to it (moby issue 42680). They answer ENOSYS where the policy does not
// speak of them; a deny by name or by group stays EPERM. Calls that are only
// ever made on purpose, such as fsopen, bpf or io_uring_enter, are not here.
func probed() map[string]string {
	const tooNew = "newer than the kernels that libraries support: they do without"
	return map[string]string{
		"close_range":             "GLib closes one descriptor after the other",
		"copy_file_range":         "cp reads and writes",
		"epoll_pwait2":            "libevent waits with epoll_wait",
		"execveat":                "libc's fexecve goes by /proc/self/fd",
		"faccessat2":              "libc falls back to faccessat",
		"fchmodat2":               "libc falls back to fchmodat",
		"futex_waitv":             "wine falls back to futex",
		"getrandom":               "libraries read /dev/urandom",
		"io_uring_setup":          "event loops fall back to epoll",
		"landlock_create_ruleset": "programs that confine themselves go on as on an older kernel",
		"membarrier":              "runtimes use memory barriers",
		"mbind":                   "libnuma goes on as on a kernel without NUMA",
		"memfd_create":            "programs use an unlinked file",
		"openat2":                 "path libraries fall back to openat",
		"pidfd_open":              "runtimes wait for SIGCHLD",
		"pidfd_send_signal":       "runtimes use kill",
		"preadv2":                 "libc falls back to preadv",
		"pwritev2":                "libc falls back to pwritev",
		"set_mempolicy":           "libnuma, and ps by it, goes on as on a kernel without NUMA",
		"renameat2":               "mv falls back to renameat",
		"rseq":                    "libc does without restartable sequences",
		"statx":                   "libc falls back to newfstatat",
		"listmount":               "libmount reads /proc/self/mountinfo",
		"statmount":               "libmount reads /proc/self/mountinfo",
		"cachestat":               tooNew,
		"file_getattr":            tooNew,
		"file_setattr":            tooNew,
		"futex_requeue":           tooNew,
		"futex_wait":              tooNew,
		"futex_wake":              tooNew,
		"getxattrat":              tooNew,
		"listxattrat":             tooNew,
		"map_shadow_stack":        tooNew,
		"mseal":                   tooNew,
		"removexattrat":           tooNew,
		"rseq_slice_yield":        tooNew,
		"setxattrat":              tooNew,
	}
}
