package confine

import "time"

// ioWatch notices that a run is kept waiting by its limit of block IO. The kernel
// counts no wait for it (Documentation/admin-guide/cgroup-v2.rst, io.max), but
// what went through: a run that for as long as leastWindow has moved all that it
// may, from one disk or to one, would have moved more.
type ioWatch struct {
	accounts *accounts
	limit    uint64 // bytes a second, from each disk and to each

	at    time.Time // of the last look
	disks map[string]diskIO
}

const (
	// leastWindow is more than the slices by which the kernel gives out what is
	// allowed (up to 100 ms, block/blk-throttle.c): within one, less than all
	// looks like all.
	leastWindow = 500 * time.Millisecond
	// nearlyAll is the part of the limit from which on it counts as all of it:
	// a transfer that begins in one window and ends in the next counts in one.
	nearlyAll = 0.9
)

func newIOWatch(a *accounts, limit uint64, now time.Time) *ioWatch {
	disks, _ := a.disks()
	return &ioWatch{accounts: a, limit: limit, at: now, disks: disks}
}

// look tells whether the run has moved all that it may since the last look. A
// look that comes too early after one tells nothing, and counts as none.
func (w *ioWatch) look(now time.Time) bool {
	window := now.Sub(w.at)
	disks, ok := w.accounts.disks()
	if !ok || window < leastWindow {
		return false
	}
	all := nearlyAll * float64(w.limit) * window.Seconds()
	reached := false
	for number, d := range disks {
		before := w.disks[number]
		reached = reached || float64(d.read-before.read) >= all || float64(d.written-before.written) >= all
	}
	w.at, w.disks = now, disks
	return reached
}
