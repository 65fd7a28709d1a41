package confine

import (
	"bytes"
	"strconv"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

// What a denied call says of itself and of its process. All of it is the
// process's own word.

const (
	// maxText is how much of a text in the process's memory is read, in bytes.
	maxText = 256
	// maxTexts is how many texts of a call are read: mount(2) has three.
	maxTexts = 3
	// identityTime is how long a thread keeps the name it had: in a burst of calls
	// it is not read anew each time. Far less than an execve takes.
	identityTime = 200 * time.Microsecond
	// maxThreads is how many threads' names are kept.
	maxThreads = 64
)

// identity is what /proc says of a thread.
type identity struct {
	comm            [16]byte // of the thread; ends at the first NUL
	pid, sandboxPID uint32   // of its process; 0: not known
}

// claimedText is a text that an argument points to.
type claimedText struct {
	read  uint16 // bytes that were read, then those of the text
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

	// Of a call that the filter allows: what was to be done to a path, or which
	// capability is missing. The path is as claimed, made absolute.
	path       string
	effect     journal.Effect
	capability string
}

// errno is what the process gets: of what the filter denies from the supervisor,
// else from the kernel.
func (d *denial) errno() unix.Errno {
	switch {
	case d.effect == journal.EffectRead:
		return unix.EACCES
	case d.effect != "":
		return unix.EROFS
	case d.capability == capabilityOfPorts:
		return unix.EACCES
	default:
		return deniedErrno
	}
}

// textArguments says for each number which arguments point to texts, at most
// maxTexts of them.
func textArguments(arch string) [][]int {
	numbers := syscalls.Numbers(arch)
	all := make([][]int, numbers[len(numbers)-1]+1)
	for _, name := range syscalls.Names() {
		nr, ok := syscalls.Number(arch, name)
		if !ok {
			continue
		}
		arguments, _ := syscalls.Arguments(name)
		for i, a := range arguments {
			if a.Kind == syscalls.KindText && len(all[nr]) < maxTexts {
				all[nr] = append(all[nr], i)
			}
		}
	}
	return all
}

// known is what is known of a thread, and since when.
type known struct {
	tid uint32
	who identity
	at  time.Time
}

// denial is the call that was answered last. It is the answerer's until the next.
//
// What /proc says takes longer than all the rest. Only of a thread that has not
// been seen before was it read while the call waited; else it is read now, when
// the thread has gone on and may even have ended: then it is what it was.
func (a *answerer) denial(now time.Time) *denial {
	k := &a.threads[a.n.tid%maxThreads]
	switch {
	case k.tid != a.n.tid:
		*k = known{a.n.tid, parseStatus(a.status[:a.started]), now}
	case now.Sub(k.at) >= identityTime:
		if who := parseStatus(a.status[:a.readStatus()]); who.pid != 0 {
			k.who = who
		}
		k.at = now
	}
	d := &a.found
	d.nr, d.args, d.who = a.n.data.nr, a.n.data.args, k.who
	if d.who.pid == 0 {
		d.who.pid = a.n.tid
	}
	for i := range d.texts {
		d.texts[i].cut()
	}
	return d
}

// cut ends a text at its NUL byte, if that was read.
func (t *claimedText) cut() {
	end := bytes.IndexByte(t.bytes[:t.read], 0)
	if t.whole = end >= 0; t.whole {
		t.read = uint16(end)
	}
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
