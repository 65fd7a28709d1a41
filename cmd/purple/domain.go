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
	uid  int // the user manager's
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

// aboutField is where a manager, and purple, say which unit a message is about.
func (d domain) aboutField() string {
	if d.isUser() {
		return journal.FieldUserUnit
	}
	return "UNIT"
}

// from are the matches for what processes of a unit have sent. Users may have
// units of the same name.
func (d domain) from(unit string) []string {
	if d.isUser() {
		return []string{d.unitField() + "=" + unit, d.ofUser()}
	}
	return []string{d.unitField() + "=" + unit}
}

func (d domain) ofUser() string { return "_UID=" + strconv.Itoa(d.uid) }

// unitMatches are the entries of a unit and those of the manager about it, by
// what journald says of the sender.
func (d domain) unitMatches(unit string) []string {
	if d.isUser() {
		// Of the manager, and of purple when the supervisor was killed.
		return slices.Concat(d.from(unit), []string{"+", d.ofUser(), journal.FieldUserUnit + "=" + unit})
	}
	return slices.Concat(d.from(unit), []string{
		"+", "_PID=1", "UNIT=" + unit,
		"+", "_SYSTEMD_CGROUP=/init.scope", "UNIT=" + unit, // before it becomes the unit's first process
		"+", "_UID=0", journal.FieldObjectUnit + "=" + unit, // of purple, when the supervisor was killed
	})
}

// eventMatches are Purple's events of a unit, without the command's output.
func (d domain) eventMatches(unit string) []string {
	var ids []string
	for _, id := range journal.IDs() {
		ids = append(ids, "MESSAGE_ID="+id)
	}
	about := []string{"_UID=0", journal.FieldObjectUnit + "=" + unit}
	if d.isUser() {
		about = []string{d.ofUser(), journal.FieldUserUnit + "=" + unit}
	}
	return slices.Concat(ids, d.from(unit), []string{"+"}, ids, about)
}

// denialMatches asks by what journald says of the sender, which no sender can
// choose.
func (d domain) denialMatches(names []string) []string {
	var matches []string
	for _, id := range journal.DenialIDs() {
		matches = append(matches, "MESSAGE_ID="+id)
	}
	for _, name := range names {
		matches = append(matches, d.unitField()+"="+name)
	}
	if d.isUser() {
		matches = append(matches, d.ofUser())
	}
	return matches
}

// isOf tells whether a process of the unit has sent an entry.
func (d domain) isOf(e journal.Entry, unit string) bool {
	return e[d.unitField()] == unit && (!d.isUser() || e["_UID"] == strconv.Itoa(d.uid))
}

// isEventOf tells whether Purple has written an entry about a unit, from
// outside of the sandbox.
func (d domain) isEventOf(e journal.Entry, unit string) bool {
	about := e["_UID"] == "0" && e[journal.FieldObjectUnit] == unit
	if d.isUser() {
		about = e["_UID"] == strconv.Itoa(d.uid) && e[journal.FieldUserUnit] == unit
	}
	return (d.isOf(e, unit) || about) && e["_TRANSPORT"] == "journal" && e[journal.FieldEvent] != ""
}

func (d domain) mayReadJournal() bool { return host.JournalReadable(d.kind, d.uid) }
