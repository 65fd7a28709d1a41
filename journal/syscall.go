package journal

import (
	"fmt"
	"strconv"
	"strings"
)

// The message ids of denied system calls.
const (
	SyscallDeniedID  = "f6e7d7dd021242f587c7d5a56d3d6c74"
	SyscallsDeniedID = "7fed7fa32e8b4361b8c33de3c902649d"
)

// The fields of denied system calls. docs/audit.md has the same list.
const (
	FieldSyscall    = "PURPLE_SYSCALL"
	FieldArguments  = "PURPLE_ARGUMENTS"
	FieldErrno      = "PURPLE_ERRNO"
	FieldComm       = "PURPLE_COMM"
	FieldPID        = "PURPLE_PID"
	FieldSandboxPID = "PURPLE_SANDBOX_PID"
	FieldSyscalls   = "PURPLE_SYSCALLS"
	FieldRegisters  = "PURPLE_REGISTERS"
)

// SyscallDenied is one system call that the filter has denied to what calls
// itself Comm, from the start of the run on: of several events for the same
// call and name, the last one counts. Process and arguments are those of the
// latest call.
type SyscallDenied struct {
	Run
	Syscall string // "mount", or its number
	// Arguments is what the process claimed when the supervisor looked:
	// `dev_name="none", flags=0x0`. It proves nothing of what was meant, as the
	// memory could change after the look. Escape must have been used on its texts.
	Arguments string
	Registers Registers
	Errno     string // what the process was answered: "EPERM"
	// Comm is the name that the process has given itself, escaped; empty: not
	// known, or one of many.
	Comm       string
	PID        uint32 // as the host sees it
	SandboxPID uint32 // as the sandbox does; 0: not known
	Count      uint64
}

func (SyscallDenied) id() string   { return SyscallDeniedID }
func (SyscallDenied) name() string { return "syscall-denied" }

func (e SyscallDenied) own() []Field {
	return append(e.fields(),
		Field{FieldSyscall, e.Syscall},
		Field{FieldArguments, e.Arguments},
		Field{FieldRegisters, e.Registers.String()},
		Field{FieldErrno, e.Errno},
		Field{FieldComm, e.Comm},
		Field{FieldPID, decimal(uint64(e.PID))},
		Field{FieldSandboxPID, decimal(uint64(e.SandboxPID))},
		Field{FieldCount, decimal(e.Count)},
	)
}

// key tells apart what is counted apart.
func (e SyscallDenied) key() string { return e.Syscall + " " + e.Errno + " " + e.Comm }

func (e SyscallDenied) message() string {
	return fmt.Sprintf("Denied %s(%s) to %s: %s%s", e.Syscall, e.Arguments, processText(e.Comm, e.SandboxPID, e.PID), e.Errno, timesText(e.Count))
}

// processText is a process as it calls itself, and its ids; 0: not known.
func processText(comm string, sandboxPID, pid uint32) string {
	who, inside := "a process", "unknown"
	if comm != "" {
		who = `"` + comm + `"`
	}
	if sandboxPID != 0 {
		inside = decimal(uint64(sandboxPID))
	}
	return fmt.Sprintf("%s, pid %s (%d on the host)", who, inside, pid)
}

// timesText is for the end of what has been told before.
func timesText(count uint64) string {
	if count <= 1 {
		return ""
	}
	return fmt.Sprintf(", %d times so far", count)
}

// SyscallsDenied ends the events of a run's denied system calls. Its Total is
// exact.
type SyscallsDenied struct {
	Run
	Total    uint64 // calls denied
	Syscalls uint64 // how many different ones
}

func (SyscallsDenied) id() string   { return SyscallsDeniedID }
func (SyscallsDenied) name() string { return "syscalls-denied-total" }

func (e SyscallsDenied) own() []Field {
	return append(e.fields(), Field{FieldTotal, decimal(e.Total)}, Field{FieldSyscalls, decimal(e.Syscalls)})
}

func (e SyscallsDenied) message() string {
	return fmt.Sprintf("Denied system calls in this run: %d; different ones: %d", e.Total, e.Syscalls)
}

func (r *reader) syscallDenied() Event {
	return SyscallDenied{
		Run:        r.run(),
		Syscall:    r.escaped(FieldSyscall),
		Arguments:  r.escaped(FieldArguments),
		Registers:  r.registers(),
		Errno:      r.escaped(FieldErrno),
		Comm:       r.escaped(FieldComm),
		PID:        uint32(r.number(FieldPID, 32)),
		SandboxPID: uint32(r.number(FieldSandboxPID, 32)),
		Count:      r.number(FieldCount, 64),
	}
}

// Registers are a call's arguments as the filter has seen them: a verdict on
// the call can be made again from them.
type Registers [6]uint64

func (r Registers) String() string {
	words := make([]string, len(r))
	for i, v := range r {
		words[i] = "0x" + strconv.FormatUint(v, 16)
	}
	return strings.Join(words, " ")
}

func (r *reader) registers() Registers {
	var registers Registers
	words := strings.Split(r.text(FieldRegisters), " ")
	if len(words) != len(registers) {
		r.fail(FieldRegisters, fmt.Errorf("there are %d", len(words)))
		return registers
	}
	for i, word := range words {
		digits, hex := strings.CutPrefix(word, "0x")
		v, err := strconv.ParseUint(digits, 16, 64)
		if err != nil || !hex {
			r.fail(FieldRegisters, fmt.Errorf("%q is no register", word))
		}
		registers[i] = v
	}
	return registers
}

func (r *reader) syscallsDenied() Event {
	return SyscallsDenied{Run: r.run(), Total: r.number(FieldTotal, 64), Syscalls: r.number(FieldSyscalls, 64)}
}

// escaped refuses what Escape would change: it can be printed as it is.
func (r *reader) escaped(name string) string {
	text := r.text(name)
	if Escape(text) != text {
		r.fail(name, fmt.Errorf("%q is not escaped", text))
	}
	return text
}
