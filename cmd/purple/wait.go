package main

import (
	"context"
	"fmt"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newWaitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait [NAME]",
		Short: "Wait for the end of a run, and exit with its status",
		Long: `Wait until a run has ended, and exit with its status as "purple run" would have.
Of a run that has ended the journal has the status.

NAME is as for "purple why"; without it, it is the latest run. Ctrl-C ends only the
wait.`,
		Example:           `  unit=$(purple run --detach -- make) && purple wait "$unit"`,
		Args:              atMostOne("NAME"),
		ValidArgsFunction: a.completeRuns(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.wait(cmd.Context(), firstOf(args)) },
	}
}

// waited is what `purple --json wait` prints.
type waited struct {
	Unit string       `json:"unit"`
	End  *reportedEnd `json:"end"`
}

func (a *app) wait(ctx context.Context, arg string) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	found, err := a.findRun(ctx, arg)
	if err != nil {
		return err
	}
	defer found.Close()
	if found.runs {
		if err := found.WaitEnd(ctx, found.unit); err != nil {
			return err
		}
	}
	syncJournal(ctx)
	record, err := readRecord(ctx, found)
	if err != nil {
		return err
	}
	end := newReportedEnd(record.history.Ended)
	if end == nil {
		return fmt.Errorf("cannot find how %s ended: the journal has no event of it, as with `audit.enabled: false`%s", found.unit, permissionHint())
	}
	if a.json {
		if err := printJSON(a.stdout, waited{found.unit, end}); err != nil {
			return err
		}
	}
	if end.Status == 0 {
		return nil
	}
	return &statusError{status: int(end.Status)}
}
