package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/spf13/cobra"
)

// app is what every command gets: the streams and the root flags, passed
// explicitly so that a test can replace them.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	json           bool           // --json
	system, user   bool           // --system, --user
	levels         *logFilter     // -l
	policyDirs     []policies.Dir // nil: the caller's own; a test sets them
}

// main runs one command line and returns the exit status. Every error is
// printed here and nowhere else.
func (a *app) main(args []string) int {
	a.stderr = escaping{a.stderr}
	root := newRootCommand(a)
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.Execute()
	var status *statusError
	if err != nil && !(errors.As(err, &status) && status.err == nil) {
		fmt.Fprintf(a.stderr, "purple: %s\n", printableError(err))
	}
	return exitStatus(err)
}

// printableError is the text of an error, in which no path makes lines of its own: those of
// the standard library stand in it as they are.
func printableError(err error) string {
	text := err.Error()
	for _, path := range pathsIn(err) {
		text = strings.ReplaceAll(text, path, journal.Escape(path))
	}
	return text
}

// pathsIn are the paths in the errors of the standard library that err is made of.
func pathsIn(err error) []string {
	switch e := err.(type) {
	case *fs.PathError:
		return append(pathsIn(e.Err), e.Path)
	case *os.LinkError:
		return append(pathsIn(e.Err), e.Old, e.New)
	case *exec.Error:
		return append(pathsIn(e.Err), e.Name)
	case interface{ Unwrap() error }:
		return pathsIn(e.Unwrap())
	case interface{ Unwrap() []error }:
		var paths []string
		for _, part := range e.Unwrap() {
			paths = append(paths, pathsIn(part)...)
		}
		return paths
	default:
		return nil
	}
}

// out is standard output for text, see escaping.
func (a *app) out() io.Writer { return escaping{a.stdout} }

// statusError ends purple with a status. A nil err means that nothing is left
// to say: the status is the command's own.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// exitStatus is the one place where an error becomes a status: what is not
// said otherwise is a refusal.
func exitStatus(err error) int {
	var status *statusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return status.status
	default:
		return spec.StatusRefused
	}
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "purple",
		Short:         "Run AI agents, and any command nobody vouches for, as confined systemd units",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	a.levels = newLogFilter()
	root.PersistentFlags().VarP(a.levels, "log", "l", "what purple says of its own work on standard error: error, warn, info, debug, trace; info,units=trace for one subsystem")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print machine-readable JSON where a command has it")
	root.PersistentFlags().BoolVar(&a.system, "system", false, "ask the system manager: root's default")
	root.PersistentFlags().BoolVar(&a.user, "user", false, "ask your own user manager: the default for anybody else")
	root.AddCommand(
		newProfileCommand(a), newPlanCommand(a), newRunCommand(a), newLearnCommand(a),
		newPsCommand(a), newStatsCommand(a), newLogsCommand(a), newWhyCommand(a), newWaitCommand(a), newStopCommand(a), newDoctorCommand(a),
	)
	return root
}
