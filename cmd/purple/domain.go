package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
)

// domain is whose runs a command line is about: those of the system manager, or
// of the calling user's own. It knows how to reach the manager, and by which
// fields the journal tells its units from others of the same name.
type domain struct {
	kind host.ManagerKind
	uid  int // the manager's: of the system's, 0
}

// domain is the system's for root and the user's own for anybody else, unless
// --system or --user says otherwise.
func (a *app) domain() (domain, error) {
	uid := os.Geteuid()
	switch {
	case a.system && a.user:
		return domain{}, errors.New("cannot ask both managers: give --system or --user, not both")
	case a.user && uid == 0:
		return domain{}, errors.New("cannot ask root's own user manager: nothing runs as root's user; leave --user out")
	case a.system || uid == 0:
		return domain{kind: host.SystemManager}, nil
	default:
		return domain{host.UserManager, uid}, nil
	}
}

func (d domain) isUser() bool { return d.kind == host.UserManager }

func (d domain) connect(ctx context.Context) (*units.Manager, error) {
	if d.isUser() {
		return units.ConnectUser(ctx)
	}
	return units.ConnectSystem(ctx)
}

// probe begins to examine the machine, and returns what waits for its facts.
func (d domain) probe() func() (host.Facts, error) {
	return meanwhile(func() (host.Facts, error) { return host.Probe(d.kind) })
}

// requireOwn refuses to change what only root may: the system manager would ask
// polkit, which lets nobody but an administrator.
func (d domain) requireOwn(what string) error {
	if uid := os.Geteuid(); !d.isUser() && uid != 0 {
		return fmt.Errorf("cannot %s as uid %d: the system manager obeys only root; call it with sudo, or leave --system out for your own runs", what, uid)
	}
	return nil
}

// unitField is where journald says which unit a process belongs to.
func (d domain) unitField() string {
	if d.isUser() {
		return "_SYSTEMD_USER_UNIT"
	}
	return "_SYSTEMD_UNIT"
}

// aboutField is where a manager, and under a user manager Purple too, says which unit
// a message is about.
func (d domain) aboutField() string {
	if d.isUser() {
		return journal.FieldUserUnit
	}
	return "UNIT"
}

// from are the matches for what processes of units have sent. Users may have
// units of the same name.
func (d domain) from(units ...string) []string {
	var matches []string
	for _, unit := range units {
		matches = append(matches, d.unitField()+"="+unit)
	}
	if d.isUser() {
		matches = append(matches, d.ofManager())
	}
	return matches
}

// ofManager matches what the manager's user has written, whose uid the supervisor has
// as well.
func (d domain) ofManager() string { return "_UID=" + strconv.Itoa(d.uid) }

func (d domain) isOfManager(e journal.Entry) bool { return e["_UID"] == strconv.Itoa(d.uid) }

// about are the matches for what Purple has written about units: by them it is found
// if journald does not know of which unit the writer was.
func (d domain) about(units ...string) []string {
	matches := []string{d.ofManager()}
	for _, unit := range units {
		matches = append(matches, journal.AboutField(d.isUser())+"="+unit)
	}
	return matches
}

// unitMatches are the entries of a unit and those of Purple and the manager about it,
// by what journald says of the sender.
func (d domain) unitMatches(unit string) []string {
	matches := slices.Concat(d.from(unit), []string{"+"}, d.about(unit)) // for a user, of the manager too
	if !d.isUser() {
		matches = append(matches,
			"+", "_PID=1", "UNIT="+unit,
			"+", "_SYSTEMD_CGROUP=/init.scope", "UNIT="+unit) // before it becomes the unit's first process
	}
	return matches
}

// eventMatches are Purple's events of a unit, without the command's output.
func (d domain) eventMatches(unit string) []string {
	return d.eventsOf(journal.IDs(), unit)
}

// denialMatches are the events of denials of several units.
func (d domain) denialMatches(units []string) []string {
	return d.eventsOf(journal.DenialIDs(), units...)
}

func (d domain) eventsOf(ids []string, units ...string) []string {
	var matches []string
	for _, id := range ids {
		matches = append(matches, "MESSAGE_ID="+id)
	}
	return slices.Concat(matches, d.from(units...), []string{"+"}, matches, d.about(units...))
}

// isOf tells whether a process of the unit has sent an entry.
func (d domain) isOf(e journal.Entry, unit string) bool {
	return e[d.unitField()] == unit && (!d.isUser() || d.isOfManager(e))
}

// isEventOf tells whether Purple has written an entry about a unit, from
// outside of the sandbox.
func (d domain) isEventOf(e journal.Entry, unit string) bool {
	return (d.isOf(e, unit) || d.aboutUnit(e) == unit) && e["_TRANSPORT"] == "journal" && e[journal.FieldEvent] != ""
}

// eventUnit is the unit that an event is of.
func (d domain) eventUnit(e journal.Entry) string {
	if about := d.aboutUnit(e); about != "" {
		return about
	}
	return e[d.unitField()]
}

// aboutUnit is the unit that an entry is about, by the word of root or, for one of a
// user manager, of its user; empty: it does not say, or somebody else does.
func (d domain) aboutUnit(e journal.Entry) string {
	if !d.isOfManager(e) {
		return ""
	}
	return e[journal.AboutField(d.isUser())]
}

func (d domain) mayReadJournal() bool { return host.JournalReadable(d.kind, d.uid) }
