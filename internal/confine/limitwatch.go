package confine

import (
	"fmt"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// lookInterval is how often the limits are looked at while a run lasts.
const lookInterval = time.Second

// limitWatch notices the limits that a run reaches, and tells of each once.
type limitWatch struct {
	accounts *accounts
	limits   spec.Limits
	tell     func(limit journal.Limit, value uint64, count journal.Amount)

	initPID   int
	others    uint64 // of Purple's own tasks: those of no thread of the supervisor or init
	firstPeak uint64 // of the unit's tasks, when the command was started
	seen      map[journal.Limit]bool
	counts    journal.Reached // at the last look
	io        *ioWatch        // nil: block IO is not limited
}

func newLimitWatch(a *accounts, limits spec.Limits, initPID int, others uint64, tell func(journal.Limit, uint64, journal.Amount)) *limitWatch {
	w := &limitWatch{accounts: a, limits: limits, tell: tell, initPID: initPID, others: others, firstPeak: a.mostTasks().N, seen: map[journal.Limit]bool{}}
	if limits.IO != 0 {
		w.io = newIOWatch(a, limits.IO, time.Now())
	}
	return w
}

// look compares what the unit's control groups count with what it has seen.
func (w *limitWatch) look() {
	w.lookAtCounts()
	if w.areMost(w.accounts.tasks().N, threads(w.initPID)) {
		w.reach(journal.LimitTasks, w.limits.Tasks, journal.Amount{})
	}
}

func (w *limitWatch) lookAtCounts() {
	w.counts.OOMKills = w.accounts.oomKills()
	w.check(journal.LimitMemory, w.limits.Memory, w.counts.OOMKills)
	if w.limits.CPU != 0 {
		w.counts.Throttled, w.counts.ThrottledTime = w.accounts.throttled()
		w.check(journal.LimitCPU, w.limits.CPU, w.counts.Throttled)
	}
	if w.io != nil && w.io.look(time.Now()) {
		w.reach(journal.LimitIO, w.limits.IO, journal.Amount{})
	}
}

func (w *limitWatch) check(limit journal.Limit, value uint64, count journal.Amount) {
	if count.N > 0 {
		w.reach(limit, value, count)
	}
}

// reach notes a limit as reached. What is not limited cannot be: the machine
// as a whole may be out of memory, too.
func (w *limitWatch) reach(limit journal.Limit, value uint64, count journal.Amount) {
	if value == 0 || w.seen[limit] {
		return
	}
	w.seen[limit] = true
	w.tell(limit, value, count)
}

// areMost tells whether a number of tasks of the unit means that the command
// has all that it may have. The kernel counts no refusal: its limit is an
// RLIMIT_NPROC. The rest are Purple's own threads, which never become fewer.
func (w *limitWatch) areMost(tasks, ofInit uint64) bool {
	return w.limits.Tasks != 0 && tasks >= w.limits.Tasks+threads(unix.Getpid())+ofInit+w.others
}

// finish looks for the last time, when the sandbox is gone. Between two looks
// the kernel has kept the highest number of tasks (pids.peak, new in Linux
// 6.6); that of the start is of Purple's own processes. ofInit are the threads
// that the sandbox's init has had; 0: it could not say, and nothing is known.
func (w *limitWatch) finish(ofInit uint64) {
	w.lookAtCounts()
	if peak := w.accounts.mostTasks(); ofInit != 0 && peak.N > w.firstPeak && w.areMost(peak.N, ofInit) {
		w.reach(journal.LimitTasks, w.limits.Tasks, journal.Amount{})
	}
}

// reached is what the last look has found.
func (w *limitWatch) reached() journal.Reached {
	r := w.counts
	r.Limits = journal.JoinLimits(w.seen)
	return r
}

// threads is how many a process has: the kernel adds them to the number of
// links of the directory (fs/proc/base.c, proc_task_getattr). 0: it is gone.
func threads(pid int) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/task", pid), &st); err != nil || st.Nlink < 2 {
		return 0
	}
	return uint64(st.Nlink) - 2
}
