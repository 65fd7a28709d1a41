package confine

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

// errNobodyLeft says that every process which the listener is for has ended.
var errNobodyLeft = errors.New("no process has the filter any more")

// answerer is the thread that answers, and what it needs for one call: no
// memory is allocated while a call waits.
type answerer struct {
	fd      uintptr
	answer  response
	polled  unix.PollFd
	n       notification
	found   denial
	local   [maxTexts]unix.Iovec // each a text's bytes
	remote  [2 * maxTexts]unix.RemoteIovec
	path    [32]byte
	status  [4096]byte // of /proc/TID/status
	started int        // bytes of status that were read while the call waited

	program []unix.SockFilter // the filter: see whatAbout
	about   about             // what waits
	resume  response          // lets it go on
	watch   *watcher

	textArguments [][]int           // by number: see textArguments
	threads       [maxThreads]known // by thread id, modulo
}

// The runtime's own brackets of a system call that blocks. Between them the
// thread belongs to the kernel: the goroutine must not need the runtime.
//
//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// next waits for a call, looks at what it claims and answers it, but for what
// takes a closer look: that is left to decide.
//
// To the Go runtime all of it is one system call. As four, each return would
// have to find a processor of the runtime's and wake its monitor: measured, 40
// to 80 µs for a call that comes alone, in which the process waits. So what it
// calls is marked nosplit, and makes raw calls only.
//
//go:nosplit
func (a *answerer) next() (err syscall.Errno, left bool) {
	entersyscall()
	err, left = a.serve()
	exitsyscall()
	return err, left
}

//go:nosplit
func (a *answerer) serve() (err syscall.Errno, left bool) {
	if err, left = a.receive(); err != 0 || left {
		return err, left
	}
	a.about = a.whatAbout()
	a.readClaims()
	if a.about == aboutPath && a.isPlainlyAllowed() {
		a.about = aboutNothing
		return a.goOn(), false
	}
	a.readWho()
	if a.about == aboutDenied {
		return a.deny(), false
	}
	return 0, false // it waits for decide
}

//go:nosplit
func (a *answerer) receive() (err syscall.Errno, left bool) {
	for {
		if err, left = a.wait(); err != 0 || left {
			return err, left
		}
		a.n = notification{} // the kernel insists
		// Not blocking: this is the only thread that receives.
		_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, a.fd, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&a.n)))
		// EINTR, ENOENT: a signal ended the call before it was received.
		if errno != unix.EINTR && errno != unix.ENOENT {
			return errno, false
		}
	}
}

// wait waits for a call, or for the end of the last process with the filter.
//
//go:nosplit
func (a *answerer) wait() (err syscall.Errno, left bool) {
	for {
		a.polled.Revents = 0
		_, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&a.polled)), 1, 0, 0, 0, 0)
		switch {
		case errno != 0 && errno != unix.EINTR:
			return errno, false
		case errno != 0:
		case a.polled.Revents&unix.POLLIN != 0:
			return 0, false
		case a.polled.Revents&unix.POLLHUP != 0:
			return 0, true
		}
	}
}

// readWho reads what can only be read of a thread while its call waits.
//
//go:nosplit
func (a *answerer) readWho() {
	if a.threads[a.n.tid%maxThreads].tid != a.n.tid {
		a.started = a.readStatus()
	} else {
		a.started = 0
	}
}

// readClaims reads the texts of the call.
//
//go:nosplit
func (a *answerer) readClaims() {
	a.forgetTexts()
	nr := int(a.n.data.nr)
	if nr < 0 || nr >= len(a.textArguments) {
		return
	}
	a.readTexts(a.textArguments[nr])
}

//go:nosplit
func (a *answerer) forgetTexts() {
	for i := range a.found.texts {
		a.found.texts[i].read = 0
	}
}

// readTexts reads texts of the process that waits, all in one call if it can:
// each takes microseconds. What cannot be read stays empty: not its memory, or
// not this thread's to read.
//
//go:nosplit
func (a *answerer) readTexts(arguments []int) {
	const page = 4096 // or a multiple: the next one may not be there
	for i, argument := range arguments {
		address := uintptr(a.n.data.args[argument])
		first := min(maxText, page-address%page)
		a.remote[2*i] = unix.RemoteIovec{Base: address, Len: int(first)}
		a.remote[2*i+1] = unix.RemoteIovec{Base: address + first, Len: int(maxText - first)}
	}
	for at := 0; at < len(arguments); {
		n, _, errno := syscall.RawSyscall6(unix.SYS_PROCESS_VM_READV, uintptr(a.n.tid),
			uintptr(unsafe.Pointer(&a.local[at])), uintptr(len(arguments)-at),
			uintptr(unsafe.Pointer(&a.remote[2*at])), uintptr(2*(len(arguments)-at)), 0)
		if errno != 0 {
			n = 0
		}
		for ; n >= maxText; n -= maxText {
			a.found.texts[at].read = maxText
			at++
		}
		if at < len(arguments) { // it stopped in this one, in the middle or before
			a.found.texts[at].read = uint16(n)
			at++
		}
	}
}

// readStatus reads /proc/TID/status and tells how many bytes.
//
//go:nosplit
func (a *answerer) readStatus() int {
	at := copy(a.path[:], "/proc/")
	digits := 1
	for n := a.n.tid; n >= 10; n /= 10 {
		digits++
	}
	for i, n := digits-1, a.n.tid; i >= 0; i, n = i-1, n/10 {
		a.path[at+i] = byte('0' + n%10)
	}
	copy(a.path[at+digits:], "/status\x00")
	fd, _, errno := syscall.RawSyscall6(unix.SYS_OPENAT, 0 /* not looked at */, uintptr(unsafe.Pointer(&a.path[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&a.status[0])), uintptr(len(a.status)))
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// deny answers the call. That the answer is taken means that the call was still
// waiting, so that what was read before was its process's own: asking with
// SECCOMP_IOCTL_NOTIF_ID_VALID would say no more.
//
//go:nosplit
func (a *answerer) deny() syscall.Errno {
	taken, errno := a.send(&a.answer)
	if errno != 0 {
		return errno
	}
	if !taken {
		// What was read may be of another process with its id.
		a.forgetTexts()
		return 0
	}
	// The process is to go on before this thread does the rest: it was woken up
	// for this processor.
	_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	return 0
}

// send responds to the call that waits; not taken: its process was killed.
//
//go:nosplit
func (a *answerer) send(r *response) (taken bool, errno syscall.Errno) {
	r.id = a.n.id
	for {
		_, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, a.fd, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(r)))
		switch errno {
		case unix.EINTR:
		case unix.ENOENT:
			return false, 0
		default:
			return errno == 0, errno
		}
	}
}

// newAnswerer makes an answerer that has only to learn of the sandbox.
func newAnswerer(l *listener) *answerer {
	a := &answerer{
		fd: uintptr(l.fd), polled: unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN},
		answer: response{error: -int32(deniedErrno)},
		resume: response{flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE},
	}
	for i := range a.found.texts {
		a.local[i] = unix.Iovec{Base: &a.found.texts[i].bytes[0], Len: maxText}
	}
	return a
}

// learn makes the tables of calls. They take half a millisecond: the first call
// waits for them, and not the start of a command that never makes one.
func (a *answerer) learn(s *spec.Spec, arch string) error {
	a.textArguments = textArguments(arch)
	a.program, a.watch = newProgram(s.Filter), newWatcher(s, arch, a.textArguments)
	bind, ok := syscalls.Number(arch, "bind")
	if !ok {
		return errors.New("internal error: no number of bind")
	}
	a.textArguments[bind] = []int{1} // no text, but to be read as well: see bindsLowPort
	return nil
}

// awaitFirst waits for the first call, which it leaves waiting.
//
//go:nosplit
func (a *answerer) awaitFirst() (err syscall.Errno, left bool) {
	entersyscall()
	err, left = a.wait()
	exitsyscall()
	return err, left
}

// answerCalls answers each call, and then counts what is denied. It ends with an
// error; the kernel then answers what comes.
func (a *answerer) answerCalls(s *spec.Spec, arch string, d *deniedCalls) error {
	errno, left := a.awaitFirst()
	if errno == 0 && !left {
		if err := a.learn(s, arch); err != nil {
			return err
		}
	}
	for {
		if errno != 0 {
			return os.NewSyscallError("answer a call", errno)
		}
		if left {
			return errNobodyLeft
		}
		if errno, left = a.next(); errno != 0 || left {
			continue
		}
		if err := a.finish(d); err != nil {
			return fmt.Errorf("answer a call: %w", err)
		}
	}
}

// finish does what is left to do about a call.
func (a *answerer) finish(d *deniedCalls) error {
	tally := d.tally
	a.found.path, a.found.effect, a.found.capability = "", "", ""
	switch a.about {
	case aboutNothing:
		return nil
	case aboutPath, aboutCapability:
		refused, err := a.decide()
		if err != nil || !refused {
			return err
		}
		if tally = d.paths; a.about == aboutCapability {
			tally = d.capabilities
		}
	}
	if tally != nil {
		tally.add(a.denial(time.Now()))
	}
	return nil
}
