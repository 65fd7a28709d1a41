package confine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

// A learning run finds out which system calls the command makes. Its filter
// answers SECCOMP_RET_TRACE for what it lets pass: the call stops and tells a
// tracer, one thread of the supervisor's, which counts it and lets it go on. Then
// the kernel runs the filter once more (since Linux 4.8; kernel/seccomp.c,
// recheck_after_trace), so that nobody who changes the call meanwhile gets around
// what the filter denies.
//
// It is ptrace(2) and not a notification, because a signal ends the wait for the
// answer to one: a call would fail with EINTR that never does elsewhere. And not
// BPF at the tracepoint of system calls: that slows the whole machine down.
//
// Without a tracer RET_TRACE is ENOSYS, and with the tracer its tracees end
// (PTRACE_O_EXITKILL): no call of a learning run passes unseen.

// tracer counts the calls of the command and all its descendants.
type tracer struct {
	target chan int   // the process to trace, once
	seized chan error // whether that could be done
	over   chan struct{}

	calls    map[uint32]*tracedCall
	began    time.Time // the command was executed; zero: not yet
	comms    map[int]string
	renaming uint32 // the number of prctl(2), by which a process gets another name
	err      error  // why it ended early
}

// tracedCall is the count of one call.
type tracedCall struct {
	count uint64
	first time.Duration // since the command was executed
	comms []string
}

const traceOptions = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
	unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL

// startTracer starts the thread of a learning run that will trace. That needs a
// privilege which this process drops soon.
func (s *supervisor) startTracer() error {
	if !s.spec.Learning {
		return nil
	}
	prctl, ok := syscalls.Number(runtime.GOARCH, "prctl")
	if !ok {
		return errors.New("internal error: no number of prctl")
	}
	t := &tracer{
		target: make(chan int), seized: make(chan error), over: make(chan struct{}),
		calls: map[uint32]*tracedCall{}, comms: map[int]string{}, renaming: uint32(prctl),
	}
	s.trace = t
	return s.startLooker(requireNoChild, t.run) // a tracee has one thread for its tracer
}

// requireNoChild makes sure that the thread has forked nothing. To follow the
// tracees is to wait for the thread's children, until there is none: with pasta
// among them, which ends with the supervisor, each would wait for the other. What
// other goroutines start later is not this thread's, which no other runs on.
func requireNoChild() error {
	_, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOTHREAD|unix.WNOHANG, nil)
	if errors.Is(err, unix.ECHILD) {
		return nil
	}
	return fmt.Errorf("internal error: the thread has children (%v)", err)
}

// seizeCommand traces the process that will become the command: the only child
// that init has now, stopped nowhere, and its main thread is the one that gets the
// filter. It must come before that.
func (s *supervisor) seizeCommand() error {
	if s.trace == nil {
		return nil
	}
	pid, err := onlyChild(s.initPID)
	if err != nil {
		return err
	}
	s.trace.target <- pid
	if err := <-s.trace.seized; err != nil {
		return fmt.Errorf("cannot trace it: %w (kernel.yama.ptrace_scope=3 forbids that to everybody)", err)
	}
	return nil
}

// onlyChild reads the children of each of a process's threads (proc_pid_task(5)).
func onlyChild(pid int) (int, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot find the command's process: %w", err)
	}
	var all []string
	for _, thread := range threads {
		text, ok := readKernelFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, thread.Name()))
		if !ok {
			return 0, errors.New("cannot find the command's process: this kernel does not tell a process's children (CONFIG_PROC_CHILDREN)")
		}
		all = append(all, strings.Fields(text)...)
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("cannot find the command's process: the sandbox's init has %d children", len(all))
	}
	return strconv.Atoi(all[0])
}

func (t *tracer) run() {
	defer close(t.over)
	pid, ok := <-t.target
	if !ok {
		return
	}
	err := ptrace(unix.PTRACE_SEIZE, pid, 0, traceOptions)
	t.seized <- err
	if err == nil {
		t.err = t.follow()
	}
}

// ptrace is the system call. golang.org/x/sys/unix has wrappers for some requests.
func ptrace(request, pid int, address, data uintptr) error {
	_, _, errno := syscall.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), address, data, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// follow lets the tracees go on, each time that one has stopped, until there is
// none any more.
func (t *tracer) follow() error {
	for {
		var ws unix.WaitStatus
		// Of this thread's only: the others wait for children of their own.
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("cannot wait for the traced processes: %w", err)
		case ws.Stopped():
			// ESRCH: it has been killed meanwhile, which is told next.
			if err := t.resume(tid, ws); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cannot let a traced process go on: %w", err)
			}
		default:
			delete(t.comms, tid)
		}
	}
}

// resume handles one stop (ptrace(2), "Stopped states").
func (t *tracer) resume(tid int, ws unix.WaitStatus) error {
	signal := ws.StopSignal()
	switch event := int(ws) >> 16; event {
	case 0: // a signal on its way, which goes on
		return ptrace(unix.PTRACE_CONT, tid, 0, uintptr(signal))
	case unix.PTRACE_EVENT_STOP:
		switch signal {
		case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
			// It stays stopped, as it would without a tracer, until SIGCONT.
			return ptrace(unix.PTRACE_LISTEN, tid, 0, 0)
		}
	case unix.PTRACE_EVENT_SECCOMP:
		if err := t.count(tid); err != nil {
			return err
		}
	case unix.PTRACE_EVENT_EXEC:
		delete(t.comms, tid)
		// Of the thread that made the call, which goes on as the first one: no
		// end of it is told under its own id (ptrace(2), "execve(2) under ptrace").
		if former, err := unix.PtraceGetEventMsg(tid); err == nil {
			delete(t.comms, int(former))
		}
		if t.began.IsZero() {
			t.began = time.Now() // before it was purple-init's own
		}
	}
	return ptrace(unix.PTRACE_CONT, tid, 0, 0)
}

// syscallInfo is the beginning of struct ptrace_syscall_info (<linux/ptrace.h>).
type syscallInfo struct {
	op, _       uint8
	_           uint16
	arch        uint32
	instruction uint64
	stack       uint64
	nr          uint64
	args        [6]uint64
	data        uint32
	_           uint32
}

const opSeccomp = 3 // PTRACE_SYSCALL_INFO_SECCOMP

// callOf asks for the call at which a tracee has stopped. The address is made in
// the arguments of the system call itself: only there is what it points to held
// where it is (package unsafe, Pointer, rule 4).
func callOf(tid int) (info syscallInfo, err error) {
	_, _, errno := syscall.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return info, errno
	}
	return info, nil
}

// count counts the call that a tracee is about to make.
func (t *tracer) count(tid int) error {
	if t.began.IsZero() {
		return nil
	}
	info, err := callOf(tid)
	if err != nil {
		return err
	}
	if info.op != opSeccomp {
		return fmt.Errorf("internal error: a stop at a system call of the kind %d", info.op)
	}
	nr := uint32(info.nr)
	c := t.calls[nr]
	if c == nil {
		c = &tracedCall{first: time.Since(t.began)}
		t.calls[nr] = c
	}
	c.count++
	if len(c.comms) < spec.MaxLearntComms {
		if name := t.comm(tid); !slices.Contains(c.comms, name) {
			c.comms = append(c.comms, name)
		}
	}
	if nr == t.renaming {
		delete(t.comms, tid)
	}
	return nil
}

// comm is the name that a process has given itself. It is read once, and anew
// after what may have changed it. (A thread's name that another one has changed
// by /proc stays the old one: it is for the reader of a profile, no more.)
func (t *tracer) comm(tid int) string {
	name, known := t.comms[tid]
	if !known {
		text, _ := readKernelFile(fmt.Sprintf("/proc/%d/comm", tid))
		name = strings.TrimSuffix(text, "\n")
		t.comms[tid] = name
	}
	return name
}

// tellLearnt tells purple what was made. Every process of the sandbox is gone.
func (s *supervisor) tellLearnt() {
	if s.trace == nil {
		return
	}
	<-s.trace.over
	if s.trace.err != nil {
		// Then its tracees have ended with it, and purple writes nothing.
		s.audit.complain(s.trace.err)
		return
	}
	for _, part := range s.trace.parts() {
		s.tell(spec.Message{Kind: spec.Taught, Learnt: part})
	}
}

// parts are what purple is told, one part at least.
func (t *tracer) parts() []*spec.Learnt {
	var calls []spec.LearntCall
	for nr, c := range t.calls {
		calls = append(calls, spec.LearntCall{Nr: nr, Count: c.count, First: uint64(c.first.Microseconds()), Comms: c.comms})
	}
	if len(calls) == 0 {
		return []*spec.Learnt{{}}
	}
	slices.SortFunc(calls, func(x, y spec.LearntCall) int { return cmp.Compare(x.Nr, y.Nr) })
	var parts []*spec.Learnt
	for part := range slices.Chunk(calls, spec.MaxLearntCalls) {
		parts = append(parts, &spec.Learnt{Of: uint64(len(calls)), Calls: part})
	}
	return parts
}
