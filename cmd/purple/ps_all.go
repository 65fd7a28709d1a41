package main

import (
	"context"
	"slices"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
)

// knownRun is one element of `purple ps --all --json`: docs/manage.md has its fields.
type knownRun struct {
	Unit    string         `json:"unit"`
	Profile string         `json:"profile"`
	RunID   string         `json:"run_id"`
	State   string         `json:"state"` // systemd's, "ended", or "unknown": neither runs nor has an end
	Began   *time.Time     `json:"began"`
	Ended   *time.Time     `json:"ended"`
	Status  *uint8         `json:"status"`
	Reason  journal.Reason `json:"reason,omitempty"`
	Command string         `json:"command"`

	text string // the state for a table
}

// listAll lists what runs and what the journal has, of a profile or of all (empty).
func (a *app) listAll(ctx context.Context, profile string) error {
	if profile != "" {
		if err := checkRunName(profile); err != nil {
			return err
		}
	}
	d, manager, running, err := a.running(ctx)
	if err != nil {
		return err
	}
	defer manager.Close()
	syncJournal(ctx)
	recorded, err := d.recordedRuns(ctx, profile)
	if err != nil {
		return err
	}
	if profile != "" {
		running = slices.DeleteFunc(running, func(r units.Info) bool { return r.Profile != profile })
	}
	known := knownRuns(running, recorded)
	if a.json {
		return printJSON(a.stdout, known)
	}
	return printLines(a.out(), knownTable(known, time.Now()))
}

// knownRuns puts both together, those that began last at the end.
func knownRuns(running []units.Info, recorded []*recordedRun) []knownRun {
	known := []knownRun{}
	has := map[string]bool{}
	for _, r := range recorded {
		has[r.unit] = true
		i := slices.IndexFunc(running, func(info units.Info) bool { return info.Unit == r.unit })
		known = append(known, r.show(i >= 0))
		if i >= 0 {
			known[len(known)-1].State, known[len(known)-1].text = running[i].State, running[i].State
		}
	}
	for _, info := range running { // without audit
		if has[info.Unit] {
			continue
		}
		shown := showRun(info)
		known = append(known, knownRun{
			Unit: info.Unit, Profile: info.Profile, RunID: info.RunID, State: info.State, text: info.State, Began: shown.Since,
			Command: journal.QuoteCommand(commandLine("/proc", info)),
		})
	}
	return known
}

func (r *recordedRun) show(runs bool) knownRun {
	profile, id, _ := units.ParseName(r.unit)
	k := knownRun{Unit: r.unit, Profile: profile, RunID: id, State: "unknown", Command: journal.Escape(r.started.Command), text: r.statusText()}
	if !r.began.IsZero() {
		began := r.began.UTC()
		k.Began = &began
	}
	if !r.ended.IsZero() && !runs {
		ended, status := r.ended.UTC(), r.end.Status
		k.State, k.Ended, k.Status, k.Reason = "ended", &ended, &status, r.end.Reason
	}
	return k
}

func knownTable(runs []knownRun, now time.Time) []string {
	rows := [][]string{{"UNIT", "PROFILE", "BEGAN", "ENDED", "STATUS", "COMMAND"}}
	for _, r := range runs {
		rows = append(rows, []string{r.Unit, r.Profile, sinceText(r.Began, now), sinceText(r.Ended, now), r.text, r.Command})
	}
	return alignColumns(rows)
}
