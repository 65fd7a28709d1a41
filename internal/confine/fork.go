package confine

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The brackets that package syscall puts around its own fork. Before: signals are
// blocked, and growing the stack is a crash. In the child there is no runtime to
// come back to: it makes system calls until it is executed or killed.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// child is what runs in a fork. It has one thread and a Go runtime without its
// others: it must not allocate, grow the stack, store a pointer where the garbage
// collector would hear of it, or wait for a goroutine. run, which does not return,
// and all that it calls are therefore go:nosplit, and make raw system calls with
// what was made before. Any other function that looks at the room left on the stack
// as it is entered, and most do, crashes a fork that has memory of its own:
// beforeFork sees to that.
type child interface{ run() }

// fork clones this process, with flags on top of a plain fork.
//
// With CLONE_VM the two share their memory, and the fork has a stack of its own in
// it. Nothing is copied then, neither now nor page by page as init goes on, which
// is a good part of a start. What the fork writes, init sees: it writes to its page
// only. What refers to the memory of c, the garbage collector must see in init.
func fork(flags uintptr, c child) (pid int, err error) {
	_ = ensureStack(int(flags))
	stack, err := stackOf(flags)
	if err != nil {
		return 0, err
	}
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	beforeFork()
	r, errno := clone(flags|uintptr(unix.SIGCHLD), stack, c)
	afterFork()
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// stackSize is far above what the linker grants a chain of go:nosplit functions.
// No handler of a signal runs on it: they are blocked until there is none. Below it
// are guardSize bytes that nobody may touch.
const stackSize, guardSize = 16 << 10, 64 << 10

// stackOf makes the stack of a fork that shares its memory, and gives its upper
// end; 0: the fork has a copy of this one's.
func stackOf(flags uintptr) (uintptr, error) {
	if flags&unix.CLONE_VM == 0 {
		return 0, nil
	}
	mem, err := unix.Mmap(-1, 0, guardSize+stackSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_STACK)
	if err == nil {
		err = unix.Mprotect(mem[guardSize:], unix.PROT_READ|unix.PROT_WRITE)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot make a stack: %w", err)
	}
	return uintptr(unsafe.Pointer(&mem[0])) + guardSize + stackSize, nil
}

// runChild is where a fork begins.
//
//go:nosplit
func runChild(c child) { c.run() }

// ensureStack makes room on the stack for what cannot ask for it: several times
// of what the linker grants a chain of go:nosplit functions. The stack only
// shrinks at a garbage collection, and not under a running function of it.
//
//go:noinline
func ensureStack(n int) byte {
	var room [8 << 10]byte
	room[n%len(room)] = 1
	return room[(n+1)%len(room)] // so that the compiler does not leave it out
}

// The states of a page. Who reaches one first is told in front.
const (
	forked   uint32 = iota
	mapped          // init: the user namespace has its ids
	ready           // command: confined but for the filter
	released        // init: all has been read back, load the filter
	filtered        // command
	execute         // init: the filter has been read back
	failed          // command: a step could not be done
)

// page is the memory that init shares with its fork, and all that they tell each
// other by.
type page struct {
	state  atomic.Uint32 // a futex
	step   atomic.Int32  // of a failure: of commandSteps, or the number of them for what comes after
	detail atomic.Int32  // of a failure: which of several
	errno  atomic.Int32

	listener atomic.Int32 // the filter's, in the table of descriptors that both have

	// owner is the only entry in the fork's list of robust futexes. The kernel
	// marks it when the fork is executed or has died, and wakes who waits for it
	// (futex_exec_release() and handle_futex_death() in kernel/futex/core.c): there
	// is no other way to hear of execve without a descriptor that only one of the
	// two has.
	owner robustFutex
	list  robustList
}

// robustFutex is an entry of the list: struct robust_list, and the futex.
type robustFutex struct {
	next uintptr
	tid  atomic.Uint32 // of the fork, with futexWaiters and, at last, futexOwnerDied
}

// robustList is struct robust_list_head.
type robustList struct {
	first   uintptr
	offset  uintptr // from an entry to its futex
	pending uintptr
}

// What the word of a robust futex has beside the owner's thread id: somebody waits
// for it, and the owner has died, or is executed.
const (
	futexWaiters   = 0x80000000 // FUTEX_WAITERS
	futexOwnerDied = 0x40000000 // FUTEX_OWNER_DIED
)

func newPage() (*page, error) {
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot make memory to share: %w", err)
	}
	p := (*page)(unsafe.Pointer(&mem[0]))
	p.list.first = uintptr(unsafe.Pointer(&p.owner))
	p.list.offset = unsafe.Offsetof(p.owner.tid)
	p.owner.next = uintptr(unsafe.Pointer(&p.list))
	return p, nil
}

// advance reaches a state and wakes who waits for it.
//
//go:nosplit
func (p *page) advance(state uint32) {
	p.state.Store(state)
	syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.state)), futexWake, 1, 0, 0, 0)
}

const futexWait, futexWake = 0, 1

// await waits for a state, in the fork: should init die, so does the fork.
//
//go:nosplit
func (p *page) await(state uint32) {
	for {
		now := p.state.Load()
		if now >= state {
			return
		}
		syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.state)), futexWait, uintptr(now), 0, 0, 0)
	}
}

// deathInterval is how often init looks whether the fork that it waits for lives.
const deathInterval = 20 * time.Millisecond

var errForkDied = errors.New("the command's process is gone")

// awaitFork waits in init for a state of the fork's.
func (p *page) awaitFork(pid int, state uint32) error {
	interval := unix.NsecToTimespec(int64(deathInterval))
	for {
		now := p.state.Load()
		if now == failed {
			return errStepFailed
		}
		if now >= state {
			return nil
		}
		_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.state)), futexWait, uintptr(now), uintptr(unsafe.Pointer(&interval)), 0, 0)
		if errno == unix.ETIMEDOUT && hasDied(pid) {
			return errForkDied
		}
	}
}

// errStepFailed: the page says which.
var errStepFailed = errors.New("a step of the command's process failed")

// hasDied tells whether a child has ended, and leaves it to be waited for.
func hasDied(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || info.Signo != 0
}

// filterInterval is how often init looks whether the filter is loaded, which takes
// some hundred microseconds.
const filterInterval = 20 * time.Microsecond

// awaitFilter waits in init for the filter, or the end of the fork. It has to look:
// with the filter the fork makes no call but execve, and wakes nobody. It sleeps
// between the looks and does not just yield: who never sleeps stays on its
// processor, and that may be the one on which the fork then spins.
func (p *page) awaitFilter() error {
	interval := unix.NsecToTimespec(int64(filterInterval))
	// Or each sleep is 50 us longer. It stays so: init sleeps no other time.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set the timer slack: %w", err)
	}
	for p.state.Load() != filtered && !p.isOver() {
		if p.state.Load() == failed {
			return errStepFailed
		}
		syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&interval)), 0, 0)
	}
	return nil
}

// failureInterval is how often init looks whether execve has failed, which nobody
// wakes it for.
const failureInterval = time.Millisecond

// awaitExec waits in init until the fork is executed, or has died.
func (p *page) awaitExec() error {
	interval := unix.NsecToTimespec(int64(failureInterval))
	for {
		word := p.owner.tid.Load()
		if word&futexOwnerDied != 0 {
			return nil
		}
		if p.state.Load() == failed {
			return errStepFailed
		}
		syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.owner.tid)), futexWait, uintptr(word), uintptr(unsafe.Pointer(&interval)), 0, 0)
	}
}

// isOver: the fork was executed or has died; which of them, wait4(2) tells.
func (p *page) isOver() bool { return p.owner.tid.Load()&futexOwnerDied != 0 }
