// Package seccomp compiles the meaning of a policy's system calls into a
// filter for the kernel. It is the only package with cgo: libseccomp.
//
// The filter is one BPF program of two parts. The floor (floor.go) holds
// whatever the policy says; what it lets pass goes on to the policy's part,
// which libseccomp compiles.
package seccomp

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

// NativeArch is the architecture that this program runs on.
const NativeArch = runtime.GOARCH

// Action is what happens to a call.
type Action string

// The actions of the policy's part. Deny is the one that a denied call gets;
// NoSys is for calls that libraries try and do without only if the kernel
// seems not to have them.
const (
	Allow Action = "allow"
	Deny  Action = "EPERM"
	NoSys Action = "ENOSYS"
)

// Meaning is the verdict on one system call and its cause.
type Meaning struct {
	Action Action
	Key    string // the policy's key: "syscalls.deny[3]"; empty: see Why
	Why    string
}

// required are calls that no filter of Purple's denies: execve starts the
// command, the others end a process or a signal handler.
var required = []string{"execve", "exit", "exit_group", "rt_sigreturn"}

// probed are calls that libc, Go, node or coreutils try first and replace by
// an older one only on ENOSYS (moby#42680). Not listed in allow, they answer
// that; listed in deny, EPERM. clone3 always answers ENOSYS, see floor.go.
var probed = []string{
	"cachestat", "clone3", "close_range", "copy_file_range", "epoll_pwait2", "faccessat2", "fchmodat2",
	"futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "getrandom", "io_uring_setup",
	"listmount", "map_shadow_stack", "membarrier", "memfd_create", "mseal", "openat2", "pidfd_open",
	"pidfd_send_signal", "preadv2", "pwritev2", "renameat2", "rseq", "statmount", "statx", "uretprobe",
}

// makesProcesses are what clone3 in allow stands for: its flags are behind a
// pointer, where no filter can see them, so libc is made to fall back.
var makesProcesses = []string{"clone", "fork", "vfork"}

// Meanings says what a policy means for every call of arch, by number.
// Enforcement and explanation both come from it.
func Meanings(s policies.Syscalls, arch string) (map[int]Meaning, error) {
	if !slices.Contains(syscalls.Architectures(), arch) {
		return nil, fmt.Errorf("cannot make a filter for %s: the architectures are %s", arch, strings.Join(syscalls.Architectures(), ", "))
	}
	named, err := byName(s)
	if err != nil {
		return nil, err
	}
	meanings := map[int]Meaning{}
	for _, nr := range syscalls.Numbers(arch) {
		name, _ := syscalls.Name(arch, nr)
		meanings[nr] = meaningOf(s, name, named)
	}
	return meanings, nil
}

// byName collects what the rules say; deny beats allow, whatever the order.
func byName(s policies.Syscalls) (map[string]Meaning, error) {
	named := map[string]Meaning{}
	for _, rule := range s.Allow {
		calls, err := members(rule)
		if err != nil {
			return nil, err
		}
		for _, call := range calls {
			named[call] = Meaning{Action: Allow, Key: rule.Key}
		}
	}
	if m, ok := named["clone3"]; ok {
		for _, call := range makesProcesses {
			named[call] = m
		}
	}
	for _, rule := range s.Deny {
		calls, err := members(rule)
		if err != nil {
			return nil, err
		}
		for _, call := range calls {
			if slices.Contains(required, call) && rule.Name == call {
				return nil, fmt.Errorf("%s: cannot deny %s: Purple needs it to start and end the command", rule.Key, call)
			}
			named[call] = Meaning{Action: Deny, Key: rule.Key}
		}
	}
	return named, nil
}

func members(rule policies.SyscallRule) ([]string, error) {
	if !syscalls.Known(rule.Name) {
		return nil, fmt.Errorf("internal error: %s: unknown system call %q", rule.Key, rule.Name)
	}
	if calls, ok := syscalls.Group(rule.Name); ok {
		return calls, nil
	}
	return []string{rule.Name}, nil
}

func meaningOf(s policies.Syscalls, name string, named map[string]Meaning) Meaning {
	if slices.Contains(required, name) {
		return Meaning{Action: Allow, Why: "Purple needs it"}
	}
	if name == "clone3" {
		return Meaning{Action: NoSys, Why: "its flags cannot be checked; libc falls back to clone"}
	}
	if m, ok := named[name]; ok {
		return m
	}
	switch {
	case !s.DefaultDeny:
		return Meaning{Action: Allow, Key: "syscalls.default_deny"}
	case slices.Contains(probed, name):
		return Meaning{Action: NoSys, Key: "syscalls.default_deny", Why: "libraries fall back"}
	default:
		return Meaning{Action: Deny, Key: "syscalls.default_deny"}
	}
}

// grantedFlags are the CLONE_NEW* bits that allow rules for call name.
func grantedFlags(s policies.Syscalls, call string) uint32 {
	var granted uint64
	for _, rule := range s.Allow {
		if rule.Name != call {
			continue
		}
		for _, flag := range rule.Flags {
			bit, _ := syscalls.NamespaceFlag(flag)
			granted |= bit
		}
	}
	return uint32(granted)
}
