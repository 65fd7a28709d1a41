package seccomp

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// assembler makes BPF with jumps by label, so that no offset is counted by
// hand. Jumps go forward only, as the kernel demands.
type assembler struct {
	code   []bpf.Instruction
	labels map[string]int // the instruction that a label stands before
	jumps  map[int]string // the label that the jump at an instruction goes to
}

func newAssembler() *assembler {
	return &assembler{labels: map[string]int{}, jumps: map[int]string{}}
}

// load puts the 32-bit word at an offset of struct seccomp_data into A.
func (a *assembler) load(offset uint32) {
	a.code = append(a.code, bpf.LoadAbsolute{Off: offset, Size: 4})
}

func (a *assembler) and(mask uint32) {
	a.code = append(a.code, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
}

func (a *assembler) ret(action Action) {
	a.code = append(a.code, bpf.RetConstant{Val: action.encode().ret})
}

// jump goes to label if A compares so to value.
func (a *assembler) jump(cond bpf.JumpTest, value uint32, label string) {
	a.jumps[len(a.code)] = label
	a.code = append(a.code, bpf.JumpIf{Cond: cond, Val: value})
}

// returnIf ends the program if A compares so to value.
func (a *assembler) returnIf(cond bpf.JumpTest, value uint32, action Action) {
	a.code = append(a.code, bpf.JumpIf{Cond: cond, Val: value, SkipFalse: 1})
	a.ret(action)
}

// label names the place of the next instruction.
func (a *assembler) label(name string) {
	if _, twice := a.labels[name]; twice {
		panic(fmt.Sprintf("internal error: label %q is set twice", name))
	}
	a.labels[name] = len(a.code)
}

// finish resolves the jumps. A label at the end is the first instruction of
// whatever is appended.
func (a *assembler) finish() []bpf.Instruction {
	for at, label := range a.jumps {
		to, ok := a.labels[label]
		skip := to - at - 1
		if !ok || skip < 0 || skip > 255 {
			panic(fmt.Sprintf("internal error: cannot jump from %d to label %q", at, label))
		}
		jump := a.code[at].(bpf.JumpIf)
		jump.SkipTrue = uint8(skip)
		a.code[at] = jump
	}
	return a.code
}
