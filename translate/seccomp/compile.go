package seccomp

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
)

const (
	// maxInstructions is BPF_MAXINSNS (<linux/bpf_common.h>).
	maxInstructions = 4096
	// instructionSize is that of struct sock_filter, in bytes.
	instructionSize = 8
	// fewRules is how many rules a list holds as well as a tree; libseccomp up
	// to 2.5.4 makes a broken tree of none.
	fewRules = 32
)

// Program is a compiled filter. It does not change.
type Program struct {
	rules  *Rules
	code   []bpf.RawInstruction
	policy int // where the policy's part of code begins, behind the floor
}

// Compile makes the filter of a policy for arch, which must be NativeArch:
// libseccomp knows numbers by the machine that it runs on. Same policy and
// same libseccomp, same bytes.
func Compile(s policies.Syscalls, arch string) (*Program, error) {
	rules, err := Resolve(s, arch)
	if err != nil {
		return nil, err
	}
	if arch != NativeArch {
		return nil, fmt.Errorf("cannot compile a system call filter for %s on %s: run Purple on a machine of that kind", arch, NativeArch)
	}
	code, err := bpf.Assemble(rules.floor())
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot assemble the floor of the filter: %w", err)
	}
	policy, err := rules.compilePolicy()
	if err != nil {
		return nil, fmt.Errorf("cannot compile the system call filter with libseccomp: %w", err)
	}
	begin := len(code)
	code = append(code, policy...)
	if err := checkLength(len(code)); err != nil {
		return nil, err
	}
	return &Program{rules, code, begin}, nil
}

func checkLength(n int) error {
	if n > maxInstructions {
		return fmt.Errorf("cannot load the system call filter: it has %d instructions and the kernel takes %d; "+
			"name fewer single calls in syscalls.allow and syscalls.deny, use groups", n, maxInstructions)
	}
	return nil
}

// compilePolicy is the second part of the program: one action for each number.
func (r *Rules) compilePolicy() ([]bpf.RawInstruction, error) {
	byDefault := r.commonest()
	filter, err := libseccomp.NewFilter(byDefault.encode().scmp)
	if err != nil {
		return nil, err
	}
	defer filter.Release()
	if err := filter.SetBadArchAction(Kill.encode().scmp); err != nil {
		return nil, err
	}
	if err := r.addRules(filter, byDefault); err != nil {
		return nil, err
	}
	return export(filter)
}

// commonest is the action of most calls. libseccomp gets only the others as
// rules: its time and its program grow with their number, and a run waits for
// it. It decides nothing: a number that has no decision does not reach this
// part of the program, see unknownNumbers.
func (r *Rules) commonest() Action {
	allowed, denied := 0, 0
	for _, d := range r.calls {
		switch d.Action {
		case Allow:
			allowed++
		case Deny:
			denied++
		}
	}
	if allowed > denied {
		return Allow
	}
	return Deny
}

// addRules adds what differs from the default, by number: libseccomp has no
// name for a call newer than itself.
func (r *Rules) addRules(filter *libseccomp.ScmpFilter, byDefault Action) error {
	rules := 0
	for _, nr := range syscalls.Numbers(r.arch) {
		action := r.calls[nr].Action
		if action == byDefault {
			continue
		}
		rules++
		if err := filter.AddRuleExact(libseccomp.ScmpSyscall(nr), action.encode().scmp); err != nil {
			return fmt.Errorf("cannot add the rule for system call %d: %w", nr, err)
		}
	}
	if rules <= fewRules {
		return nil
	}
	return filter.SetOptimize(2)
}

// export reads the program through a pipe, while libseccomp writes it:
// ExportBPFMem fails with libseccomp 2.5.4.
func export(filter *libseccomp.ScmpFilter) ([]bpf.RawInstruction, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer reader.Close()
	written := make(chan error, 1)
	go func() {
		defer writer.Close()
		written <- filter.ExportBPF(writer)
	}()
	program, err := io.ReadAll(reader)
	if err := <-written; err != nil {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the program: %w", err)
	}
	return decode(program)
}

// decode reads an array of struct sock_filter (<linux/filter.h>).
func decode(program []byte) ([]bpf.RawInstruction, error) {
	if len(program) == 0 || len(program)%instructionSize != 0 {
		return nil, fmt.Errorf("a program of %d bytes is no array of struct sock_filter", len(program))
	}
	var code []bpf.RawInstruction
	for b := range slices.Chunk(program, instructionSize) {
		code = append(code, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:]),
		})
	}
	return code, nil
}

// Bytes is the filter as an array of struct sock_filter, for seccomp(2).
func (p *Program) Bytes() []byte {
	var b []byte
	for _, i := range p.code {
		b = binary.NativeEndian.AppendUint16(b, i.Op)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// Notifying is the same program, but a denial is answered by the listener that
// it is loaded with. Without one, and when the listener is gone, the kernel says
// ENOSYS: a denied call fails all the same.
//
// It is made from the finished code because libseccomp takes no notification as
// the default action, and asks the kernel that it runs on whether it knows one.
func (p *Program) Notifying() *Program {
	code := slices.Clone(p.code)
	denied := bpf.RetConstant{Val: Deny.encode().ret}
	for i, raw := range code {
		if raw.Disassemble() == denied {
			code[i].K = unix.SECCOMP_RET_USER_NOTIF | notifyDenied
		}
	}
	return &Program{p.rules, code, p.policy}
}

// Traced is the same program for a learning run: what it lets pass goes past the
// tracer, without which it fails with ENOSYS. The kernel runs the filter anew
// after the tracer, so what is denied stays so whatever becomes of the call.
func (p *Program) Traced() *Program {
	code := slices.Clone(p.code)
	allowed := bpf.RetConstant{Val: Allow.encode().ret}
	for i, raw := range code {
		if raw.Disassemble() == allowed {
			code[i].K = unix.SECCOMP_RET_TRACE
		}
	}
	return &Program{p.rules, code, p.policy}
}

// Rules are what the filter was made from: its meaning.
func (p *Program) Rules() *Rules { return p.rules }
