// Package translate turns a policy, a command and what is known of the machine
// into a plan: the unit's properties and the spec for purple-init. It is pure:
// no I/O, no clock, no environment, no globals. Same input, same bytes.
package translate

import (
	"fmt"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
)

// Command is what the caller asks for besides the policy.
type Command struct {
	Argv      [][]byte
	Dir       string            // the caller's current directory, absolute; empty: there is none
	DirError  error             // why
	Workspace string            // --workspace, absolute, links resolved; empty: the policy's choice
	Environ   map[string]string // the caller's environment
	Env       map[string]string // --env, over everything else
	RunID     string            // 8 hex digits
	Invoker   Invoker
	Detach    bool
	Learning  bool // only `purple learn` asks for it, no policy can; the filter is then another
	Terminal  [3]bool
	Winsize   [4]uint16
	InitPath  string // purple-init, absolute
	NetPath   string // purple-net, absolute, where the policy does not isolate
	SelfPath  string // purple itself, absolute
	// ProfileFile is the profile, absolute; empty: it is built in.
	ProfileFile string
	// Profiles are the files that the policy was read from, and ProfileDirs
	// where profiles are found by name, absolute, links resolved: the command
	// may write to none of them, or the next run would obey it.
	Profiles    []string
	ProfileDirs []string
	// Links are those of the SessionPaths of the caller's that are links, or lie behind
	// one, and where they lead.
	Links map[string]string
	// RootsFiles are those of the policy's files, as its positions name them, in which
	// root itself asks. For what another one asks, and what the command line does, the
	// Invoker's rights must do.
	RootsFiles []string
}

// Invoker is who called: under sudo the user, else root.
type Invoker struct {
	UID, GID uint32
	Name     string
	Groups   []uint32 // supplementary, of who is behind sudo
	Home     string   // of the user database; may be empty
}

// Plan is a sandbox, decided.
type Plan struct {
	Unit       string
	Properties []Property
	Spec       spec.Spec // without Filter and Command.Path, which need the machine
	Network    *Network  // nil: isolated
	Warnings   []policies.Warning
	LogNamedIn policies.Position // where the profile names the log, if it does

	sandbox []Line // what purple-init does, in words
}

// Property is one property of the unit.
type Property struct {
	Name  string
	Value any      // as D-Bus takes it
	File  string   // its name in a unit file
	Text  []string // its values in a unit file, one assignment each
	Key   string   // the policy's key that caused it, or empty
	Where policies.Position
	Why   string // where Key is empty
}

// UnsupportedError says that this machine, or this version of Purple, cannot
// enforce what a policy asks for.
type UnsupportedError struct {
	Where   policies.Position
	Feature string
	Why     string
	Hint    string
}

func (e *UnsupportedError) Error() string {
	text := fmt.Sprintf("cannot enforce %s (%s): %s", e.Feature, e.Where, e.Why)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}
