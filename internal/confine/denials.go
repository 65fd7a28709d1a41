package confine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
)

const (
	// maxDestinations bounds the memory that a command can make the
	// supervisor use, and the events that it can make of a run.
	maxDestinations = 256
	// countInterval is the least time between two events of one destination.
	countInterval = 10 * time.Second
	// eventsPerSecond is above maxDestinations/countInterval, so that each
	// destination gets its turn, and far below what journald takes from a
	// unit by default (10000 in 30 s, journald.conf(5)).
	eventsPerSecond = 30
	eventsBurst     = 60
	// tick is how often destinations are looked through for events that are due.
	tick = time.Second
	// drainTime bounds the reading of what is left at the end. The buffer
	// holds a few thousand packets, which takes milliseconds.
	drainTime = time.Second
)

// bucket is a token bucket. A token is worth one event.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.tokens = min(eventsBurst, b.tokens+now.Sub(b.last).Seconds()*eventsPerSecond)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// pause empties the bucket for a second.
func (b *bucket) pause() { b.tokens = -eventsPerSecond }

// destination is the count of one flow.
type destination struct {
	event journal.ConnectionDenied
	told  uint64 // the count in its last event
	when  time.Time
}

func (d *destination) due(now time.Time) bool {
	return d.event.Count != d.told && (d.told == 0 || now.Sub(d.when) >= countInterval)
}

// tally counts denied packets and decides when to tell. It takes the time as an
// argument and does no I/O but emit.
type tally struct {
	run    journal.Run
	emit   func(journal.Event) error
	bucket bucket

	next         uint32 // the number that the next packet should have
	destinations map[flow]*destination
	order        []*destination // as they came: a map's order would differ each time
	totals       journal.DenialsSummary
}

func newTally(run journal.Run, emit func(journal.Event) error, first uint32, now time.Time) *tally {
	return &tally{
		run: run, emit: emit, bucket: bucket{tokens: eventsBurst, last: now},
		next: first, destinations: map[flow]*destination{},
		totals: journal.DenialsSummary{Run: run},
	}
}

// add counts one packet, and those that are missing before it.
func (t *tally) add(l logged, now time.Time) {
	if missing := int32(l.number - t.next); missing > 0 {
		t.lose(uint32(missing))
	}
	t.next = l.number + 1
	t.totals.Total++
	f, source, ok := parsePacket(l.packet)
	if !ok {
		t.totals.Unreadable++
		return
	}
	d := t.destinations[f]
	if d == nil {
		if len(t.order) == maxDestinations {
			t.totals.Others++
			return
		}
		d = &destination{event: newDenied(t.run, f)}
		d.event.Source = source
		t.destinations[f] = d
		t.order = append(t.order, d)
		t.totals.Destinations++
	}
	d.event.Count++
	if d.event.Count == 1 {
		t.tell(d, now)
	}
}

func newDenied(run journal.Run, f flow) journal.ConnectionDenied {
	e := journal.ConnectionDenied{Run: run, Protocol: protocolName(f.protocol), Destination: f.destination}
	switch f.protocol {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		e.ICMPType = uint8(f.port)
	default:
		e.Port = f.port
	}
	return e
}

// lose counts packets that the kernel numbered and could not deliver. The
// numbers wrap around at 2³², so each gap is taken modulo that.
func (t *tally) lose(n uint32) {
	t.totals.Total += uint64(n)
	t.totals.Lost += uint64(n)
}

// loseLast counts packets lost behind the last one that was read, where no
// number tells: dropped is the kernel's count for the whole run, modulo 2³².
func (t *tally) loseLast(dropped uint32) {
	if behind := int32(dropped - uint32(t.totals.Lost)); behind > 0 {
		t.lose(uint32(behind))
	}
}

// tell emits one destination's event if the rate allows it. A journal that
// does not answer is left alone for a moment: waiting for it at each packet
// would cost the details of the others.
func (t *tally) tell(d *destination, now time.Time) {
	if !t.bucket.take(now) {
		return // it stays due
	}
	if err := t.emit(d.event); err != nil {
		t.bucket.pause()
		return
	}
	d.told, d.when = d.event.Count, now
}

func (t *tally) tellDue(now time.Time) {
	for _, d := range t.order {
		if d.due(now) {
			t.tell(d, now)
		}
	}
}

// finish emits the final counts, at most maxDestinations of them, and the
// summary. The first that fails is the last but the summary: each waits for
// the journal, and the end of the run waits for them.
func (t *tally) finish() {
	if t.totals.Total == 0 {
		return
	}
	for _, d := range t.order {
		if d.event.Count == d.told {
			continue
		}
		if t.emit(d.event) != nil {
			break
		}
		d.told = d.event.Count
	}
	_ = t.emit(t.totals) // nobody is left to hear of it, and purple gets the values
}

// denials follows what the rules of the unit's network namespace refuse. The
// rules must log to group 1 what they refuse of the command's, and nothing
// else: whatever they log is counted. It does not see what the kernel had no
// memory to log.
type denials struct {
	log   *nflog
	tally *tally
	stop  chan struct{}
	done  chan struct{}
	err   error // once done
}

// openDenials binds to the rules' log: before the rules let anything be sent,
// and before the supervisor drops CAP_NET_ADMIN.
func openDenials(socket int) (*denials, error) {
	log, err := openNflog(socket)
	if err != nil {
		return nil, err
	}
	return &denials{log: log, stop: make(chan struct{}), done: make(chan struct{})}, nil
}

// start reads and tells in the background. emit must return within a bound, as
// journal.Writer's Send does; an event whose emit failed is tried again.
func (d *denials) start(run journal.Run, emit func(journal.Event) error) {
	d.tally = newTally(run, emit, d.log.first, time.Now())
	go func() {
		defer close(d.done)
		d.err = d.follow()
		d.tally.finish()
	}()
}

// end tells what is left to tell, within a few seconds whatever the journal
// does, and returns it all: the total, and the destinations with their counts
// in the order of their first packet. It is for when the sandbox is gone.
func (d *denials) end() (journal.DenialsSummary, []journal.ConnectionDenied, error) {
	close(d.stop)
	_ = d.log.setDeadline(time.Unix(1, 0)) // wakes the reader
	<-d.done
	d.log.close()
	events := make([]journal.ConnectionDenied, len(d.tally.order))
	for i, destination := range d.tally.order {
		events[i] = destination.event
	}
	if d.err != nil {
		return d.tally.totals, events, fmt.Errorf("cannot count the denied connections: %w", d.err)
	}
	return d.tally.totals, events, nil
}

func (d *denials) stopped() bool {
	select {
	case <-d.stop:
		return true
	default:
		return false
	}
}

// follow counts until end is called.
func (d *denials) follow() error {
	buf := make([]byte, nflogMessage)
	for !d.stopped() {
		if err := d.followUntil(time.Now().Add(tick), buf); err != nil {
			return err
		}
		d.tally.tellDue(time.Now())
	}
	return d.drain(buf)
}

func (d *denials) followUntil(deadline time.Time, buf []byte) error {
	if err := d.log.setDeadline(deadline); err != nil {
		return err
	}
	// After the deadline is set: end sets its own after it has closed the channel.
	for !d.stopped() {
		l, err := d.log.read(buf, true)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, errNotLogged): // if it had a number, that is missing now
		case err != nil:
			return err
		default:
			d.tally.add(l, time.Now())
		}
	}
	return nil
}

// drain counts what is in the buffer, and what did not fit.
func (d *denials) drain(buf []byte) error {
	deadline := time.Now().Add(drainTime)
	if err := d.log.setDeadline(deadline); err != nil {
		return err
	}
	for {
		l, err := d.log.read(buf, false)
		switch {
		case errors.Is(err, unix.EAGAIN):
			dropped, err := d.log.dropped()
			if err == nil {
				d.tally.loseLast(dropped)
			}
			return err
		case errors.Is(err, errNotLogged):
		case err != nil:
			return err
		default:
			d.tally.add(l, time.Now())
		}
	}
}
