package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/units"
	"github.com/spf13/cobra"
)

func newPsCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ps [flags]",
		Short: "List what runs: since when, what it uses, what it was denied",
		Long: `List the runs that have not ended, the oldest first.

What is shown is systemd's, /proc's and the journal's: purple keeps no state.
The tasks include Purple's own in the unit. The denials are those in the journal
so far, of which only root is told; the command is as its process shows it.

With --all, those that have ended are listed too, as far as the journal has them,
with their end instead of what they use.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				return a.listAll(cmd.Context(), "")
			}
			return a.ps(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list the runs that have ended, too")
	return cmd
}

// shownRun is a run in JSON: docs/manage.md has its fields. null: not known,
// and for a limit also: there is none.
type shownRun struct {
	Unit        string     `json:"unit"`
	Profile     string     `json:"profile"`
	RunID       string     `json:"run_id"`
	State       string     `json:"state"`
	Since       *time.Time `json:"since"`
	MainPID     uint32     `json:"main_pid"`
	CPUNSec     *uint64    `json:"cpu_nsec"`
	Memory      *uint64    `json:"memory_bytes"`
	MemoryLimit *uint64    `json:"memory_limit_bytes"`
	Tasks       *uint64    `json:"tasks"`
	TasksLimit  *uint64    `json:"tasks_limit"`
	Learning    bool       `json:"learning"`
}

func showRun(r units.Info) shownRun {
	shown := shownRun{
		Unit: r.Unit, Profile: r.Profile, RunID: r.RunID, State: r.State, MainPID: r.MainPID, CPUNSec: r.CPUNSec,
		Learning: strings.HasPrefix(r.Description, translate.LearningDescription),
		Memory:   r.Memory, MemoryLimit: r.MemoryMax, Tasks: r.Tasks, TasksLimit: r.TasksMax,
	}
	if !r.Since.IsZero() {
		since := r.Since.UTC()
		shown.Since = &since
	}
	return shown
}

// profileText is the profile for a table.
func (r shownRun) profileText() string {
	if r.Learning {
		return r.Profile + " (learning)"
	}
	return r.Profile
}

// listedRun is one element of `purple ps --json`.
type listedRun struct {
	shownRun
	Denials *uint64 `json:"denials"`
	Command string  `json:"command"` // quoted for a shell; empty: not known
}

func (a *app) ps(ctx context.Context) error {
	d, manager, runs, err := a.running(ctx)
	if err != nil {
		return err
	}
	defer manager.Close()
	tally := d.countDenials(ctx, unitNames(runs))
	listed := []listedRun{}
	for _, r := range runs {
		listed = append(listed, listedRun{shownRun: showRun(r), Command: journal.QuoteCommand(commandLine("/proc", r))})
	}
	if counted := tally(); counted != nil {
		for i := range listed {
			n := counted.Denials(listed[i].Unit)
			listed[i].Denials = &n
		}
	}
	if a.json {
		return printJSON(a.stdout, listed)
	}
	return printLines(a.out(), psTable(listed, time.Now()))
}

// denialsTime bounds the count: a command that is denied much for long has many
// events, and must not keep anybody from seeing what runs.
const denialsTime = 2 * time.Second

// countDenials reads the journal beside everything else. nil: it is not known
// how many there were: to whom the journal shows nothing, no event would look like
// no denial.
func (d domain) countDenials(ctx context.Context, names []string) func() *journal.Tally {
	if len(names) == 0 || !d.mayReadJournal() {
		return func() *journal.Tally { return nil }
	}
	done := make(chan *journal.Tally, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, denialsTime)
		defer cancel()
		var tally journal.Tally
		err := readJournal(ctx, func(e journal.Entry) error {
			event, err := journal.FromFields(e)
			if err == nil {
				tally.Add(d.eventUnit(e), event)
			}
			return err
		}, d.denialMatches(names)...)
		if err != nil {
			done <- nil
			return
		}
		done <- &tally
	}()
	return func() *journal.Tally { return <-done }
}

func psTable(runs []listedRun, now time.Time) []string {
	rows := [][]string{{"UNIT", "PROFILE", "SINCE", "CPU", "MEMORY", "TASKS", "DENIED", "COMMAND"}}
	for _, r := range runs {
		command := r.Command
		if r.State != "active" {
			// No quoted command begins like this.
			command = strings.TrimSpace("(" + r.State + ") " + command)
		}
		rows = append(rows, []string{
			r.Unit, r.profileText(), sinceText(r.Since, now), cpuText(r.CPUNSec), ofLimit(journal.Bytes, r.Memory, r.MemoryLimit),
			orDash(countText, r.Tasks), orDash(countText, r.Denials), command,
		})
	}
	return alignColumns(rows)
}

// printLines prints a table, cut to the width where w is a terminal.
func printLines(w io.Writer, lines []string) error {
	columns, _, isTerminal := terminalSize(w)
	var text strings.Builder
	for _, line := range lines {
		if isTerminal {
			line = journal.Cut(line, columns)
		}
		text.WriteString(line + "\n")
	}
	_, err := fmt.Fprint(w, text.String())
	return err
}
