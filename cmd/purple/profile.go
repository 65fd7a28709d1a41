package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strconv"

	"github.com/purple-sandbox/purple/policies"
	"github.com/spf13/cobra"
)

func newProfileCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Create, list, show, check and delete profiles",
		Long: `Profiles say what a command may do: docs/policy.md has every field.

They are found by name in /etc/purple/policies, /usr/share/purple/policies and
among the built-in ones; for anyone but root in ~/.config/purple/policies first.
An argument with a slash is a file.`,
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
	dirs, err := a.profileDirs()
	if err != nil {
		return nil, err
	}
	store := policies.NewStore(dirs...)
	if uid, ok := sudoUser(os.Geteuid(), os.Getenv("SUDO_UID")); ok {
		store.TrustOwner(uid)
	}
	return store, nil
}

// profileDirs takes the home directory from the user database: HOME is kept
// across some ways to become another user, and would name that user's profiles.
func (a *app) profileDirs() ([]policies.Dir, error) {
	if a.policyDirs != nil {
		return a.policyDirs, nil
	}
	uid := os.Geteuid()
	if uid == 0 {
		return policies.DefaultDirs(uid, ""), nil
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil, fmt.Errorf("cannot find your profiles: user %d has no home directory in the user database: %w", uid, err)
	}
	return policies.DefaultDirs(uid, u.HomeDir), nil
}

// sudoUser is the user behind sudo: they decide already what root runs here, so
// root believes their profiles too. Only root's own environment is asked, which
// nobody else can write.
func sudoUser(euid int, sudoUID string) (uint32, bool) {
	if euid != 0 {
		return 0, false
	}
	uid, err := strconv.ParseUint(sudoUID, 10, 32)
	return uint32(uid), err == nil
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
