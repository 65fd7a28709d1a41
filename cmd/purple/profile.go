package main

import (
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newProfileCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Create, list, show, check and delete profiles",
		Long: `Profiles say what a command may do: docs/policy.md has every field.

They are found by name in /etc/purple/policies, /usr/share/purple/policies and
among the built-in ones; for anyone but root in ~/.config/purple/policies first,
behind sudo after the two of the system. An argument with a slash is a file.

Behind sudo "create" and "delete" act in your own directory, as you; with --system
they act in /etc/purple/policies, as they do for root.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newProfileCreateCommand(a), newProfileListCommand(a), newProfileShowCommand(a),
		newProfileCheckCommand(a), newProfileDeleteCommand(a),
	)
	return cmd
}

// store opens the caller's profiles.
func (a *app) store() (*policies.Store, error) {
	i, err := invoker()
	if err != nil {
		return nil, err
	}
	dirs, err := a.profileDirs(i)
	if err != nil {
		return nil, err
	}
	store := policies.NewStore(dirs...)
	if i.UID != 0 {
		store.For(i.UID, rightsOf(i))
	}
	return store, nil
}

// profileDirs takes the home directory from the user database: HOME is kept
// across some ways to become another user, and would name that user's profiles.
func (a *app) profileDirs(i translate.Invoker) ([]policies.Dir, error) {
	switch {
	case a.policyDirs != nil:
		return a.policyDirs, nil
	case behindSudo(i) && !a.system:
		return policies.DirsBehindSudo(i.Home), nil
	case os.Geteuid() == 0:
		return policies.RootsDirs(), nil
	case i.Home == "":
		return nil, fmt.Errorf("cannot find your profiles: user %d has no home directory in the user database", i.UID)
	}
	return policies.UsersDirs(i.Home), nil
}

// writableStore is the store of a caller who changes it.
func (a *app) writableStore() (*policies.Store, error) {
	if uid := os.Geteuid(); a.system && uid != 0 {
		return nil, fmt.Errorf("cannot change the system's profiles as uid %d: call it with sudo, or leave --system out for your own", uid)
	}
	return a.store()
}

// rootsFiles are those files of a policy in which root itself asks: the built-in ones,
// and its own in the directories of the system. Who is behind sudo has written, or can
// choose, any other.
func rootsFiles(p *policies.Policy) []string {
	var files []string
	for _, file := range p.Files() {
		if policies.IsBuiltin(file) || isSystemFile(file) {
			files = append(files, file)
		}
	}
	return files
}

// isSystemFile tells whether a file is root's, in one of the system's directories for
// profiles. That of a user behind sudo is no such one, wherever it lies.
func isSystemFile(file string) bool {
	if !slices.ContainsFunc(policies.SystemDirs(), func(d policies.Dir) bool { return d.Holds(file) }) {
		return false
	}
	var st unix.Stat_t
	return unix.Lstat(file, &st) == nil && st.Uid == 0
}

// exactlyOne is cobra.ExactArgs(1) with an error that names what is missing.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return fmt.Errorf("%q takes one %s, not %d arguments: write \"%s\"", cmd.CommandPath(), what, len(args), cmd.UseLine())
	}
}

// atMostOne is cobra.MaximumNArgs(1) with an error that names what may be given.
func atMostOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= 1 {
			return nil
		}
		return fmt.Errorf("%q takes at most one %s, not %d arguments: write \"%s\"", cmd.CommandPath(), what, len(args), cmd.UseLine())
	}
}

// firstOf is empty where nothing is given.
func firstOf(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// warn prints what the author of a profile most likely got wrong.
func (a *app) warn(warnings []policies.Warning) {
	if a.levels.level(logPolicies) > slog.LevelWarn {
		return
	}
	for _, w := range warnings {
		fmt.Fprintf(a.stderr, "purple: %v\n", w)
	}
}
