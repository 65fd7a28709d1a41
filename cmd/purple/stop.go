package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newStopCommand(a *app) *cobra.Command {
	var kill bool
	cmd := &cobra.Command{
		Use:   "stop [flags] NAME",
		Short: "Stop a run and wait for its end",
		Long: `Stop a run and return when nothing of it is left.

NAME is a unit, with or without ".service", a run id, or a profile of which one
run is there. The command gets SIGTERM; 5 seconds later, or at once with --kill,
all of the run gets SIGKILL. "systemctl stop UNIT" does the same.`,
		Args:              exactlyOne("NAME"),
		ValidArgsFunction: a.completeRuns(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.stop(cmd.Context(), args[0], kill) },
	}
	cmd.Flags().BoolVarP(&kill, "kill", "k", false, "kill it at once")
	return cmd
}

func (a *app) stop(ctx context.Context, arg string, kill bool) error {
	if err := checkRunName(arg); err != nil {
		return err
	}
	d, manager, runs, err := a.running(ctx)
	if err != nil {
		return err
	}
	defer manager.Close()
	if err := d.requireOwn("stop a run"); err != nil {
		return err
	}
	unit, err := resolve(arg, unitNames(runs))
	if err != nil {
		return err
	}
	if err := manager.Stop(ctx, unit, kill); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "purple: stopped %s\n", unit)
	return nil
}
