package main

import (
	"context"
	"fmt"
	"math"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// statsInterval is how often the table is drawn anew.
const statsInterval = time.Second

func newStatsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stats [NAME]...",
		Short: "Show what runs use, live on a terminal",
		Long: `Show what runs use: all of them, or those that are named as for "purple stop".

On a terminal the table is drawn anew every second, until Ctrl-C or the end of
the runs that were named. Elsewhere, and with --json, it is printed once. CPU%
is of one CPU, since the table before; in the first one since the run's start.
The tasks include Purple's own in the unit.`,
		ValidArgsFunction: a.completeRuns(math.MaxInt),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.stats(cmd.Context(), args) },
	}
}

func (a *app) stats(ctx context.Context, args []string) error {
	for _, arg := range args {
		if err := checkRunName(arg); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	_, manager, runs, err := a.running(ctx)
	if err != nil {
		return err
	}
	defer manager.Close()
	var names []string
	for _, arg := range args {
		unit, err := resolve(arg, unitNames(runs))
		if err != nil {
			return err
		}
		names = append(names, unit)
	}
	runs = only(runs, names)
	usage := (*sample)(nil).next(runs, time.Now())
	if _, _, isTerminal := terminalSize(a.stdout); isTerminal && !a.json {
		return a.liveStats(ctx, manager, usage, names)
	}
	if a.json {
		return printJSON(a.stdout, usage.runs)
	}
	return printLines(a.out(), usage.table())
}

// only keeps the runs that are named; nil: all of them.
func only(runs []units.Info, names []string) []units.Info {
	if names == nil {
		return runs
	}
	return slices.DeleteFunc(runs, func(r units.Info) bool { return !slices.Contains(names, r.Unit) })
}

// liveStats draws until the caller has seen enough or the named runs have ended.
func (a *app) liveStats(ctx context.Context, manager *units.Manager, usage *sample, names []string) error {
	drawn := 0
	for {
		columns, rows, _ := terminalSize(a.stdout)
		frame, lines := drawOver(drawn, usage.table(), columns, rows)
		if _, err := fmt.Fprint(a.stdout, frame); err != nil {
			return err
		}
		if names != nil && len(usage.runs) == 0 {
			return nil
		}
		drawn = lines
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(statsInterval):
		}
		runs, err := manager.List(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		usage = usage.next(only(runs, names), time.Now())
	}
}

// drawOver is a table in the place of the one before, of which so many lines
// were drawn. It sets no mode of the terminal: whatever ends purple, the
// terminal is as it was, and the last table stays.
func drawOver(drawn int, table []string, columns, rows int) (frame string, lines int) {
	if len(table) >= rows {
		table = table[:max(rows-1, 1)] // the cursor stands on a line of its own
	}
	var b strings.Builder
	if drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, line := range table {
		b.WriteString(journal.Cut(line, columns) + "\n")
	}
	return b.String(), len(table)
}

// measuredRun is one element of `purple stats --json`.
type measuredRun struct {
	shownRun
	CPUPercent *float64 `json:"cpu_percent"` // 100 is one CPU
}

// sample is what the runs had used at one time.
type sample struct {
	at   time.Time
	runs []measuredRun
}

// next is the sample after s; nil: there was none.
func (s *sample) next(runs []units.Info, now time.Time) *sample {
	n := &sample{at: now, runs: []measuredRun{}}
	for _, r := range runs {
		n.runs = append(n.runs, measuredRun{showRun(r), s.cpuPercent(r, now)})
	}
	return n
}

func (s *sample) cpuPercent(r units.Info, now time.Time) *float64 {
	if r.CPUNSec == nil || r.Since.IsZero() {
		return nil
	}
	used, over := float64(*r.CPUNSec), now.Sub(r.Since)
	if s != nil {
		for _, before := range s.runs {
			if before.Unit == r.Unit && before.CPUNSec != nil {
				used, over = used-float64(*before.CPUNSec), now.Sub(s.at)
			}
		}
	}
	if over <= 0 || used < 0 {
		return nil
	}
	percent := math.Round(used/float64(over)*1000) / 10
	return &percent
}

func (s *sample) table() []string {
	rows := [][]string{{"UNIT", "CPU%", "CPU", "MEMORY", "MEM%", "TASKS"}}
	for _, r := range s.runs {
		cpu := "-"
		if r.CPUPercent != nil {
			cpu = fmt.Sprintf("%.1f", *r.CPUPercent)
		}
		rows = append(rows, []string{
			r.Unit, cpu, cpuText(r.CPUNSec), ofLimit(journal.Bytes, r.Memory, r.MemoryLimit),
			shareText(r.Memory, r.MemoryLimit), ofLimit(countText, r.Tasks, r.TasksLimit),
		})
	}
	return alignColumns(rows)
}

func shareText(n, limit *uint64) string {
	if n == nil || limit == nil || *limit == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", 100*float64(*n)/float64(*limit))
}
