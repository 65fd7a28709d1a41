package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/units"
	"golang.org/x/sys/unix"
)

// endTimeout is how long the unit may take to be gone once its command is.
const endTimeout = 30 * time.Second

// refusal is the error of a step of purple-init that could not be done.
func refusal(m spec.Message) error {
	status := m.Status
	if status == 0 {
		status = spec.StatusRefused
	}
	return &statusError{status, fmt.Errorf("cannot %s: %s", m.Step, m.Error)}
}

// ending is how the unit ended, or why that could not be learnt: the bus may
// be restarted during a run, which harms the run in no way.
type ending struct {
	units.End
	err error
}

// watchUnit waits for the unit's end from now on.
func (s *session) watchUnit(ctx context.Context) <-chan ending {
	ended := make(chan ending, 1)
	go func() {
		end, err := s.unit.Wait(ctx)
		ended <- ending{end, err}
	}()
	return ended
}

// unexplained is the error when purple-init left without a message: killed, or
// never executed.
func (s *session) unexplained(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	return s.status(false, nil, <-s.watchUnit(ctx))
}

// status turns both truths into the exit status: purple-init's, which is
// exact, and systemd's, which knows the reason.
func (s *session) status(started bool, exited *spec.Message, end ending) error {
	if exited == nil && end.err != nil {
		return end.err
	}
	status, why := outcome(started, exited, end.End)
	if why == nil {
		return &statusError{status: status}
	}
	return &statusError{status, fmt.Errorf("%s: %w", s.plan.Unit, why)}
}

// codeExited is CLD_EXITED of waitid(2), as systemd's ExecMainCode has it.
const codeExited = 1

// outcome is the contract of the exit statuses. A nil error: nothing to say.
func outcome(started bool, exited *spec.Message, end units.End) (int, error) {
	switch {
	case end.Result == "timeout" && !started:
		return spec.StatusRefused, errors.New("the sandbox was not ready within systemd's time for a start (TimeoutStartSec=); nothing of the command has run")
	case end.Overran:
		return spec.StatusTimeout, errors.New("stopped at the timeout (resources.session_timeout_seconds)")
	case end.Result == "oom-kill":
		return spec.StatusOOM, errors.New("killed: out of memory (resources.memory_limit_bytes)")
	case exited != nil:
		return spec.ExitStatus(unix.WaitStatus(exited.WaitStatus)), nil
	case end.Code == codeExited && end.Status >= 200:
		return spec.StatusRefused, fmt.Errorf("systemd could not start purple-init (result %s, status %d); `journalctl -u` has the reason", end.Result, end.Status)
	case end.Code == codeExited:
		return spec.StatusRefused, fmt.Errorf("purple-init ended early (result %s, status %d); `journalctl -u` has the reason", end.Result, end.Status)
	default:
		return 128 + int(end.Status), fmt.Errorf("purple-init was killed by signal %d, the command with it", end.Status)
	}
}
