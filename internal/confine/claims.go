package confine

import (
	"bytes"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

// What is looked at while a denied call waits for its answer. All of it is the
// process's own word.

const (
	// maxText is how much of a text in the process's memory is read, in bytes.
	maxText = 256
	// maxTexts is how many texts of a call are read: mount(2) has three.
	maxTexts = 3
	// identityTime is how long a process keeps the name it had: in a burst of
	// calls it is not read anew each time. Far less than an execve takes.
	identityTime = 200 * time.Microsecond
)

// identity is what /proc says of a thread.
type identity struct {
	comm            [16]byte // of the thread; ends at the first NUL
	pid, sandboxPID uint32   // of its process; 0: not known
}

// claimedText is a text that an argument points to.
type claimedText struct {
	read  uint16 // bytes of text that were read
	whole bool   // its end was seen
	bytes [maxText]byte
}

// denial is one denied call.
type denial struct {
	nr   int32
	args [6]uint64
	who  identity
	// texts are those of the call's text arguments, in their order.
	texts [maxTexts]claimedText
}

// textArguments says for each number which arguments point to texts, at most
// maxTexts of them.
func textArguments(arch string) [][]int {
	numbers := syscalls.Numbers(arch)
	all := make([][]int, numbers[len(numbers)-1]+1)
	for _, nr := range numbers {
		name, _ := syscalls.Name(arch, nr)
		arguments, _ := syscalls.Arguments(name)
		for i, a := range arguments {
			if a.Kind == syscalls.KindText && len(all[nr]) < maxTexts {
				all[nr] = append(all[nr], i)
			}
		}
	}
	return all
}

// examiner finds out what a denied call is. It is used by one thread.
type examiner struct {
	texts  [][]int // by number, see textArguments
	buffer [4096]byte

	last    identity // of lastTID, read at lastRead
	lastTID uint32
	lastAt  time.Time
}

// examine fills in d, whatever it had before.
func (e *examiner) examine(d *denial, n *notification, now time.Time) {
	d.nr, d.args = n.data.nr, n.data.args
	d.who = e.identify(n.tid, now)
	var arguments []int
	if int(d.nr) < len(e.texts) {
		arguments = e.texts[d.nr]
	}
	for i := range d.texts {
		d.texts[i].read, d.texts[i].whole = 0, false
		if i < len(arguments) {
			d.texts[i].readFrom(n.tid, d.args[arguments[i]])
		}
	}
}

// forgetTexts is for when the process had gone before everything was read.
func (d *denial) forgetTexts() {
	for i := range d.texts {
		d.texts[i].read, d.texts[i].whole = 0, false
	}
}

func (e *examiner) identify(tid uint32, now time.Time) identity {
	if tid == e.lastTID && now.Sub(e.lastAt) < identityTime {
		return e.last
	}
	status := e.readStatus(tid)
	e.last, e.lastTID, e.lastAt = parseStatus(status), tid, now
	if e.last.pid == 0 {
		e.last.pid = tid
	}
	return e.last
}

// readStatus reads /proc/TID/status. It makes no garbage and does not let the
// runtime know: that would cost more than the reading.
func (e *examiner) readStatus(tid uint32) []byte {
	path := append(strconv.AppendUint(append(e.buffer[:0], "/proc/"...), uint64(tid), 10), "/status\x00"...)
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, ^uintptr(0)-99, uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return nil
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&e.buffer[0])), uintptr(len(e.buffer)))
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if errno != 0 {
		return nil
	}
	return e.buffer[:n]
}

// parseStatus reads the fields Name, Tgid and NStgid (proc_pid_status(5)).
func parseStatus(status []byte) identity {
	var id identity
	unescapeName(id.comm[:15], field(status, "Name:\t"))
	id.pid = parseUint32(field(status, "\nTgid:\t"))
	// Of this process's namespace first, then the sandbox's.
	if _, inner, ok := bytes.Cut(field(status, "\nNStgid:\t"), []byte("\t")); ok {
		first, _, _ := bytes.Cut(inner, []byte("\t"))
		id.sandboxPID = parseUint32(first)
	}
	return id
}

func field(status []byte, name string) []byte {
	at := bytes.Index(status, []byte(name))
	if at < 0 {
		return nil
	}
	value, _, _ := bytes.Cut(status[at+len(name):], []byte("\n"))
	return value
}

// unescapeName undoes what the kernel does to a newline and a backslash.
func unescapeName(into, name []byte) {
	for i := 0; i < len(into) && len(name) > 0; i++ {
		c := name[0]
		name = name[1:]
		if c == '\\' && len(name) > 0 {
			if c = name[0]; c == 'n' {
				c = '\n'
			}
			name = name[1:]
		}
		into[i] = c
	}
}

func parseUint32(b []byte) uint32 {
	n, err := strconv.ParseUint(string(b), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// readFrom reads a text of a process that waits. What cannot be read stays
// empty: not its memory, or not this thread's to read.
func (t *claimedText) readFrom(tid uint32, address uint64) {
	const page = 4096 // or a multiple: the next one may not be there
	if address == 0 {
		return
	}
	first := min(maxText, int(page-address%page))
	local := []unix.Iovec{{Base: &t.bytes[0], Len: maxText}}
	remote := []unix.RemoteIovec{{Base: uintptr(address), Len: first}, {Base: uintptr(address) + uintptr(first), Len: maxText - first}}
	n, err := unix.ProcessVMReadv(int(tid), local, remote, 0)
	if err != nil || n <= 0 {
		return
	}
	end := bytes.IndexByte(t.bytes[:n], 0)
	t.whole = end >= 0
	if !t.whole {
		end = n
	}
	t.read = uint16(end)
}
