package seccomp

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/policies/syscalls"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// maxInstructions is BPF_MAXINSNS of the kernel.
const maxInstructions = 4096

// instructionSize is the size of struct sock_filter.
const instructionSize = 8

// Program is a compiled filter.
type Program struct {
	arch         string
	policy       policies.Syscalls
	meanings     map[int]Meaning
	instructions []bpf.RawInstruction
}

// Compile makes the filter of a policy for arch, which must be NativeArch:
// libseccomp knows the calls that it lacks a name for by their number only
// there.
func Compile(s policies.Syscalls, arch string) (*Program, error) {
	meanings, err := Meanings(s, arch)
	if err != nil {
		return nil, err
	}
	head, err := bpf.Assemble(floor(s, arch))
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot assemble the filter's floor: %v", err)
	}
	tail, err := compilePolicy(meanings)
	if err != nil {
		return nil, err
	}
	p := &Program{arch: arch, policy: s, meanings: meanings, instructions: append(head, tail...)}
	if len(p.instructions) > maxInstructions {
		return nil, fmt.Errorf("cannot use the system call filter: it has %d instructions, the kernel takes %d; shorten syscalls.allow and syscalls.deny", len(p.instructions), maxInstructions)
	}
	return p, nil
}

// scmpAction is an Action as libseccomp takes it. The one place to change what
// a denied call gets.
func scmpAction(a Action) libseccomp.ScmpAction {
	switch a {
	case Allow:
		return libseccomp.ActAllow
	case NoSys:
		return libseccomp.ActErrno.SetReturnCode(int16(unix.ENOSYS))
	default:
		return libseccomp.ActErrno.SetReturnCode(int16(unix.EPERM))
	}
}

// compilePolicy has libseccomp make a decision tree. What is not in it cannot
// arrive, since the floor has sorted out all numbers that are not known, but
// for the holes between them: those are denied.
func compilePolicy(meanings map[int]Meaning) ([]bpf.RawInstruction, error) {
	filter, err := libseccomp.NewFilter(scmpAction(Deny))
	if err != nil {
		return nil, fmt.Errorf("cannot make a seccomp filter: %w", err)
	}
	defer filter.Release()
	if err := filter.SetBadArchAction(libseccomp.ActKillProcess); err != nil {
		return nil, fmt.Errorf("cannot have foreign architectures killed: %w", err)
	}
	if err := filter.SetOptimize(2); err != nil { // a binary tree
		return nil, fmt.Errorf("cannot optimise the filter: %w", err)
	}
	for _, nr := range slices.Sorted(maps.Keys(meanings)) {
		m := meanings[nr]
		if m.Action == Deny {
			continue // the default
		}
		if err := filter.AddRule(libseccomp.ScmpSyscall(nr), scmpAction(m.Action)); err != nil {
			return nil, fmt.Errorf("cannot add system call %d to the filter: %w", nr, err)
		}
	}
	return export(filter)
}

// export reads the program back through a memory file: libseccomp before 2.6
// cannot export to memory itself.
func export(filter *libseccomp.ScmpFilter) ([]bpf.RawInstruction, error) {
	fd, err := unix.MemfdCreate("purple-filter", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "filter")
	defer f.Close()
	if err := filter.ExportBPF(f); err != nil {
		return nil, fmt.Errorf("cannot export the filter: %w", err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxInstructions*instructionSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the filter: %w", err)
	}
	var program []bpf.RawInstruction
	for ; len(data) >= instructionSize; data = data[instructionSize:] {
		program = append(program, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(data), Jt: data[2], Jf: data[3], K: binary.NativeEndian.Uint32(data[4:]),
		})
	}
	return program, nil
}

// Bytes is the program as an array of struct sock_filter, in native order.
func (p *Program) Bytes() []byte {
	out := make([]byte, 0, len(p.instructions)*instructionSize)
	for _, i := range p.instructions {
		out = binary.NativeEndian.AppendUint16(out, i.Op)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out
}

// Listing is the program for a reader: the floor, then every call with its
// verdict and the cause, then the instructions.
func (p *Program) Listing() string {
	var out strings.Builder
	out.WriteString("# The floor, whatever the policy says\n")
	for _, line := range Floor {
		fmt.Fprintf(&out, "%s\n", line)
	}
	out.WriteString("\n# What the policy means for each system call\n")
	for _, nr := range slices.Sorted(maps.Keys(p.meanings)) {
		name, _ := syscalls.Name(p.arch, nr)
		m := p.meanings[nr]
		fmt.Fprintf(&out, "%-8s%-28s# %s\n", m.Action, name, strings.TrimSpace(m.Key+" "+m.Why))
	}
	fmt.Fprintf(&out, "\n# The program, %d instructions\n", len(p.instructions))
	for i, raw := range p.instructions {
		fmt.Fprintf(&out, "%4d: %v\n", i, raw.Disassemble())
	}
	return out.String()
}
