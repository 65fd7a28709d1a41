package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/purple-sandbox/purple/journal"
	"github.com/spf13/cobra"
)

func newWhyCommand(a *app) *cobra.Command {
	var list bool
	cmd := &cobra.Command{
		Use:   "why [flags] [NAME]",
		Short: "Say all that a run was denied, and what in its profile would allow it",
		Long: `Say how a run has ended, which limits it has reached, all that it was denied,
and what in its profile would allow each, also while it goes on.

NAME is a unit, with or without ".service", a run id, or a profile, of which the
latest run is meant; without NAME it is the latest of all. What was denied is told by the journal. What would allow it is
found by what makes the filter and the network rules, from the profile's file as
it is now: if it has changed since the start of the run, that is said.`,
		Example: `  purple why 0123abcd
  purple why
  purple --json why 0123abcd`,
		Args:              atMostOne("NAME"),
		ValidArgsFunction: a.completeRuns(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return a.listAll(cmd.Context(), firstOf(args))
			}
			return a.why(cmd.Context(), firstOf(args))
		},
	}
	addListFlag(cmd, &list)
	return cmd
}

func (a *app) why(ctx context.Context, arg string) error {
	found, err := a.findRun(ctx, arg)
	if err != nil {
		return err
	}
	defer found.Close()
	syncJournal(ctx)
	record, err := readRecord(ctx, found)
	if err != nil {
		return err
	}
	if record.history.IsEmpty() {
		return fmt.Errorf("cannot tell anything of %s: the journal has no event of it, as with `audit.enabled: false`%s", found.unit, permissionHint())
	}
	report := newReport(record, a.profileOf(record))
	if a.json {
		return printJSON(a.stdout, report)
	}
	_, err = fmt.Fprint(a.out(), report.text())
	return err
}

// record is what the journal has of a run.
type record struct {
	*foundRun
	history    journal.History
	unreadable int // events, of another version of Purple's
}

func readRecord(ctx context.Context, found *foundRun) (*record, error) {
	r := &record{foundRun: found}
	err := readJournal(ctx, func(e journal.Entry) error {
		r.add(e)
		return nil
	}, r.eventMatches(r.unit)...)
	return r, err
}

// add takes an entry if Purple has written it about the unit.
func (r *record) add(e journal.Entry) {
	if !r.isEventOf(e, r.unit) {
		return
	}
	event, err := journal.FromFields(e)
	switch {
	case errors.Is(err, journal.ErrNotPurple):
	case err != nil:
		r.unreadable++
	default:
		r.history.Add(event)
	}
}

// policyHash is the digest of the policy that the run had.
func (r *record) policyHash() string {
	switch h := &r.history; {
	case h.Started != nil:
		return h.Started.PolicyHash
	case h.Ended != nil:
		return h.Ended.PolicyHash
	}
	return ""
}
