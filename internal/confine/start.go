package confine

import (
	"errors"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// starting watches, from the first moment of the sandbox until its command has started,
// whether anybody still wants it: systemd may stop the unit, and purple may be killed,
// while this process waits for init, which may hang where a bound path does.
type starting struct {
	s         *supervisor
	connected chan event    // of purple's: the network is linked
	calledOff chan struct{} // closed when the sandbox is not wanted any more
	why       error         // once calledOff is closed

	over, ended chan struct{} // closed by end; when nothing is watched any more

	// For those who take over: what came and is not of the start.
	later   []event
	stopped bool // by the manager
	killed  bool // init was
}

func (s *supervisor) watchStart() *starting {
	w := &starting{
		s: s, connected: make(chan event, 1), calledOff: make(chan struct{}), over: make(chan struct{}), ended: make(chan struct{}),
	}
	go w.watch()
	return w
}

// watch gives a command that may run already as long to end as any other.
func (w *starting) watch() {
	defer close(w.ended)
	var kill <-chan time.Time
	callOff := func(why error) {
		if w.why != nil {
			return
		}
		w.why = why
		close(w.calledOff)
		if kill = time.After(0); w.s.released.Load() {
			kill = time.After(grace)
		}
	}
	for {
		select {
		case e := <-w.s.fromPurple:
			switch {
			case e.err == nil && e.m.Kind == spec.Connected:
				w.connected <- e
				continue
			case e.err != nil:
				callOff(errors.New("purple is gone"))
			}
			w.later = append(w.later, e)
		case <-w.s.signals:
			w.stopped = true
			callOff(errors.New("the unit was told to stop while the sandbox was made"))
		case <-kill:
			w.kill()
		case <-w.over:
			return
		}
	}
}

// kill ends init and every wait for it: one that hangs in the kernel ends late.
func (w *starting) kill() {
	w.killed = true
	_ = unix.Kill(w.s.initPID, unix.SIGKILL)
	_ = unix.Shutdown(w.s.down.FD(), unix.SHUT_RDWR)
	if w.s.listening != nil {
		_ = unix.Shutdown(w.s.listening.FD(), unix.SHUT_RDWR)
	}
}

// requireWanted is the last look before the command is let go.
func (w *starting) requireWanted() error {
	select {
	case <-w.calledOff:
		return w.refusal()
	default:
		return nil
	}
}

func (w *starting) refusal() error {
	return &StepError{Step: "start the command", Err: w.why, Status: spec.StatusRefused}
}

// end ends the watch, and tells why init was killed, if it was.
func (w *starting) end() error {
	close(w.over)
	<-w.ended
	if w.killed {
		return w.refusal()
	}
	return nil
}
