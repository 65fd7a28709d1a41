package confine

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

// maxNamedCalls bounds the memory that a command can make the supervisor use
// by changing its name. Further names are counted together, for each call: the
// calls are few hundred, so a denial of a new one always has an event.
const maxNamedCalls = 256

// callKey is what is counted apart.
type callKey struct {
	nr   int32
	comm [16]byte
}

// countedCall is the count of one key.
type countedCall struct {
	latest denial
	count  uint64

	// The teller's own.
	told uint64
	when time.Time
}

// callTally counts denied calls. The thread that answers them adds, another
// tells: what the journal does never holds up a call.
type callTally struct {
	run    journal.Run
	emit   func(journal.Event) error
	bucket bucket
	news   chan struct{} // something was counted for the first time

	mu    sync.Mutex
	calls map[callKey]*countedCall
	order []*countedCall // as they came; grows only
	total uint64
}

func newCallTally(run journal.Run, emit func(journal.Event) error, now time.Time) *callTally {
	return &callTally{
		run: run, emit: emit, bucket: bucket{tokens: eventsBurst, last: now},
		news: make(chan struct{}, 1), calls: map[callKey]*countedCall{},
	}
}

// add counts one call.
func (t *callTally) add(d *denial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	c := t.calls[callKey{d.nr, d.who.comm}]
	if c == nil {
		c = t.begin(d)
	}
	c.count++
	comm := c.latest.who.comm // empty where several names share the count
	c.latest = *d
	c.latest.who.comm = comm
}

// begin makes the count of a call and name, or finds that of all further names.
func (t *callTally) begin(d *denial) *countedCall {
	key := callKey{d.nr, d.who.comm}
	if len(t.order) >= maxNamedCalls {
		key.comm = [16]byte{}
	}
	c := t.calls[key]
	if c != nil {
		return c
	}
	c = &countedCall{latest: *d}
	c.latest.who.comm = key.comm
	t.calls[key] = c
	t.order = append(t.order, c)
	select {
	case t.news <- struct{}{}:
	default: // it is on its way
	}
	return c
}

// counted is all that there is by now.
func (t *callTally) counted() []*countedCall {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.order
}

func (t *callTally) event(c *countedCall) journal.SyscallDenied {
	t.mu.Lock()
	latest, count := c.latest, c.count
	t.mu.Unlock()
	return latest.event(t.run, count)
}

func (t *callTally) count(c *countedCall) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return c.count
}

// follow tells until stop is closed, and then the final counts.
func (t *callTally) follow(stop <-chan struct{}) {
	var ticks <-chan time.Time // not before there is anything to tell
	for {
		select {
		case <-t.news:
			if ticks == nil {
				ticker := time.NewTicker(tick)
				defer ticker.Stop()
				ticks = ticker.C
			}
		case <-ticks:
		case <-stop:
			t.finish()
			return
		}
		t.tellDue(time.Now())
	}
}

// tellDue tells first what has not been told at all: the others could use up
// the rate, each time anew, and nobody would hear of a call before the end.
func (t *callTally) tellDue(now time.Time) {
	calls := t.counted()
	for _, c := range calls {
		if c.told == 0 {
			t.tell(c, now)
		}
	}
	for _, c := range calls {
		if t.count(c) != c.told && now.Sub(c.when) >= countInterval {
			t.tell(c, now)
		}
	}
}

// tell emits one event if the rate allows it. See tally.tell.
func (t *callTally) tell(c *countedCall, now time.Time) {
	if !t.bucket.take(now) {
		return // it stays due
	}
	e := t.event(c)
	if err := t.emit(e); err != nil {
		t.bucket.pause()
		return
	}
	c.told, c.when = e.Count, now
}

// finish emits the final counts and the summary. See tally.finish.
func (t *callTally) finish() {
	total := t.summary()
	if total.Total == 0 {
		return
	}
	for _, c := range t.counted() {
		if e := t.event(c); e.Count != c.told && t.emit(e) != nil {
			break
		}
	}
	_ = t.emit(total) // nobody is left to hear of it, and purple gets the values
}

func (t *callTally) summary() journal.SyscallsDenied {
	t.mu.Lock()
	defer t.mu.Unlock()
	different := map[int32]bool{}
	for key := range t.calls {
		different[key.nr] = true
	}
	return journal.SyscallsDenied{Run: t.run, Total: t.total, Syscalls: uint64(len(different))}
}

// refused is what purple is told: the total, and what was denied most often.
func (t *callTally) refused() *spec.DeniedCalls {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := slices.Clone(t.order)
	slices.SortStableFunc(calls, func(x, y *countedCall) int { return cmp.Compare(y.count, x.count) })
	d := &spec.DeniedCalls{Total: t.total}
	for _, c := range calls[:min(len(calls), spec.MaxRefusedCalls)] {
		d.Most = append(d.Most, spec.RefusedCall{
			Nr: uint32(c.latest.nr), Args: c.latest.args, Comm: c.latest.who.name(), Errno: unix.ErrnoName(deniedErrno), Count: c.count,
		})
	}
	d.More = uint64(len(calls) - len(d.Most))
	return d
}
