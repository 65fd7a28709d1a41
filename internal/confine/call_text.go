package confine

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

// event is a denial in words.
func (d *denial) event(kind tallyKind, run journal.Run, count uint64) journal.Event {
	attempt := journal.Attempt{
		Syscall: callName(d.nr), Errno: unix.ErrnoName(d.errno()),
		Comm: d.who.name(), PID: d.who.pid, SandboxPID: d.who.sandboxPID, Count: count,
	}
	switch kind {
	case deniedPath:
		return journal.PathDenied{Run: run, Path: claim([]byte(d.path)), Effect: d.effect, Attempt: attempt}
	case deniedCapability:
		return journal.CapabilityDenied{Run: run, Capability: d.capability, Arguments: d.arguments(), Attempt: attempt}
	}
	return journal.SyscallDenied{
		Run: run, Syscall: attempt.Syscall, Arguments: d.arguments(), Registers: d.args, Errno: attempt.Errno,
		Comm: attempt.Comm, PID: attempt.PID, SandboxPID: attempt.SandboxPID, Count: count,
	}
}

func callName(nr int32) string {
	if name, ok := syscalls.Name(runtime.GOARCH, int(nr)); ok {
		return name
	}
	return strconv.Itoa(int(nr)) // the filter lets none be denied that Purple does not know
}

func (i *identity) name() string {
	comm, _, _ := bytes.Cut(i.comm[:], []byte{0})
	return claim(comm)
}

// claim makes a text that a process has chosen safe to print between quotes.
// Whoever undoes it has every byte again.
func claim(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if strconv.IsPrint(r) && r != '"' && r != '\\' && (r != utf8.RuneError || size > 1) {
			b.Write(text[:size])
		} else {
			for _, c := range text[:size] {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		}
		text = text[size:]
	}
	return b.String()
}

// arguments are the call's by name: `dfd=-100, filename="/a b", flags=0x0`.
func (d *denial) arguments() string {
	arguments, _ := syscalls.Arguments(callName(d.nr))
	var words []string
	texts := d.texts[:]
	for i, a := range arguments {
		value := argumentValue(a.Kind, d.args[i])
		if a.Kind == syscalls.KindText && len(texts) > 0 {
			value = texts[0].value(value)
			texts = texts[1:]
		}
		words = append(words, a.Name+"="+value)
	}
	return strings.Join(words, ", ")
}

// value is the text, or the address where nothing could be read.
func (t *claimedText) value(address string) string {
	switch {
	case t.whole:
		return `"` + claim(t.bytes[:t.read]) + `"`
	case t.read > 0:
		return `"` + claim(t.bytes[:t.read]) + `"…`
	default:
		return address
	}
}

func argumentValue(kind syscalls.Kind, v uint64) string {
	switch {
	case kind == syscalls.KindMode:
		return fmt.Sprintf("%#o", v)
	case kind == syscalls.KindFlags:
		return fmt.Sprintf("%#x", v)
	case kind == syscalls.KindNumber:
		return signed(v)
	case v == 0:
		return "NULL"
	default:
		return fmt.Sprintf("%#x", v)
	}
}

// signed shows small negative numbers of 32 or 64 bits as such, AT_FDCWD for
// one; a register does not tell which it is.
func signed(v uint64) string {
	const smallest = -4095
	if n := int32(v); v>>32 == 0 && smallest <= n && n < 0 {
		return strconv.Itoa(int(n))
	}
	if n := int64(v); smallest <= n && n < 0 {
		return strconv.FormatInt(n, 10)
	}
	return strconv.FormatUint(v, 10)
}
