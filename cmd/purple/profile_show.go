package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
	"github.com/spf13/cobra"
)

func newProfileListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the profiles that can be run, where each comes from and what it is for",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.listProfiles() },
	}
}

func (a *app) listProfiles() error {
	store, err := a.store()
	if err != nil {
		return err
	}
	entries := store.List()
	if a.json {
		return printJSON(a.stdout, entries)
	}
	table := tabwriter.NewWriter(a.out(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSOURCE\tDESCRIPTION")
	for _, e := range entries {
		text := strings.Join(strings.Fields(e.Description), " ")
		if e.Error != "" {
			first, _, _ := strings.Cut(e.Error, "\n")
			text = "cannot be used: " + first
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", e.Name, e.Source, text)
	}
	return table.Flush()
}

func newProfileShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print what a profile means: parents merged, every default filled in",
		Args:  exactlyOne("NAME"),
		RunE:  func(_ *cobra.Command, args []string) error { return a.showProfile(args[0]) },
	}
}

// shownProfile is the JSON of `purple profile show`.
type shownProfile struct {
	Files    []string         `json:"files"` // itself, then what it extends
	Digest   string           `json:"digest"`
	Warnings []string         `json:"warnings"`
	Policy   *policies.Policy `json:"policy"`
}

func (a *app) showProfile(arg string) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	policy, err := store.Load(arg)
	if err != nil {
		return err
	}
	digest, err := policy.Digest()
	if err != nil {
		return err
	}
	if a.json {
		shown := shownProfile{policy.Files(), digest, []string{}, policy}
		for _, w := range policy.Warnings {
			shown.Warnings = append(shown.Warnings, w.String())
		}
		return printJSON(a.stdout, shown)
	}
	text, err := policy.Encode()
	if err != nil {
		return err
	}
	a.warn(policy.Warnings)
	fmt.Fprintf(a.out(), "# from %s\n# digest %s\n%s", strings.Join(policy.Files(), ", which extends "), digest, text)
	return nil
}

func newProfileCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a profile's file: every mistake on a line of its own, with its place",
		Args:  exactlyOne("FILE"),
		RunE:  func(_ *cobra.Command, args []string) error { return a.checkProfile(args[0]) },
	}
}

func (a *app) checkProfile(file string) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	source, err := store.ReadFile(file)
	if err != nil {
		return err
	}
	policy, err := store.Parse("", source.File, source.Content)
	var mistakes policies.Errors
	if errors.As(err, &mistakes) {
		// As a compiler prints them, for editors: no "purple:" in front.
		fmt.Fprintln(a.stderr, mistakes)
		return &statusError{status: spec.StatusRefused}
	}
	if err != nil {
		return err
	}
	for _, w := range policy.Warnings {
		fmt.Fprintln(a.stderr, w)
	}
	fmt.Fprintf(a.out(), "%s: profile %q is valid\n", source.File, policy.Name)
	return nil
}

func newProfileDeleteCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a profile of your own",
		Args:  exactlyOne("NAME"),
		RunE:  func(_ *cobra.Command, args []string) error { return a.deleteProfile(args[0]) },
	}
}

func (a *app) deleteProfile(name string) error {
	store, err := a.writableStore()
	if err != nil {
		return err
	}
	file, err := store.Delete(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "purple: deleted profile %q (%s)\n", name, file)
	return nil
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// printJSONLine prints a value of a stream.
func printJSONLine(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
