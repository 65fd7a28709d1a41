package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
)

// recordedRun is a run as the journal has it.
type recordedRun struct {
	unit    string
	began   time.Time // zero: the journal has only the end
	ended   time.Time // zero: the journal has no end
	started journal.RunStarted
	end     journal.RunEnded
}

// lifeMatches are the events of beginnings and ends, as far as the manager's user
// has written them; of one profile, or of all (empty).
func (d domain) lifeMatches(profile string) []string {
	matches := []string{"MESSAGE_ID=" + journal.RunStartedID, "MESSAGE_ID=" + journal.RunEndedID, d.ofManager()}
	if profile != "" {
		matches = append(matches, journal.FieldProfile+"="+profile)
	}
	return matches
}

// lifeEvent reads an entry that lifeMatches finds. One of a run is told apart from one
// that somebody else writes by what journald says of the sender.
func (d domain) lifeEvent(e journal.Entry) (event journal.Event, unit string, at time.Time, ok bool) {
	unit = d.eventUnit(e)
	if _, _, isRun := units.ParseName(unit); !isRun || !d.isEventOf(e, unit) {
		return nil, "", at, false
	}
	usec, err := strconv.ParseInt(e[fieldTime], 10, 64)
	if err != nil {
		return nil, "", at, false
	}
	event, err = journal.FromFields(e)
	return event, unit, time.UnixMicro(usec), err == nil
}

// recordedRuns are the runs that the journal has, by their beginning.
func (d domain) recordedRuns(ctx context.Context, profile string) ([]*recordedRun, error) {
	var all []*recordedRun
	byUnit := map[string]*recordedRun{}
	err := readJournal(ctx, func(e journal.Entry) error {
		event, unit, at, ok := d.lifeEvent(e)
		if !ok {
			return nil
		}
		r := byUnit[unit]
		if r == nil {
			r = &recordedRun{unit: unit}
			byUnit[unit] = r
			all = append(all, r)
		}
		switch event := event.(type) {
		case journal.RunStarted:
			r.began, r.started = at, event
		case journal.RunEnded:
			r.ended, r.end = at, event
		}
		return nil
	}, d.lifeMatches(profile)...)
	return all, err
}

var errEnough = errors.New("enough was read")

// latestRecorded is the run that began last, of a profile or of all; nil: none.
func (d domain) latestRecorded(ctx context.Context, profile string) (*recordedRun, error) {
	var latest *recordedRun
	err := readJournal(ctx, func(e journal.Entry) error {
		event, unit, at, ok := d.lifeEvent(e)
		if started, begins := event.(journal.RunStarted); ok && begins {
			latest = &recordedRun{unit: unit, began: at, started: started}
			return errEnough
		}
		return nil
	}, append([]string{"--reverse"}, d.lifeMatches(profile)...)...)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return latest, err
}

// latestRun is the unit of the run that began last, whether it goes on or has ended,
// of a profile or of all (empty); "": there is none. running is sorted by the start.
func (d domain) latestRun(ctx context.Context, profile string, running []units.Info) (string, error) {
	recorded, err := d.latestRecorded(ctx, profile)
	if err != nil {
		return "", err
	}
	return latestOf(profile, running, recorded), nil
}

func latestOf(profile string, running []units.Info, recorded *recordedRun) string {
	var latest *units.Info
	for i := range running {
		if profile == "" || running[i].Profile == profile {
			latest = &running[i]
		}
	}
	switch {
	case latest == nil && recorded == nil:
		return ""
	case latest == nil:
		return recorded.unit
	case recorded == nil || latest.Since.IsZero() || latest.Since.After(recorded.began):
		return latest.Unit // a run without audit has no event
	default:
		return recorded.unit
	}
}

// statusText is how a run has ended, for a table: "exited 0", "timeout 124".
func (r *recordedRun) statusText() string {
	if r.ended.IsZero() {
		return "not known"
	}
	return strings.ReplaceAll(string(r.end.Reason), "-", " ") + " " + strconv.Itoa(int(r.end.Status))
}
