package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newLogsCommand(a *app) *cobra.Command {
	var follow, list bool
	cmd := &cobra.Command{
		Use:   "logs [flags] [NAME]",
		Short: "Print a run's output and Purple's events of it, from the journal",
		Long: `Print what the journal has of a run, also of one that has ended.

NAME is a unit, with or without ".service", a run id, or a profile, of which the
latest run is meant; without NAME it is the latest of all. Each line has the time and who says it: "output" is the run's own
(of a detached run; an attached one's went to its caller), "purple" an event
that was recorded from outside of the sandbox, "systemd" the manager. No text of
the output can change that word: what would steer a terminal is printed as \x1b.`,
		Args:              atMostOne("NAME"),
		ValidArgsFunction: a.completeRuns(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return a.listAll(cmd.Context(), firstOf(args))
			}
			return a.logs(cmd.Context(), firstOf(args), follow)
		},
	}
	addListFlag(cmd, &list)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print what comes, until the run has ended")
	return cmd
}

func addListFlag(cmd *cobra.Command, list *bool) {
	cmd.Flags().BoolVar(list, "list", false, "list the runs of all profiles, or of the profile NAME, with their times")
}

func (a *app) logs(ctx context.Context, arg string, follow bool) error {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	found, err := a.findRun(ctx, arg)
	if err != nil {
		return err
	}
	defer found.Close()
	l := &logPrinter{app: a, foundRun: found}
	if follow && found.runs {
		err = l.follow(ctx)
	} else {
		err = readJournal(ctx, l.print, l.unitMatches(l.unit)...)
	}
	if ctx.Err() != nil {
		return nil // the caller has seen enough
	}
	if err == nil && l.cursor == "" {
		err = fmt.Errorf("cannot find anything of %s in the journal%s", l.unit, permissionHint())
	}
	return err
}

// foundRun is a unit that a command line names, and where to ask about it.
type foundRun struct {
	domain
	*units.Manager
	unit string
	runs bool // it has not ended
}

// findRun finds the unit that arg names, whether it runs or has run; empty: the latest.
// The caller closes the manager.
func (a *app) findRun(ctx context.Context, arg string) (*foundRun, error) {
	if arg != "" {
		if err := checkRunName(arg); err != nil {
			return nil, err
		}
	}
	d, manager, list, err := a.running(ctx)
	if err != nil {
		return nil, err
	}
	unit, err := d.findLogged(ctx, arg, list)
	if err != nil {
		return nil, errors.Join(err, manager.Close())
	}
	return &foundRun{d, manager, unit, slices.Contains(unitNames(list), unit)}, nil
}

// findLogged looks for a unit or a run id, then for the latest run of a profile, and at
// last for whatever name the journal remembers.
func (d domain) findLogged(ctx context.Context, arg string, running []units.Info) (string, error) {
	names := unitNames(running)
	if named := namedBy(arg, names); len(named) == 1 {
		return named[0], nil
	}
	latest, err := d.latestRun(ctx, arg, running)
	if err != nil || latest != "" {
		return latest, err
	}
	if arg == "" {
		return "", fmt.Errorf("nothing runs, and the journal has no run%s", permissionHint())
	}
	logged, err := d.loggedUnits(ctx)
	if err != nil {
		return "", err
	}
	unit, err := resolve(arg, logged)
	if errors.As(err, new(*noRunError)) {
		return "", &noRunError{arg: arg, running: names, where: ", and the journal has nothing of it" + permissionHint()}
	}
	return unit, err
}

// logPrinter prints the entries of one unit.
type logPrinter struct {
	*app
	*foundRun
	cursor string // of the last entry
}

// follow prints until the run has ended and everything is printed.
func (l *logPrinter) follow(ctx context.Context) error {
	reading, end := context.WithCancel(ctx)
	defer end()
	waited := make(chan error, 1)
	go func() {
		defer end()
		waited <- l.WaitEnd(ctx, l.unit)
	}()
	err := readJournal(reading, l.print, append([]string{"--follow", "--no-tail"}, l.unitMatches(l.unit)...)...)
	if reading.Err() == nil {
		return err // for a reason of journalctl's own
	}
	if err := <-waited; err != nil {
		return err
	}
	syncJournal(ctx)
	args := l.unitMatches(l.unit)
	if l.cursor != "" {
		args = append([]string{"--after-cursor=" + l.cursor}, args...)
	}
	return readJournal(ctx, l.print, args...)
}

// loggedLine is one line of `purple logs --json`.
type loggedLine struct {
	Time    time.Time `json:"time"`
	Source  string    `json:"source"` // "output", "purple", "systemd"
	Event   string    `json:"event,omitempty"`
	Message string    `json:"message"`
}

func (l *logPrinter) print(e journal.Entry) error {
	line, err := l.newLine(e)
	if err != nil {
		return err
	}
	if l.json {
		err = printJSONLine(l.stdout, line)
	} else {
		_, err = fmt.Fprintf(l.stdout, "%s %-7s %s\n", line.Time.Local().Format(time.DateTime), line.Source, line.Message)
	}
	l.cursor = e[fieldCursor]
	return err
}

// newLine tells who speaks from what journald says of the sender: the command
// reaches the journal by its output only.
func (f *foundRun) newLine(e journal.Entry) (loggedLine, error) {
	usec, err := strconv.ParseInt(e[fieldTime], 10, 64)
	if err != nil {
		return loggedLine{}, fmt.Errorf("cannot read the time of an entry: %w", err)
	}
	line := loggedLine{Time: time.UnixMicro(usec).UTC(), Source: "output", Message: escapeLine(e["MESSAGE"])}
	switch {
	case f.isEventOf(e, f.unit):
		line.Source, line.Event = "purple", journal.Escape(e[journal.FieldEvent])
	case !f.isOf(e, f.unit):
		line.Source = "systemd"
	case e[journal.FieldIdentifier] == journal.Identifier:
		line.Source = "purple" // on the unit's own output, which the command has not got
	}
	return line, nil
}

// escapeLine leaves the tabs, which steer no terminal.
func escapeLine(s string) string {
	parts := strings.Split(s, "\t")
	for i := range parts {
		parts[i] = journal.Escape(parts[i])
	}
	return strings.Join(parts, "\t")
}
