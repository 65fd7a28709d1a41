package units

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Stop ends a run and returns when nothing of it is left. The command gets
// SIGTERM and, 5 seconds later from the supervisor, SIGKILL; kill: nothing but
// SIGKILL. A run that has ended meanwhile is no error.
//
// It asks no question about the unit: call it with one that List has returned.
func (m *Manager) Stop(ctx context.Context, unit string, kill bool) error {
	calls := m.subscribe(fmt.Sprintf("type='signal',sender='%s',path='%s',interface='%s',member='JobRemoved'", managerName, managerPath, managerIf))
	if kill {
		calls = append(calls, m.manager().GoWithContext(ctx, managerIf+".KillUnit", 0, make(chan *dbus.Call, 1), unit, "all", int32(unix.SIGKILL)))
	}
	stop := m.manager().GoWithContext(ctx, managerIf+".StopUnit", 0, make(chan *dbus.Call, 1), unit, "replace")
	for _, call := range calls {
		if err := (<-call.Done).Err; err != nil && !isNoUnit(err) {
			return fmt.Errorf("cannot stop %s: %w", unit, explain(err))
		}
	}
	var job dbus.ObjectPath
	if err := (<-stop.Done).Store(&job); err != nil {
		if isNoUnit(err) {
			return nil
		}
		return fmt.Errorf("cannot stop %s: %w", unit, explain(err))
	}
	result, err := m.waitJob(ctx, job)
	if err != nil {
		return fmt.Errorf("cannot learn whether %s has ended: %w", unit, err)
	}
	if result != "done" {
		return fmt.Errorf("cannot stop %s: systemd ended the job with the result %q", unit, result)
	}
	return nil
}

// waitJob returns the result of a job.
func (m *Manager) waitJob(ctx context.Context, job dbus.ObjectPath) (string, error) {
	var result string
	err := m.waitSignal(ctx, func(s *dbus.Signal) bool {
		if s.Name != managerIf+".JobRemoved" || len(s.Body) != 4 || s.Body[1] != job {
			return false
		}
		result, _ = s.Body[3].(string)
		return true
	})
	return result, err
}

// WaitEnd returns when a run, started by whoever, has ended.
func (m *Manager) WaitEnd(ctx context.Context, unit string) error {
	run := &Run{m: m, name: unit, path: unitPath(unit)}
	calls := m.subscribe(
		run.changes(),
		fmt.Sprintf("type='signal',sender='%s',path='%s',interface='%s',member='UnitRemoved',arg0='%s'", managerName, managerPath, managerIf, unit),
	)
	for _, call := range calls {
		if err := (<-call.Done).Err; err != nil {
			return fmt.Errorf("cannot wait for the end of %s: %w", unit, explain(err))
		}
	}
	// It may have ended before the matches were there.
	var state string
	err := m.bus.Object(managerName, run.path).CallWithContext(ctx, propsIf+".Get", 0, unitIf, "ActiveState").Store(&state)
	if isNoUnit(err) || isEnd(state) {
		return nil
	}
	if err == nil {
		err = m.waitSignal(ctx, func(s *dbus.Signal) bool {
			return run.follow(s, nil) || s.Name == managerIf+".UnitRemoved" && len(s.Body) > 0 && s.Body[0] == unit
		})
	}
	if err != nil {
		return fmt.Errorf("cannot wait for the end of %s: %w", unit, explain(err))
	}
	return nil
}

// subscribe asks for signals. The bus keeps the order of one connection's
// messages: a call that follows needs not wait for these.
func (m *Manager) subscribe(matches ...string) []*dbus.Call {
	calls := []*dbus.Call{m.manager().Go(managerIf+".Subscribe", 0, make(chan *dbus.Call, 1))}
	for _, match := range matches {
		calls = append(calls, m.bus.BusObject().Go("org.freedesktop.DBus.AddMatch", 0, make(chan *dbus.Call, 1), match))
	}
	return calls
}

// waitSignal returns at the first signal that is wanted.
func (m *Manager) waitSignal(ctx context.Context, wanted func(*dbus.Signal) bool) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-m.signals:
			if !ok {
				return errors.New("the connection to systemd is gone")
			}
			if wanted(s) {
				return nil
			}
		}
	}
}
