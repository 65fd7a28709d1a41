package units

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// slice holds every run.
const slice = "purple.slice"

// Info is a run of Purple's as systemd shows it. It has no command line: that
// stands in no property, which anybody may read.
type Info struct {
	Unit    string // "purple-web-0123abcd.service"
	Profile string
	RunID   string
	State   string    // "active", "activating", "deactivating", …
	Since   time.Time // it became active; zero: not yet
	MainPID uint32    // the supervisor's; 0: there is none
	// Description is the unit's own, or what an administrator made of it.
	Description string

	// nil: systemd does not know it, as where accounting is off; for a limit
	// also: there is none.
	CPUNSec, Memory, MemoryMax, Tasks, TasksMax *uint64
}

var unitName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^purple-([a-z0-9][a-z0-9._-]*)-([0-9a-f]{8})\.service$`)
})

// ParseName takes the name of a run's unit apart. Another unit may have such a
// name too: only List knows.
func ParseName(unit string) (profile, runID string, ok bool) {
	m := unitName().FindStringSubmatch(unit)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// List returns the runs that have not ended, the oldest first: one question for
// their names, then one for each, all asked at once.
func (m *Manager) List(ctx context.Context) ([]Info, error) {
	var loaded []struct {
		Name, Description, Load, Active, Sub, Following string
		Path                                            dbus.ObjectPath
		JobID                                           uint32
		JobType                                         string
		JobPath                                         dbus.ObjectPath
	}
	states := []string{"active", "activating", "deactivating", "reloading"}
	err := m.manager().CallWithContext(ctx, managerIf+".ListUnitsByPatterns", 0, states, []string{"purple-*-????????.service"}).Store(&loaded)
	if err != nil {
		return nil, fmt.Errorf("cannot list the units: %w", explain(err))
	}
	calls := make([]*dbus.Call, len(loaded))
	for i, u := range loaded {
		// The empty name is that of all interfaces.
		calls[i] = m.bus.Object(managerName, u.Path).GoWithContext(ctx, propsIf+".GetAll", 0, make(chan *dbus.Call, 1), "")
	}
	var runs []Info
	for i, call := range calls {
		var all map[string]dbus.Variant
		err := (<-call.Done).Store(&all)
		if isNoUnit(err) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the properties of %s: %w", loaded[i].Name, explain(err))
		}
		if run, ok := newInfo(loaded[i].Name, all); ok {
			runs = append(runs, run)
		}
	}
	slices.SortFunc(runs, func(x, y Info) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Unit, y.Unit))
	})
	return runs, nil
}

// isNoUnit: systemd has not, or not any more, the unit that it was asked about.
func isNoUnit(err error) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Name {
	case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.NoSuchProcess", "org.freedesktop.DBus.Error.UnknownObject":
		return true
	}
	return false
}

// newInfo reads the properties of a unit; ok: it is a run of Purple's, and no
// unit of somebody else's that has such a name.
func newInfo(unit string, all map[string]dbus.Variant) (run Info, ok bool) {
	profile, runID, named := ParseName(unit)
	if !named || !isRun(all) {
		return Info{}, false
	}
	run = Info{
		Unit: unit, Profile: profile, RunID: runID,
		State:   property[string](all, "ActiveState"),
		MainPID: property[uint32](all, "MainPID"),

		Description: property[string](all, "Description"),
		CPUNSec:     known(all, "CPUUsageNSec"),
		Memory:      known(all, "MemoryCurrent"),
		MemoryMax:   known(all, "MemoryMax"),
		Tasks:       known(all, "TasksCurrent"),
		TasksMax:    known(all, "TasksMax"),
	}
	if usec := property[uint64](all, "ActiveEnterTimestamp"); usec != 0 {
		run.Since = time.UnixMicro(int64(usec))
	}
	return run, true
}

// isRun: a transient service in Purple's slice whose one command is purple-init.
func isRun(all map[string]dbus.Variant) bool {
	commands := property[[][]any](all, "ExecStart")
	if len(commands) != 1 || len(commands[0]) == 0 {
		return false
	}
	program, _ := commands[0][0].(string)
	return path.Base(program) == "purple-init" && property[bool](all, "Transient") && property[string](all, "Slice") == slice
}

// property is the zero value where systemd has none of that name and type.
func property[T any](all map[string]dbus.Variant, name string) T {
	v, _ := all[name].Value().(T)
	return v
}

// known is nil for what systemd writes as "infinity" or "[not set]".
func known(all map[string]dbus.Variant, name string) *uint64 {
	v, ok := all[name].Value().(uint64)
	if !ok || v == math.MaxUint64 {
		return nil
	}
	return &v
}
