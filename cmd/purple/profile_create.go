package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/policies"
	"github.com/spf13/cobra"
)

// modelProfile is what a new profile is a copy of when nothing else is there.
const modelProfile = "ai-dev-safe"

func newProfileCreateCommand(a *app) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "create NAME [--from FILE|PROFILE]",
		Short: "Create a profile from a file or from another profile",
		Long: `Create a profile and print the path of its file.

Without --from it is made from policies/NAME.yaml or NAME.yaml in the current
folder, else from the built-in profile NAME, else from ai-dev-safe. Comments are
kept, the name in it is replaced. An existing profile is never replaced.`,
		Example: `  purple profile create my-agent
  purple profile create my-agent --from ./agent.yaml
  purple profile create my-agent --from python`,
		Args: exactlyOne("NAME"),
		RunE: func(_ *cobra.Command, args []string) error { return a.createProfile(args[0], from) },
	}
	cmd.Flags().StringVar(&from, "from", "", "the file, or the profile, to copy")
	return cmd
}

func (a *app) createProfile(name, from string) error {
	if err := policies.ValidateName(name); err != nil {
		return err
	}
	store, err := a.writableStore()
	if err != nil {
		return err
	}
	source, err := profileSource(store, name, from)
	if err != nil {
		return err
	}
	// The source is checked under its own name first, so that a mistake is
	// reported where it can be mended.
	policy, err := store.Parse(source.Name, source.File, source.Content)
	if err != nil {
		return err
	}
	content, err := policies.Renamed(source.File, source.Content, name)
	if err != nil {
		return err
	}
	file, err := store.Create(name, content)
	if err != nil {
		return err
	}
	a.warn(policy.Warnings)
	fmt.Fprintf(a.stderr, "purple: created profile %q from %s\n", name, source.File)
	fmt.Fprintln(a.stdout, file)
	return nil
}

// profileSource finds what a new profile is to be made from.
func profileSource(store *policies.Store, name, from string) (policies.Profile, error) {
	switch {
	case isFile(from):
		return store.ReadFile(from)
	case from != "":
		return store.Read(from)
	}
	for _, file := range []string{filepath.Join("policies", name+".yaml"), name + ".yaml"} {
		source, err := store.ReadFile(file)
		if !errors.Is(err, fs.ErrNotExist) {
			return source, err
		}
	}
	if slices.Contains(policies.Builtins(), name) {
		return policies.Builtin(name)
	}
	return policies.Builtin(modelProfile)
}

// isFile tells a path from a profile's name, which has neither a slash nor this
// ending.
func isFile(from string) bool {
	return strings.Contains(from, "/") || strings.HasSuffix(from, ".yaml") || strings.HasSuffix(from, ".yml")
}
