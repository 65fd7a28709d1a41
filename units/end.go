package units

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// End is why and how a unit ended, as systemd saw it.
type End struct {
	Result string // "success", "exit-code", "signal", "timeout", "oom-kill", …
	Code   int32  // si_code of the main process: 1 exited, 2 killed, 3 dumped
	Status int32  // exit status or signal
	// Overran: RuntimeMaxSec= was over. The Result "timeout" without it is one
	// of the start, or of a stop that ended with SIGKILL.
	Overran bool
}

// Wait returns when the unit is inactive or failed.
//
// It subscribes to systemd's signals. A start goes faster before that: PID 1
// then writes every change of every unit, most of them about the start itself.
func (r *Run) Wait(ctx context.Context) (End, error) {
	ended, err := r.subscribe()
	if err != nil {
		return End{}, fmt.Errorf("cannot learn how %s ended: %w", r.name, err)
	}
	if ended {
		return r.readEnd()
	}
	var e End
	if err := r.m.waitSignal(ctx, func(s *dbus.Signal) bool { return r.follow(s, &e) }); err != nil {
		return End{}, fmt.Errorf("cannot learn how %s ended: %w", r.name, err)
	}
	return r.complete(e)
}

// subscribe asks for the signals of this unit, and tells whether it had ended
// before the first of them. The bus and systemd keep the order of one
// connection's messages: what changes after the first answer is in a signal.
func (r *Run) subscribe() (ended bool, err error) {
	calls := r.m.subscribe(r.changes())
	// Not all of a unit's properties: to write those takes PID 1 a millisecond, and
	// the end of a short command waits for it.
	asked := map[string]*dbus.Call{}
	for _, name := range endProperties {
		asked[name] = r.m.get(r.path, unitIf, name)
		calls = append(calls, asked[name])
	}
	for _, call := range calls {
		if err := (<-call.Done).Err; err != nil && !isAlreadySubscribed(err) {
			return false, err
		}
	}
	now := map[string]dbus.Variant{}
	for name, call := range asked {
		var value dbus.Variant
		if err := call.Store(&value); err != nil {
			return false, err
		}
		now[name] = value
	}
	return hasEnded(now), nil
}

// isAlreadySubscribed: this connection has waited for an end before.
func isAlreadySubscribed(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.AlreadySubscribed"
}

// changes matches the signals of this unit.
func (r *Run) changes() string {
	return fmt.Sprintf("type='signal',sender='%s',path='%s',interface='%s',member='PropertiesChanged'", managerName, r.path, propsIf)
}

// endProperties are what hasEnded looks at, in the order in which systemd is asked:
// the state last. A unit that begins in between is then not taken for one that has
// ended, as it would be by the state from before and the time from after.
var endProperties = []string{"Job", "InactiveExitTimestampMonotonic", "ActiveState"}

func isEnd(activeState string) bool { return activeState == "inactive" || activeState == "failed" }

// hasEnded tells from a unit's properties whether it will do nothing any more.
// Before it has begun, a unit is inactive too; it then has a job. That is gone
// when the start was called off, and then the unit never begins.
func hasEnded(unit map[string]dbus.Variant) bool {
	state, _ := unit["ActiveState"].Value().(string)
	begun, _ := unit["InactiveExitTimestampMonotonic"].Value().(uint64)
	return state == "failed" || state == "inactive" && (begun != 0 || isWithoutJob(unit["Job"]))
}

// isWithoutJob: the property is the job's number, 0 for none, and its path.
func isWithoutJob(property dbus.Variant) bool {
	var id uint32
	var path dbus.ObjectPath
	job, _ := property.Value().([]any)
	return dbus.Store(job, &id, &path) == nil && id == 0
}

// follow takes one signal, and tells whether it is the unit's end. Of one
// change systemd first sends what the service says of it, then what every unit
// does (bus_unit_send_change_signal() in src/core/dbus-unit.c): by then e has
// the result. A nil e: nobody wants it.
func (r *Run) follow(s *dbus.Signal, e *End) bool {
	if s.Path != r.path || len(s.Body) < 2 {
		return false
	}
	changed, ok := s.Body[1].(map[string]dbus.Variant)
	if !ok {
		return false
	}
	switch s.Body[0] {
	case serviceIf:
		if e != nil && e.store(changed) != nil {
			*e = End{} // complete asks
		}
	case unitIf:
		return hasEnded(changed)
	}
	return false
}

// store takes the result from a service's properties.
func (e *End) store(properties map[string]dbus.Variant) error {
	for name, into := range map[string]any{"Result": &e.Result, "ExecMainCode": &e.Code, "ExecMainStatus": &e.Status} {
		if err := dbus.Store([]any{properties[name].Value()}, into); err != nil {
			return fmt.Errorf("cannot read %s: %w", name, err)
		}
	}
	return nil
}

// complete adds what the signals do not say.
func (r *Run) complete(e End) (End, error) {
	if e.Result == "" || e.Result == "timeout" {
		return r.readEnd()
	}
	return e, nil
}

// readEnd asks systemd how the unit ended: it stays loaded for that.
func (r *Run) readEnd() (End, error) {
	var all map[string]dbus.Variant
	if err := r.m.bus.Object(managerName, r.path).Call(propsIf+".GetAll", 0, serviceIf).Store(&all); err != nil {
		return End{}, fmt.Errorf("cannot read the result of %s: %w", r.name, err)
	}
	var e End
	if err := e.store(all); err != nil {
		return End{}, fmt.Errorf("cannot read the result of %s: %w", r.name, err)
	}
	if e.Result != "timeout" {
		return e, nil
	}
	var limit uint64
	if err := dbus.Store([]any{all["RuntimeMaxUSec"].Value()}, &limit); err != nil {
		return End{}, fmt.Errorf("cannot read RuntimeMaxUSec of %s: %w", r.name, err)
	}
	ran, err := r.activeTime()
	e.Overran = ran >= limit
	return e, err
}

// activeTime is how long the unit was active, in microseconds; 0: never.
func (r *Run) activeTime() (uint64, error) {
	var times [2]uint64
	for i, name := range []string{"ActiveEnterTimestampMonotonic", "ActiveExitTimestampMonotonic"} {
		if err := (<-r.m.get(r.path, unitIf, name).Done).Store(&times[i]); err != nil {
			return 0, fmt.Errorf("cannot read %s of %s: %w", name, r.name, err)
		}
	}
	if times[0] == 0 || times[1] < times[0] {
		return 0, nil
	}
	return times[1] - times[0], nil
}
