package confine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

// The filter notifies also of calls that it allows, where the kernel may refuse
// them: those that change the file system by a path, and those that need a
// capability which the command has not got. The supervisor finds out whether the
// kernel will, and lets them go on all the same: it is the kernel that refuses, by
// the sandbox's mounts and the command's capabilities. What it finds is for the
// journal alone, from what the process claims.
//
// A call that the filter denies must never go on. Which of the two a notification
// is stands nowhere in it, and not in the call's number either: the same call may
// be denied for its arguments. So the supervisor runs the filter once more, on the
// numbers that the kernel has given it. The filter marks what it allows in the low
// half of its answer (package translate/seccomp, Watching).

// about says what a notification is about; the numbers are the filter's marks.
type about uint32

const (
	aboutDenied     about = 0
	aboutPath       about = 1
	aboutCapability about = 2
	aboutNothing    about = 3 // it has been let go on, and there is nothing to tell
)

// newProgram reads the filter of a spec.
func newProgram(filter []byte) []unix.SockFilter {
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	program := make([]unix.SockFilter, len(filter)/size)
	for i := range program {
		b := filter[i*size:]
		program[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])}
	}
	return program
}

// The instructions that a filter of Purple's has (<linux/bpf_common.h>).
const (
	loadWord       = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	andConstant    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	jumpAlways     = unix.BPF_JMP | unix.BPF_JA
	jumpEqual      = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGreater    = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpNotLess    = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	jumpSet        = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	returnConstant = unix.BPF_RET | unix.BPF_K
)

// whatAbout runs the filter on the call that waits. Whatever it does not
// understand is about a denial: then the call is answered and does not go on.
//
//go:nosplit
func (a *answerer) whatAbout() about {
	var word uint32
	for at := 0; at >= 0 && at < len(a.program); at++ {
		i := &a.program[at]
		jump := false
		switch i.Code {
		case loadWord:
			if uintptr(i.K) > unsafe.Sizeof(a.n.data)-unsafe.Sizeof(word) {
				return aboutDenied
			}
			word = *(*uint32)(unsafe.Add(unsafe.Pointer(&a.n.data), uintptr(i.K)))
			continue
		case andConstant:
			word &= i.K
			continue
		case jumpAlways:
			if i.K > uint32(len(a.program)) {
				return aboutDenied
			}
			at += int(i.K)
			continue
		case returnConstant:
			const action = 0xffff0000 // SECCOMP_RET_ACTION_FULL
			mark := about(i.K &^ action)
			if i.K&action == unix.SECCOMP_RET_USER_NOTIF && (mark == aboutPath || mark == aboutCapability) {
				return mark
			}
			return aboutDenied
		case jumpEqual:
			jump = word == i.K
		case jumpGreater:
			jump = word > i.K
		case jumpNotLess:
			jump = word >= i.K
		case jumpSet:
			jump = word&i.K != 0
		default:
			return aboutDenied
		}
		if jump {
			at += int(i.Jt)
		} else {
			at += int(i.Jf)
		}
	}
	return aboutDenied
}

// goOn lets the call that waits go on. Only what whatAbout has found to be allowed
// comes here.
//
//go:nosplit
func (a *answerer) goOn() syscall.Errno {
	_, errno := a.send(&a.resume)
	return errno
}

// place is where something is mounted, in the sandbox.
type place struct {
	target   string
	writable bool
	itself   bool // a device: what is mounted is no directory
}

// watcher knows the sandbox's mounts and the calls that are watched.
type watcher struct {
	changes, reads bool // what is told
	writeOnly      []string

	places []place
	paths  [][]syscalls.Path // by the call's number
	slots  [][]int           // the text of each of those, among the call's texts
	open   []int             // the flags' argument, by number; notOpen: there is none
	root   int               // the sandbox's; -1: not yet opened
}

// newWatcher is for the calls of an architecture, of which texts are the arguments
// that are texts.
func newWatcher(s *spec.Spec, arch string, texts [][]int) *watcher {
	w := &watcher{root: -1, changes: s.RecordPaths, reads: s.RecordReads, writeOnly: s.WriteOnly}
	for _, m := range s.Mounts {
		w.places = append(w.places, place{target: m.Target, writable: m.Kind != spec.BindReadOnly})
	}
	for _, name := range []string{"/dev/shm", "/dev/pts"} {
		w.places = append(w.places, place{target: name, writable: true})
	}
	for _, node := range deviceNodes {
		w.places = append(w.places, place{target: "/dev/" + node.name, writable: true, itself: true})
	}
	w.paths, w.slots, w.open = make([][]syscalls.Path, len(texts)), make([][]int, len(texts)), slices.Repeat([]int{notOpen}, len(texts))
	for name, paths := range syscalls.PathCalls() {
		nr, ok := syscalls.Number(arch, name)
		if !ok {
			continue
		}
		w.paths[nr] = paths
		for _, p := range paths {
			w.slots[nr] = append(w.slots[nr], slices.Index(texts[nr], p.Argument))
		}
		if argument, ok := syscalls.OpenFlags(name); ok {
			w.open[nr] = argument
		}
	}
	return w
}

// isPlainlyAllowed tells without a look whether every path of the call that waits
// is below a writable mount, or read and far from a write-only path: most are. A
// link may still lead elsewhere; then what is refused there is not told.
//
//go:nosplit
func (a *answerer) isPlainlyAllowed() bool {
	nr := int(a.n.data.nr)
	if nr < 0 || nr >= len(a.watch.slots) {
		return false
	}
	reads, changes := a.watch.intent(a.openFlags(nr))
	for _, slot := range a.watch.slots[nr] {
		if slot < 0 || slot >= len(a.found.texts) {
			return false
		}
		t := &a.found.texts[slot]
		length, plain := plainLength(t)
		if !plain || reads && a.watch.isNearWriteOnly(t, length) || changes && !a.watch.isBelowWritable(t, length) {
			return false
		}
	}
	return len(a.watch.slots[nr]) > 0
}

// intent is what there is to tell of a call, by its flags of open(2).
//
//go:nosplit
func (w *watcher) intent(flags int) (reads, changes bool) {
	if flags == notOpen {
		return false, w.changes
	}
	reads = w.reads && flags&unix.O_PATH == 0 && flags&unix.O_ACCMODE != unix.O_WRONLY
	return reads, w.changes && flags&(unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC) != 0
}

// plainLength is the length of a text that is a path from the root, without what
// has to be resolved.
//
//go:nosplit
func plainLength(t *claimedText) (length int, plain bool) {
	for length < int(t.read) && t.bytes[length] != 0 {
		length++
	}
	return length, length > 0 && length < int(t.read) && t.bytes[0] == '/' && isPlain(t, length)
}

// isNearWriteOnly: the path is a write-only one, below it, or on the way to it.
//
//go:nosplit
func (w *watcher) isNearWriteOnly(t *claimedText, length int) bool {
	for length > 1 && t.bytes[length-1] == '/' {
		length--
	}
	for i := range w.writeOnly {
		name := w.writeOnly[i]
		n := min(len(name), length)
		same := length == 1 || length == n && len(name) == n || length > n && t.bytes[n] == '/' || len(name) > n && name[n] == '/'
		for j := 0; same && j < n; j++ {
			same = t.bytes[j] == name[j]
		}
		if same {
			return true
		}
	}
	return false
}

//go:nosplit
func (w *watcher) isBelowWritable(t *claimedText, length int) bool {
	longest, writable := 0, false
	for i := range w.places {
		p := &w.places[i]
		n := len(p.target)
		if n > length || n <= longest {
			continue
		}
		same := n == length || t.bytes[n] == '/'
		for j := 0; same && j < n; j++ {
			same = t.bytes[j] == p.target[j]
		}
		if same { // a mount point is looked at
			longest, writable = n, p.writable && (n < length || p.itself)
		}
	}
	return writable
}

// isPlain: the path has no empty part, no "." and no "..".
//
//go:nosplit
func isPlain(t *claimedText, length int) bool {
	for i := 0; i+1 < length; i++ {
		if t.bytes[i] != '/' {
			continue
		}
		switch next := t.bytes[i+1]; {
		case next == '/':
			return false
		case next == '.' && (i+2 == length || t.bytes[i+2] == '/' || t.bytes[i+2] == '.'):
			return false
		}
	}
	return true
}

// judgePath finds out whether the kernel will refuse the call that waits; then the
// denial says what.
func (a *answerer) judgePath() bool {
	nr := int(a.n.data.nr)
	if nr < 0 || nr >= len(a.watch.paths) {
		return false
	}
	reads, changes := a.watch.intent(a.openFlags(nr))
	for i, p := range a.watch.paths[nr] {
		text, ok := a.text(a.watch.slots[nr][i])
		if !ok {
			continue
		}
		full, ok := a.absolute(p, text)
		if !ok {
			continue
		}
		effect, refused := journal.EffectRead, reads && a.watch.judgeRead(full)
		if !refused && changes {
			effect, refused = a.watch.judge(full, p, a.openFlags(nr))
		}
		if refused {
			a.found.path, a.found.effect = full, effect
			return true
		}
	}
	return false
}

// text is one that was read, whole.
func (a *answerer) text(slot int) (string, bool) {
	if slot < 0 {
		return "", false
	}
	t := &a.found.texts[slot]
	end := bytes.IndexByte(t.bytes[:t.read], 0)
	if end < 0 {
		return "", false
	}
	return string(t.bytes[:end]), true
}

// notOpen are the flags of a call that does not open.
const notOpen = -1

//go:nosplit
func (a *answerer) openFlags(nr int) int {
	argument := a.watch.open[nr]
	if argument == notOpen {
		return notOpen
	}
	return int(uint32(a.n.data.args[argument]))
}

// absolute is a path from the sandbox's root on, where the process is now.
func (a *answerer) absolute(p syscalls.Path, text string) (string, bool) {
	if strings.HasPrefix(text, "/") {
		return text, true
	}
	from := "cwd"
	if p.Dir >= 0 {
		if fd := int32(a.n.data.args[p.Dir]); fd != unix.AT_FDCWD {
			from = "fd/" + strconv.Itoa(int(fd))
		}
	}
	// The kernel gives it from the root of the mounts that it lies in: those are
	// the sandbox's.
	base, err := readlink(fmt.Sprintf("/proc/%d/%s", a.n.tid, from))
	if err != nil || !strings.HasPrefix(base, "/") {
		return "", false
	}
	return strings.TrimSuffix(base, "/") + "/" + text, true
}

// judgeRead tells whether a write-only path keeps what a path leads to from being
// read, or listed: Landlock lets neither what is below one, nor the directories on
// the way to it. What was made in these since the start is refused, too, and not told.
func (w *watcher) judgeRead(full string) bool {
	fd, err := w.lookUp(full, false)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	kind := uint32(0)
	if unix.Fstat(fd, &st) == nil {
		kind = st.Mode & unix.S_IFMT
	}
	// As absolute says, from the sandbox's root on.
	at, err := readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return false
	}
	return slices.ContainsFunc(w.writeOnly, func(name string) bool {
		return isWithin(name, at) || kind == unix.S_IFDIR && isWithin(at, name)
	})
}

// isWithin: name is dir, or below it.
func isWithin(dir, name string) bool {
	return dir == name || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// judge tells what the kernel will say of a path. It looks at the sandbox's files
// with the rights of the command's user, from the sandbox's root on, and follows
// no link out of it (RESOLVE_IN_ROOT of openat2(2)).
func (w *watcher) judge(full string, p syscalls.Path, flags int) (journal.Effect, bool) {
	effect, flagsOfOpen := p.Effect, flags != notOpen
	if effect != syscalls.Removes {
		target, err := w.lookUp(full, p.NoFollow)
		switch {
		case err == nil:
			defer unix.Close(target)
			// What is there already is no reason to refuse: EEXIST, or it is only read.
			onlyRead := flagsOfOpen && flags&(unix.O_WRONLY|unix.O_RDWR|unix.O_TRUNC) == 0
			return journal.EffectWrite, effect == syscalls.Writes && !onlyRead && isRefused(target)
		case err != unix.ENOENT || effect == syscalls.Writes && (!flagsOfOpen || flags&unix.O_CREAT == 0):
			return "", false
		}
	}
	dir, err := w.lookUp(parent(full), false)
	if err != nil {
		return "", false
	}
	defer unix.Close(dir)
	if effect == syscalls.Removes {
		return journal.EffectRemove, isRefused(dir)
	}
	return journal.EffectCreate, isRefused(dir) && !w.isLinkIntoProc(full)
}

// isLinkIntoProc: it is a link that leads nowhere from here, but may well do for the
// process, as /dev/stderr to /proc/self/fd/2.
func (w *watcher) isLinkIntoProc(full string) bool {
	fd, err := w.lookUp(full, true)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	target, err := readlinkAt(fd, "")
	return err == nil && strings.HasPrefix(target, "/proc/")
}

func (w *watcher) lookUp(name string, noFollow bool) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if noFollow {
		how.Flags |= unix.O_NOFOLLOW
	}
	for {
		fd, err := unix.Openat2(w.root, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// parent is the directory that the last part of a path is a name in.
func parent(name string) string {
	name = strings.TrimRight(name, "/")
	return name[:strings.LastIndexByte(name, '/')+1] + "."
}

// isRefused: a file or directory in a read-only mount. What else lies in one,
// devices and pipes, can be written to.
func isRefused(fd int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstat(fd, &st) != nil || unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	kind := st.Mode & unix.S_IFMT
	return fs.Flags&unix.ST_RDONLY != 0 && (kind == unix.S_IFREG || kind == unix.S_IFDIR || kind == unix.S_IFLNK)
}

// openRoot opens the sandbox's root, which all of its processes have: a chroot(2)
// of the command's own only makes what is told of it wrong.
func (w *watcher) openRoot(tid uint32) error {
	if w.root >= 0 {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/root", tid), unix.O_PATH|unix.O_CLOEXEC, 0)
	w.root = fd
	return err
}

// capabilityOfPorts is what bind(2) needs for a port below firstOpenPort
// (net.ipv4.ip_unprivileged_port_start; in the sandbox's namespace it is the
// kernel's default).
const (
	capabilityOfPorts = "CAP_NET_BIND_SERVICE"
	firstOpenPort     = 1024
)

// judgeCapability finds out whether the call that waits will be refused for want of
// a capability; then the denial names it.
func (a *answerer) judgeCapability() bool {
	name, _ := syscalls.Name(runtime.GOARCH, int(a.n.data.nr))
	number, ok := syscalls.NeededCapability(name)
	if !ok || name == "bind" && !a.bindsLowPort() {
		return false
	}
	a.found.capability = capabilityName(number)
	return a.found.capability != ""
}

// bindsLowPort reads struct sockaddr_in or sockaddr_in6, as claimed.
func (a *answerer) bindsLowPort() bool {
	t := &a.found.texts[0]
	if t.read < 4 {
		return false
	}
	family, port := binary.NativeEndian.Uint16(t.bytes[:]), binary.BigEndian.Uint16(t.bytes[2:])
	return (family == unix.AF_INET || family == unix.AF_INET6) && port > 0 && port < firstOpenPort
}

// capabilityNames are those of syscalls.NeededCapability.
func capabilityName(number int) string {
	switch number {
	case unix.CAP_DAC_READ_SEARCH:
		return "CAP_DAC_READ_SEARCH"
	case unix.CAP_SETGID:
		return "CAP_SETGID"
	case unix.CAP_NET_BIND_SERVICE:
		return capabilityOfPorts
	case unix.CAP_SYS_MODULE:
		return "CAP_SYS_MODULE"
	case unix.CAP_SYS_RAWIO:
		return "CAP_SYS_RAWIO"
	case unix.CAP_SYS_CHROOT:
		return "CAP_SYS_CHROOT"
	case unix.CAP_SYS_PACCT:
		return "CAP_SYS_PACCT"
	case unix.CAP_SYS_ADMIN:
		return "CAP_SYS_ADMIN"
	case unix.CAP_SYS_BOOT:
		return "CAP_SYS_BOOT"
	case unix.CAP_SYS_TIME:
		return "CAP_SYS_TIME"
	case unix.CAP_SYS_TTY_CONFIG:
		return "CAP_SYS_TTY_CONFIG"
	}
	return ""
}

// decide finds out about a call that may be refused, while it waits, and lets it
// go on.
func (a *answerer) decide() (refused bool, err error) {
	switch a.about {
	case aboutPath:
		if err := a.watch.openRoot(a.n.tid); err == nil {
			refused = a.judgePath()
		}
	case aboutCapability:
		refused = a.judgeCapability()
	default:
		return false, errors.New("internal error: a call that is not about anything")
	}
	if errno := a.goOn(); errno != 0 {
		return false, errno
	}
	return refused, nil
}
