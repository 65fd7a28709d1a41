package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// interruptGrace is how long a command may take to obey a signal that would
// have ended it outside, before the whole unit is killed.
const interruptGrace = 5 * time.Second

// callerTerminal tells which standard streams are terminals, and its size.
func callerTerminal() (terminal [3]bool, winsize [4]uint16) {
	for fd := range 3 {
		if terminal[fd] = term.IsTerminal(descriptorOf(fd)); terminal[fd] {
			if w, err := unix.IoctlGetWinsize(descriptorOf(fd), unix.TIOCGWINSZ); err == nil {
				winsize = [4]uint16{w.Row, w.Col, w.Xpixel, w.Ypixel}
			}
		}
	}
	return terminal, winsize
}

// event is one message of purple-init, or the end of them.
type event struct {
	m   spec.Message
	fds []int
	err error
}

func (s *session) events() <-chan event {
	events := make(chan event)
	go func() {
		for {
			m, fds, err := s.conn.Recv()
			events <- event{m, fds, err}
			if err != nil {
				return
			}
		}
	}()
	return events
}

// attachment is the state of an attached run.
type attachment struct {
	*session
	relay   *relay
	started bool          // the command runs, or has run
	exited  *spec.Message // how the command ended
	failure error         // a step could not be done, and nothing of the command has run
	broken  error         // Purple failed when the command may have run, or this end of the socket did

	trouble []error            // of purple's own part, which does not end the run
	lost    []string           // what did not come through of the output
	denied  *spec.Denied       // what the network's rules refused; nil: nothing
	calls   *spec.DeniedCalls  // what the filter denied; nil: nothing
	access  *spec.DeniedAccess // what mounts and missing capabilities refused; nil: nothing
	ended   *journal.RunEnded  // what purple-init has recorded of the end
	ending  *ending            // how the unit ended, from systemd
}

// attach stays with the run until the command's end, its last output and the
// end of the unit have all been seen.
func (a *app) attach(ctx context.Context, s *session, receipt *receipt) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGWINCH)
	// They work again while the end is told; nothing waits for that.
	defer func() { go signal.Stop(signals) }()
	at := &attachment{session: s, relay: newRelay(s.plan.Spec.Terminal)}
	defer at.relay.restore()
	at.follow(ctx, signals, at.events(), func() <-chan ending { return s.watchUnit(ctx) })
	at.relay.drain()
	at.relay.restore()
	end := at.outcome()
	if at.failure != nil {
		return at.failure
	}
	for _, err := range at.trouble {
		fmt.Fprintf(a.stderr, "purple: %s: %v\n", s.plan.Unit, err)
	}
	for _, lost := range at.lost {
		fmt.Fprintf(a.stderr, "purple: %s: %s\n", s.plan.Unit, lost)
		end.status = orLost(end.status)
	}
	a.explainDenied(s, at.denied, at.calls, at.access)
	a.log(logUnits).Info("ended", "unit", s.plan.Unit, "result", at.ending.Result, "code", at.ending.Code, "status", at.ending.Status)
	at.log.Info("the command has ended", "reason", end.reason, "status", end.status)
	if err := at.recordKilled(end); err != nil {
		fmt.Fprintf(a.stderr, "purple: %v\n", err)
	}
	receipt.ended(end, at.ended)
	return s.statusError(end)
}

// silence is how long the unit is not watched if purple-init says nothing: its
// first message is the end of the start, which goes faster unwatched, but a
// unit that could not begin has none.
const silence = 100 * time.Millisecond

// follow ends when both ends were seen, or when there is nothing more to hear of them.
func (at *attachment) follow(ctx context.Context, signals <-chan os.Signal, events <-chan event, watch func() <-chan ending) {
	var kill, giveUp <-chan time.Time
	var ended <-chan ending
	silent := time.After(silence)
	starting := true
	for events != nil || at.ending == nil {
		if !starting && ended == nil {
			ended = watch()
		}
		select {
		case <-silent:
			starting = false
		case e := <-events:
			starting = false
			if e.err != nil {
				events, at.broken = nil, cmp.Or(at.broken, brokenBy(e.err))
				continue
			}
			at.handle(e)
		case end := <-ended:
			at.ending = &end
			if end.err != nil {
				// The bus is gone, not the run: the control socket tells of its end.
				continue
			}
			// What purple-init said last is still in the socket, and its
			// end may be held by PID 1 for a while: read up to here.
			if err := unix.Shutdown(at.conn.FD(), unix.SHUT_RD); err != nil {
				at.broken, events = fmt.Errorf("cannot close the control socket: %w", err), nil
			}
		case sig := <-signals:
			kill = at.interrupt(sig, kill)
		case <-kill:
			at.kill(ctx)
			giveUp = time.After(endTimeout)
		case <-giveUp:
			at.broken = cmp.Or(at.broken, errors.New("it did not end when it was killed"))
			at.ending = cmp.Or(at.ending, &ending{})
			return
		}
	}
}

// kill ends the run: through systemd, and where that does not answer, by leaving
// purple-init, which then ends it as if purple were gone.
func (at *attachment) kill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, interruptGrace)
	defer cancel()
	if err := at.unit.Kill(ctx); err != nil {
		at.leave(err)
	}
}

// leave ends the run for a reason of purple's own, by ending what purple-init hears.
// How it then ends is still heard.
func (at *attachment) leave(why error) {
	at.trouble = append(at.trouble, why)
	_ = unix.Shutdown(at.conn.FD(), unix.SHUT_WR) // it fails where the other end is gone
}

// interrupt passes a signal on to the command. One that would have ended it
// outside ends the run: the second at once, the first after a grace.
func (at *attachment) interrupt(sig os.Signal, kill <-chan time.Time) <-chan time.Time {
	if sig == unix.SIGWINCH {
		at.relay.resize()
		return kill
	}
	if kill != nil {
		return time.After(0)
	}
	if err := at.conn.Send(spec.Message{Kind: spec.Signal, Signal: int(sig.(unix.Signal))}); err != nil {
		return time.After(0)
	}
	return time.After(interruptGrace)
}

func (at *attachment) handle(e event) {
	at.log.Debug("purple-init says", "message", e.m.Kind, "descriptors", len(e.fds))
	switch e.m.Kind {
	case spec.Released:
		at.released = true
	case spec.Started:
		at.started = true
		at.learner.begin()
		if len(e.fds) == 1 {
			if err := at.relay.start(e.fds[0]); err != nil {
				at.leave(err)
			}
		}
	case spec.Stopped:
		if err := at.suspend(); err != nil {
			at.leave(err)
		}
	case spec.Exited:
		at.exited = &e.m
	case spec.Lost:
		at.lost = append(at.lost, e.m.Error)
	case spec.Refused:
		if e.m.Denied != nil {
			at.denied = e.m.Denied
		}
		if e.m.DeniedCalls != nil {
			at.calls = e.m.DeniedCalls
		}
		if e.m.DeniedAccess != nil {
			at.access = e.m.DeniedAccess
		}
	case spec.Taught:
		at.learner.take(e.m.Learnt)
	case spec.Ended:
		if err := at.readEnd(e.m.Event); err != nil {
			at.trouble = append(at.trouble, err)
		}
	case spec.Failed:
		at.failure = refusal(e.m)
	case spec.Broken:
		at.broken = brokenError(e.m)
	}
}

func brokenError(m spec.Message) error { return fmt.Errorf("cannot %s: %s", m.Step, m.Error) }

// suspend stops purple as the command was stopped (Ctrl-Z), so that the
// caller's shell gets its terminal back; `fg` continues both.
func (at *attachment) suspend() error {
	if !at.relay.started() {
		return nil
	}
	at.relay.restore()
	if err := stopHere(); err != nil {
		return fmt.Errorf("cannot stop: %w", err)
	}
	if err := at.relay.raw(); err != nil {
		return err
	}
	at.relay.resize()
	// It fails where the run has ended meanwhile, which the next messages tell.
	_ = at.conn.Send(spec.Message{Kind: spec.Continue})
	return nil
}

// stopHere stops this process, and returns when it has been continued. Sent to the
// process, the signal could be another thread's, and this one would go on for a while.
func stopHere() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Not SIGTSTP, which a shell without job control would have ignored.
	return unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
}
