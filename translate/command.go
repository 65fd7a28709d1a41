package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
	"golang.org/x/sys/unix"
)

// searchPath is the command's PATH unless the policy or --env sets one.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (b *builder) command() error {
	cmd := &b.plan.Spec.Command
	cmd.Argv = b.c.Argv
	if cmd.Dir == "" {
		cmd.Dir = b.p.Filesystem.WorkingDir
	}
	env := b.environment()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		v := env[name]
		cmd.Env = append(cmd.Env, []byte(name+"="+v.value))
		// Never the value: a plan is shown and pasted.
		b.say("sandbox", v.key, v.why, "environment %s", printable(name))
	}
	return nil
}

// variable is a value and what causes it: a key of the policy, or else why.
type variable struct{ value, key, why string }

// environment is the whole of it: five names, then the policy's, then --env.
func (b *builder) environment() map[string]variable {
	env := map[string]variable{}
	standard := func(name, value string) {
		if value != "" {
			env[name] = variable{value: value, why: "every command has it"}
		}
	}
	standard("PATH", searchPath)
	standard("USER", b.userName())
	standard("LANG", cmp.Or(b.c.Environ["LANG"], "C.UTF-8"))
	if b.c.Terminal != [3]bool{} {
		standard("TERM", b.c.Environ["TERM"])
	}
	env["HOME"] = variable{value: b.p.Filesystem.WorkingDir, key: "filesystem.working_dir"}
	for _, name := range b.p.Environment.Pass {
		if value, ok := b.c.Environ[name]; ok {
			env[name] = variable{value: value, key: "environment.pass"}
		}
	}
	for name, value := range b.p.Environment.Set {
		env[name] = variable{value: value, key: "environment.set." + name}
	}
	for name, value := range b.c.Env {
		env[name] = variable{value: value, why: "--env"}
	}
	return env
}

// rlimits of the command. RLIMIT_CORE is 1 and not 0: a core_pattern that is a
// pipe is run, as root and on the host, whatever the limit says, but for the
// value 1, which the kernel takes as "no dump" (core(5), fs/coredump.c).
var rlimits = []spec.Rlimit{
	{Resource: unix.RLIMIT_CORE, Soft: 1, Hard: 1},
	{Resource: unix.RLIMIT_NOFILE, Soft: 1024, Hard: 524288},
	{Resource: unix.RLIMIT_MSGQUEUE, Soft: 819200, Hard: 819200},
	{Resource: unix.RLIMIT_MEMLOCK, Soft: 8 << 20, Hard: 8 << 20},
	{Resource: unix.RLIMIT_NICE, Soft: 0, Hard: 0},
	{Resource: unix.RLIMIT_RTPRIO, Soft: 0, Hard: 0},
}

// coreServer is where a crash of the command goes all the same: from Linux 6.16 on a
// core_pattern may name a socket, whose server is asked whatever the limit says.
func coreServer(h host.Facts) string {
	if strings.HasPrefix(h.CorePattern, "@") {
		return h.CorePattern
	}
	return ""
}

const whyCore = "a command that crashes hands its memory, and what it wants to say with that, to a program of the host's"

// warnOfCores says so before the start.
func (b *builder) warnOfCores() error {
	if server := coreServer(b.h); server != "" {
		b.plan.Warnings = append(b.plan.Warnings, policies.Warning{Text: fmt.Sprintf("kernel.core_pattern is %s: %s", printable(server), whyCore)})
	}
	return nil
}

// useful are the capabilities that mean something in a user namespace to which
// nothing but the command and its own files belong (user_namespaces(7);
// capable_wrt_inode_uidgid() for the two of files).
var useful = []string{
	"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
}

// withheld is never given. In an idmapped mount the command's user is the owner
// on the host: capabilities of a file, which CAP_SETFCAP lets it write for its
// own user, would be root's there, for every user of the host to execute.
const withheld = uint64(1) << unix.CAP_SETFCAP

func (b *builder) capabilities() error {
	if !b.p.Capabilities.DefaultDrop {
		b.plan.Spec.Capabilities = (1<<(lastCapability+1) - 1) &^ withheld
	}
	for i, name := range b.p.Capabilities.Add {
		n, ok := policies.CapabilityNumber(name)
		if !ok {
			return fmt.Errorf("internal error: capability %q", name)
		}
		b.plan.Spec.Capabilities |= 1 << n &^ withheld
		key := fmt.Sprintf("capabilities.add[%d]", i)
		switch {
		case withheld>>n&1 == 1:
			b.warn(key, "%s is not given: what it writes into a file may be root's capabilities on the host", name)
		case !slices.Contains(useful, name):
			b.warn(key, "%s does nothing: it reaches the sandbox's own user namespace only, to which no such thing belongs", name)
		}
	}
	b.say("sandbox", "capabilities", "", "capabilities %s", b.capabilityNames())
	if b.plan.Spec.Capabilities&(1<<unix.CAP_NET_BIND_SERVICE) != 0 {
		b.plan.Spec.UnprivilegedPortStart = 0
	}
	return nil
}

func (b *builder) capabilityNames() string {
	switch c := b.p.Capabilities; {
	case !c.DefaultDrop:
		return "all but CAP_SETFCAP, in the sandbox's own user namespace"
	case b.plan.Spec.Capabilities == 0:
		return "none"
	default:
		return strings.Join(slices.DeleteFunc(slices.Clone(c.Add), func(name string) bool { return name == "CAP_SETFCAP" }), " ")
	}
}

const lastCapability = unix.CAP_CHECKPOINT_RESTORE
