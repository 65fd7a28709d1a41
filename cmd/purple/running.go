package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/units"
	"github.com/spf13/cobra"
)

// running connects to systemd and lists the runs that have not ended.
func (a *app) running(ctx context.Context) (domain, *units.Manager, []units.Info, error) {
	d, err := a.domain()
	if err != nil {
		return d, nil, nil, err
	}
	manager, err := d.connect(ctx)
	if err != nil {
		return d, nil, nil, err
	}
	runs, err := manager.List(ctx)
	if err != nil {
		manager.Close()
		return d, nil, nil, err
	}
	return d, manager, runs, nil
}

func unitNames(runs []units.Info) []string {
	var names []string
	for _, r := range runs {
		names = append(names, r.Unit)
	}
	return names
}

// checkRunName refuses early what can name no run.
func checkRunName(arg string) error {
	other := func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r))
	}
	if arg == "" || strings.ContainsFunc(arg, other) {
		return fmt.Errorf("%q cannot be a run: name it by its unit, its run id or its profile; \"purple ps\" lists them", arg)
	}
	return nil
}

// namedBy are the units of which arg is the name, with or without ".service", or the
// run id.
func namedBy(arg string, names []string) []string {
	var named []string
	for _, name := range names {
		if _, id, ok := units.ParseName(name); name == strings.TrimSuffix(arg, ".service")+".service" || ok && id == arg {
			named = append(named, name)
		}
	}
	return named
}

// resolve finds the unit that an argument means: the name of a unit with or
// without ".service", a run id, or a profile of which there is only one run.
func resolve(arg string, names []string) (string, error) {
	unit := strings.TrimSuffix(arg, ".service") + ".service"
	if slices.Contains(names, unit) {
		return unit, nil
	}
	var fits []string
	for _, name := range names {
		if profile, id, ok := units.ParseName(name); ok && (arg == id || arg == profile) {
			fits = append(fits, name)
		}
	}
	switch len(fits) {
	case 1:
		return fits[0], nil
	case 0:
		return "", &noRunError{arg: arg, running: names}
	default:
		return "", fmt.Errorf("cannot tell which run %q is: %s; name it by its unit or its run id", arg, enumerate(fits))
	}
}

// noRunError says that nothing fits, and what there is.
type noRunError struct {
	arg     string
	running []string
	where   string // else it was looked for
}

func (e *noRunError) Error() string {
	what := "nothing runs"
	if len(e.running) > 0 {
		what = "what runs is " + enumerate(e.running)
	}
	return fmt.Sprintf("cannot find a run %q: %s%s", e.arg, what, e.where)
}

// enumerate names a handful of units, and how many more there are.
func enumerate(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// completionTime bounds how long the Tab key may hang.
const completionTime = 2 * time.Second

// completeRuns completes the names of runs; most: how many arguments there may be.
func (a *app) completeRuns(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		_, manager, runs, err := a.running(ctx)
		if err != nil {
			// A shell has no place for the reason; the command will tell it.
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer manager.Close()
		return completions(runs, args, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completions are the units, and the profiles that stand for one of them.
func completions(runs []units.Info, given []string, prefix string) []cobra.Completion {
	ofProfile := map[string]int{}
	for _, r := range runs {
		ofProfile[r.Profile]++
	}
	var found []cobra.Completion
	add := func(name, text string) {
		if strings.HasPrefix(name, prefix) && !slices.Contains(given, name) {
			found = append(found, cobra.CompletionWithDesc(name, text))
		}
	}
	for _, r := range runs {
		add(r.Unit, "profile "+r.Profile)
		if ofProfile[r.Profile] == 1 {
			add(r.Profile, r.Unit)
		}
	}
	return found
}
