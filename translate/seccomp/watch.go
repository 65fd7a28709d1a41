package seccomp

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies/syscalls"
)

// What a filter's notification is about stands in the low half of its return
// value, SECCOMP_RET_DATA, which means nothing to the kernel. The supervisor runs
// the filter once more and reads it there: purple-init has the same numbers.
const (
	notifyDenied     = 0 // the call is denied, and the supervisor answers so
	notifyPath       = 1 // it may be refused on account of a path
	notifyCapability = 2 // it is refused on account of a capability
)

// Watch says of which calls that the policy allows a filter notifies, too. The
// supervisor lets them go on, and the kernel refuses them or does not.
type Watch struct {
	Paths        bool // that change something
	Reads        bool // each open
	Capabilities bool
	Held         uint64 // the capabilities that the command has
}

// writingFlags are those with which open(2) may be refused by a read-only mount.
const writingFlags = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC

// Watching is the same program, but it notifies of what w names. That stands
// behind the floor, which has denied by then what it denies, and is about calls
// that the policy allows and no other: what a policy denies can never be taken
// for something to be let go on.
func (p *Program) Watching(w Watch) (*Program, error) {
	a := newAssembler()
	for _, nr := range syscalls.Numbers(p.rules.arch) {
		name, _ := syscalls.Name(p.rules.arch, nr)
		if p.rules.calls[nr].Action != Allow {
			continue
		}
		if capability, ok := syscalls.NeededCapability(name); ok && w.Capabilities && w.Held>>capability&1 == 0 {
			a.notifyIf(uint32(nr), notifyCapability)
			continue
		}
		flags, opens := syscalls.OpenFlags(name)
		if len(syscalls.Paths(name)) == 0 || !w.Paths && !(w.Reads && opens) {
			continue
		}
		if !opens || w.Reads {
			a.notifyIf(uint32(nr), notifyPath)
			continue
		}
		p.rules.onCall(a, name, func() {
			a.load(offLow(flags))
			a.and(writingFlags)
			a.jump(bpf.JumpEqual, 0, name+".pass")
			a.notify(notifyPath)
		})
	}
	block, err := bpf.Assemble(a.finish())
	if err != nil {
		return nil, err
	}
	code := slices.Insert(slices.Clone(p.code), p.policy, block...)
	if err := checkLength(len(code)); err != nil {
		return nil, err
	}
	return &Program{p.rules, code, p.policy}, nil
}

func (a *assembler) notify(about uint32) {
	a.code = append(a.code, bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF | about})
}

// notifyIf ends the program if A is the number of a call.
func (a *assembler) notifyIf(nr, about uint32) {
	a.code = append(a.code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipFalse: 1})
	a.notify(about)
}
