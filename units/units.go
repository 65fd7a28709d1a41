// Package units starts, follows, lists and stops Purple's units: systemd's manager
// over D-Bus. It knows nothing of policies; what it starts is a list of
// properties.
package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// systemBus and userBus are dialled by their paths and not by what
// DBUS_SYSTEM_BUS_ADDRESS, DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR say: the
// environment of the caller must not choose who is asked for isolation. Nor is a
// bus started where there is none, as godbus would with dbus-launch.
const systemBus = "/run/dbus/system_bus_socket"

func userBus(uid int) string { return fmt.Sprintf("/run/user/%d/bus", uid) }

const (
	managerName = "org.freedesktop.systemd1"
	managerPath = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIf   = "org.freedesktop.systemd1.Manager"
	unitIf      = "org.freedesktop.systemd1.Unit"
	serviceIf   = "org.freedesktop.systemd1.Service"
	propsIf     = "org.freedesktop.DBus.Properties"

	errUnitExists = "org.freedesktop.systemd1.UnitExists"
	errNoReply    = "org.freedesktop.DBus.Error.NoReply"
)

// Property is one property of a unit, by its name on the bus.
type Property = systemd.Property

// ErrNoManager says that no systemd answers.
var ErrNoManager = errors.New("no systemd answers")

// Manager is a connection to a systemd: the system manager, or a user's own.
type Manager struct {
	bus     *dbus.Conn
	signals chan *dbus.Signal
	version func() (string, error) // systemd's; asked early, for Start
}

// ConnectSystem dials the system manager's bus.
func ConnectSystem(ctx context.Context) (*Manager, error) {
	return connect(ctx, systemBus, "the system bus", "is this machine booted with systemd, and is dbus installed?")
}

// ConnectUser dials the bus of the calling user's own manager. It is there for
// as long as the user is logged in, or lingers.
func ConnectUser(ctx context.Context) (*Manager, error) {
	return connect(ctx, userBus(os.Geteuid()), "your user bus", "a manager of your own runs while you are logged in through PAM with pam_systemd, which su and cron are not, or after `loginctl enable-linger`; its bus is in the package dbus-user-session or dbus-broker")
}

// connect dials a bus, which the errors call what; hint says why it may not be
// there. One connection serves calls and signals: each costs the start of a
// sandbox an authentication.
func connect(ctx context.Context, socket, what, hint string) (*Manager, error) {
	// Enough for what one unit says in its life; godbus drops nothing but
	// blocks its reader on a full channel.
	signals := make(chan *dbus.Signal, 64)
	bus, err := dbus.Dial("unix:path="+socket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w on %s: %v (%s)", ErrNoManager, what, err, hint)
	}
	m := &Manager{bus: bus, signals: signals}
	if err := m.authenticate(); err != nil {
		bus.Close()
		return nil, fmt.Errorf("%w on %s: %v", ErrNoManager, what, err)
	}
	bus.Signal(signals)
	askVersion := func() *dbus.Call { return m.get(managerPath, managerIf, "Version") }
	asked := askVersion()
	m.version = sync.OnceValues(func() (version string, err error) {
		err = awaitAnswer(asked, askVersion).Store(&version)
		return version, err
	})
	return m, nil
}

// How long systemd may be away from its bus, and how often it is then asked.
// After `systemctl daemon-reexec`, which its packages' updates call, it comes
// back within a second.
const (
	awayTimeout = 5 * time.Second
	awayPause   = 100 * time.Millisecond
)

// awaitAnswer is the answer to a question that changes nothing. Where systemd has
// left the bus without one, it is asked again: it may be executing itself anew.
func awaitAnswer(asked *dbus.Call, ask func() *dbus.Call) *dbus.Call {
	<-asked.Done
	if !isNoReply(asked.Err) {
		return asked
	}
	for end := time.Now().Add(awayTimeout); asked.Err != nil && time.Now().Before(end); {
		time.Sleep(awayPause)
		asked = ask()
		<-asked.Done
	}
	return asked
}

// isNoReply tells whether the one who was asked has left the bus.
func isNoReply(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == errNoReply
}

func (m *Manager) authenticate() error {
	methods := []dbus.Auth{dbus.AuthExternal(fmt.Sprint(os.Getuid()))}
	if err := m.bus.Auth(methods); err != nil {
		return fmt.Errorf("cannot authenticate: %w", err)
	}
	if err := m.bus.Hello(); err != nil {
		return fmt.Errorf("cannot register: %w", err)
	}
	return nil
}

// Version is systemd's.
func (m *Manager) Version() (string, error) {
	version, err := m.version()
	if err != nil {
		return "", fmt.Errorf("cannot read systemd's version: %w", err)
	}
	return version, requireVersion(version)
}

// Close ends the connection; a unit that was started stays.
func (m *Manager) Close() error { return m.bus.Close() }

func (m *Manager) manager() dbus.BusObject { return m.bus.Object(managerName, managerPath) }

// get asks for a property and does not wait for the answer.
func (m *Manager) get(path dbus.ObjectPath, iface, name string) *dbus.Call {
	return m.bus.Object(managerName, path).Go(propsIf+".Get", 0, make(chan *dbus.Call, 1), iface, name)
}

// Run is a unit that was started here.
type Run struct {
	m    *Manager
	name string
	path dbus.ObjectPath
}

// Aux is a unit beside the one that is started.
type Aux struct {
	Name       string
	Properties []Property
}

// Start asks for a transient service. It returns when systemd has accepted the
// job, not when the unit runs. The unit stays loaded until the connection is
// closed (AddRef=), or its result could be gone before it is read.
func (m *Manager) Start(ctx context.Context, name string, properties []Property) (*Run, error) {
	if _, err := m.Version(); err != nil {
		return nil, err
	}
	properties = append(properties, systemd.Property{Name: "AddRef", Value: dbus.MakeVariant(true)})
	err := requestUnit(func() error { return m.startTransient(ctx, name, properties) })
	if err != nil && !errors.Is(err, errTaken) {
		return nil, fmt.Errorf("cannot start %s: %w", name, explain(err))
	}
	return &Run{m: m, name: name, path: unitPath(name)}, nil
}

// unitPath is where the bus has a unit.
func unitPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + systemd.PathBusEscape(name))
}

func (m *Manager) startTransient(ctx context.Context, name string, properties []Property) error {
	return m.manager().CallWithContext(ctx, managerIf+".StartTransientUnit", 0, name, "fail", properties, []Aux{}).Err
}

// errTaken: systemd has the unit, from a request that it has left unanswered or,
// if the name is not this run's own, from another.
var errTaken = errors.New("a unit of this name exists since systemd was last asked")

// requestUnit asks for a unit. If systemd leaves the bus without an answer, as
// awaitAnswer says, it is not known whether it has taken the request: it is asked
// again, and may then have the unit.
func requestUnit(ask func() error) error {
	err := ask()
	if !isNoReply(err) {
		return err
	}
	for end := time.Now().Add(awayTimeout); err != nil && time.Now().Before(end); {
		time.Sleep(awayPause)
		if err = ask(); isUnitExists(err) {
			return errTaken
		}
	}
	return err
}

// StartAux asks for the aux unit. It returns when systemd has accepted the job,
// or when one that was there is active: it may have been on its way out.
func (r *Run) StartAux(ctx context.Context, aux Aux) error {
	for end, pause := time.Now().Add(auxTimeout), auxPause; ; pause = min(2*pause, maxAuxPause) {
		err := requestUnit(func() error { return r.m.startTransient(ctx, aux.Name, aux.Properties) })
		if isUnitExists(err) || errors.Is(err, errTaken) {
			err = r.m.requireActive(aux.Name)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNotActive) || time.Now().After(end) {
			return fmt.Errorf("cannot start %s: %w", aux.Name, explain(err))
		}
		time.Sleep(pause)
	}
}

// How long a unit that is on its way in or out may take, and how often it is
// looked at: ever less, as PID 1 begins no job while questions come in.
const (
	auxTimeout  = 60 * time.Second
	auxPause    = 5 * time.Millisecond
	maxAuxPause = 500 * time.Millisecond
)

// RequireAux makes sure that the aux unit, with which the run was started, is
// there: started by this one or another, it may be gone again.
func (r *Run) RequireAux(ctx context.Context, aux Aux) error {
	if err := r.m.requireActive(aux.Name); err == nil || !errors.Is(err, errNotActive) {
		return err
	}
	return r.StartAux(ctx, aux)
}

func isUnitExists(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == errUnitExists
}

var errNotActive = errors.New("a unit of this name exists and does not become active")

func (m *Manager) requireActive(name string) error {
	ask := func() *dbus.Call { return m.get(unitPath(name), unitIf, "ActiveState") }
	var state string
	if err := awaitAnswer(ask(), ask).Store(&state); err != nil {
		return err
	}
	if state != "active" {
		return errNotActive
	}
	return nil
}

// minVersion is the oldest systemd on which Purple is tested.
const minVersion = 252

// requireVersion refuses an older systemd, or one that does not say how old it
// is.
func requireVersion(version string) error {
	major, err := majorVersion(version)
	if err != nil {
		return err
	}
	if major < minVersion {
		return fmt.Errorf("cannot use systemd %s: Purple needs %d or later", version, minVersion)
	}
	return nil
}

// majorVersion reads the number that "252.39-1~deb12u1" or "v257.3" begins with.
func majorVersion(version string) (int, error) {
	digits := strings.TrimPrefix(version, "v")
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	major, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("cannot read systemd's version from %q", version)
	}
	return major, nil
}

// explain says what systemd's more cryptic errors mean.
func explain(err error) error {
	var e dbus.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Name {
	case errUnitExists:
		return errors.New("a unit of this name exists already")
	case "org.freedesktop.DBus.Error.PropertyReadOnly":
		return fmt.Errorf("this systemd does not know a property: %v", e)
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
		return fmt.Errorf("not allowed: %v", e)
	}
	return err
}

// Kill sends SIGKILL to every process of the unit.
func (r *Run) Kill(ctx context.Context) error {
	err := r.m.manager().CallWithContext(ctx, managerIf+".KillUnit", 0, r.name, "all", int32(9)).Err
	if err != nil && !strings.Contains(err.Error(), "not loaded") {
		return fmt.Errorf("cannot kill %s: %w", r.name, err)
	}
	return nil
}
