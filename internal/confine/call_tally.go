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

// tallyKind is what a tally counts.
type tallyKind int

// The kinds. A path is counted apart for each thing that is to be done to it.
const (
	deniedByFilter tallyKind = iota
	deniedPath
	deniedCapability
)

// callKey is what is counted apart.
type callKey struct {
	nr     int32
	comm   [16]byte
	path   string
	effect journal.Effect
}

// key is what a denial is counted by. Of many names, or paths, the rest is counted
// together, for each call.
func (k tallyKind) key(d *denial, rest bool) callKey {
	switch {
	case rest:
		return callKey{nr: d.nr, effect: d.effect}
	case k == deniedPath:
		return callKey{comm: d.who.comm, path: d.path, effect: d.effect}
	default:
		return callKey{nr: d.nr, comm: d.who.comm}
	}
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
	kind   tallyKind
	run    journal.Run
	emit   func(journal.Event) error
	bucket bucket
	news   chan struct{} // something was counted for the first time

	mu    sync.Mutex
	calls map[callKey]*countedCall
	order []*countedCall // as they came; grows only
	total uint64
}

func newCallTally(kind tallyKind, run journal.Run, emit func(journal.Event) error, now time.Time) *callTally {
	return &callTally{
		kind: kind, run: run, emit: emit, bucket: bucket{tokens: eventsBurst, last: now},
		news: make(chan struct{}, 1), calls: map[callKey]*countedCall{},
	}
}

// add counts one call.
func (t *callTally) add(d *denial) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	c := t.calls[t.kind.key(d, false)]
	if c == nil {
		c = t.begin(d)
	}
	c.count++
	// Both are empty where several share the count.
	comm, path := c.latest.who.comm, c.latest.path
	c.latest = *d
	c.latest.who.comm, c.latest.path = comm, path
}

// begin makes the count of a call and name, or finds that of all further names.
func (t *callTally) begin(d *denial) *countedCall {
	key := t.kind.key(d, len(t.order) >= maxNamedCalls)
	c := t.calls[key]
	if c != nil {
		return c
	}
	c = &countedCall{latest: *d}
	c.latest.who.comm, c.latest.path = key.comm, key.path
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

func (t *callTally) event(c *countedCall) (e journal.Event, count uint64) {
	t.mu.Lock()
	latest, count := c.latest, c.count
	t.mu.Unlock()
	return latest.event(t.kind, t.run, count), count
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
	e, count := t.event(c)
	if err := t.emit(e); err != nil {
		t.bucket.pause()
		return
	}
	c.told, c.when = count, now
}

// finish emits the final counts and the summary. See tally.finish.
func (t *callTally) finish() {
	total, n := t.summary()
	if n == 0 {
		return
	}
	for _, c := range t.counted() {
		if e, count := t.event(c); count != c.told && t.emit(e) != nil {
			break
		}
	}
	_ = t.emit(total) // nobody is left to hear of it, and purple gets the values
}

// summary is the last event, and the total in it.
func (t *callTally) summary() (journal.Event, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	different := map[string]bool{}
	for _, c := range t.order {
		switch t.kind {
		case deniedPath:
			different[c.latest.path] = true
		case deniedCapability:
			different[c.latest.capability] = true
		default:
			different[callName(c.latest.nr)] = true
		}
	}
	n := uint64(len(different))
	switch t.kind {
	case deniedPath:
		return journal.PathsDenied{Run: t.run, Total: t.total, Paths: n}, t.total
	case deniedCapability:
		return journal.CapabilitiesDenied{Run: t.run, Total: t.total, Capabilities: n}, t.total
	default:
		return journal.SyscallsDenied{Run: t.run, Total: t.total, Syscalls: n}, t.total
	}
}

// refused is what purple is told: the total, and what was denied most often.
func (t *callTally) refused() *spec.DeniedCalls {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := mostFirst(t.order)
	d := &spec.DeniedCalls{Total: t.total}
	for _, c := range calls[:min(len(calls), spec.MaxRefusedCalls)] {
		d.Most = append(d.Most, spec.RefusedCall{
			Nr: uint32(c.latest.nr), Args: c.latest.args, Comm: c.latest.who.name(), Errno: unix.ErrnoName(deniedErrno), Count: c.count,
		})
	}
	d.More = uint64(len(calls) - len(d.Most))
	return d
}

func mostFirst(calls []*countedCall) []*countedCall {
	calls = slices.Clone(calls)
	slices.SortStableFunc(calls, func(x, y *countedCall) int { return cmp.Compare(y.count, x.count) })
	return calls
}

// refusedAccess is the same of the other kinds, together. It is for when nobody
// counts any more.
func refusedAccess(paths, capabilities *callTally) *spec.DeniedAccess {
	d := &spec.DeniedAccess{}
	var all []*countedCall
	if paths != nil {
		d.Paths, all = paths.total, append(all, paths.order...)
	}
	if capabilities != nil {
		d.Capabilities, all = capabilities.total, append(all, capabilities.order...)
	}
	all = mostFirst(all)
	for _, c := range all[:min(len(all), spec.MaxRefusedCalls)] {
		d.Most = append(d.Most, spec.RefusedAccess{
			Path: claim([]byte(c.latest.path)), Effect: string(c.latest.effect), Capability: c.latest.capability,
			Comm: c.latest.who.name(), Errno: unix.ErrnoName(c.latest.errno()), Count: c.count,
		})
	}
	d.More = uint64(len(all) - len(d.Most))
	return d
}
