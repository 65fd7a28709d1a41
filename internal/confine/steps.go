// Package confine carries a spec out: it is all of purple-init. Three
// processes share the work:
//
//	supervisor  the unit's main process, the only one outside the sandbox
//	init        PID 1 of the sandbox, a re-execution of the same binary; builds
//	            the root file system, then reaps
//	command     a fork of init; drops every privilege and becomes the command
//
// The order of the steps is this file. Nothing is believed because a call
// returned no error: what is in force is read back, that of the command's process
// by init, and the command is executed only after the supervisor has heard of it.
//
// The package must stay small enough to audit in one sitting: it is static,
// and imports no D-Bus, no YAML and no cgo.
package confine

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/purple-sandbox/purple/internal/spec"
)

// step is one thing to do. Its name completes the sentence "cannot …".
type step[T any] struct {
	name string
	run  func(T) error
}

// initSteps turn the freshly cloned process into the sandbox's PID 1.
var initSteps = []step[*sandbox]{
	// First, because every later step would change the host if a
	// namespace were the host's.
	{"verify the namespaces", (*sandbox).verifyNamespaces},
	// Before anything is made that would have to be made again. Its mount is the
	// first thing that needs them private.
	{"make the mounts private", (*sandbox).makeMountsPrivate},
	{"seal purple-init", (*sandbox).sealSelf},
	{"offer the sandbox when memory is short", (*sandbox).offerToOOM},
	{"leave the session keyring", (*sandbox).leaveKeyring},
	{"set the host name", (*sandbox).setHostname},
	{"prepare the network namespace", (*sandbox).prepareNetwork},
	{"filter the network", (*sandbox).filterNetwork},
	// While the host's files can still be named.
	{"open the bound paths", (*sandbox).openSources},
	{"copy standard input", (*sandbox).copyInput},
	{"make the root file system", (*sandbox).makeRoot},
	{"make /proc and /dev", (*sandbox).makeSystemDirs},
	{"write the generated files", (*sandbox).writeFiles},
	{"make the mounts", (*sandbox).attachMounts},
	{"change the root", (*sandbox).pivotRoot},
	// After the change of root, so that the pty is of the sandbox's own
	// devpts and nothing of the caller's terminal is reachable.
	{"open a terminal", (*sandbox).openTerminal},
	{"connect the standard streams", (*sandbox).connectStreams},
	// Without its groups and above the limits, before the child inherits them.
	{"drop the supplementary groups", (*sandbox).dropGroups},
	{"set the resource limits", (*sandbox).setRlimits},
	{"reset the timer slack", (*sandbox).resetTimerSlack},
	// While /proc is still writable: the id maps are written through it.
	// The fork does the steps below at the same time, then waits.
	{"make the user namespace", (*sandbox).spawnCommand},
	{"make the root file system read-only", (*sandbox).sealRoot},
	{"verify the mounts", (*sandbox).verifyMounts},
	{"verify the confinement", (*sandbox).verifyCommand},
	// Then, in sandbox.go: tell the supervisor, drop all capabilities but
	// CAP_KILL, which forwards signals, and let the command's process go.
}

// commandStep is one thing to do for the fork that will be the command, see
// command.run: its name and what explains its error are for init.
type commandStep struct {
	name    string
	run     func(*command) syscall.Errno
	explain func(c *command, detail int, errno syscall.Errno) error // nil: the error says it all
}

// commandSteps take every privilege from the process that will be the command.
var commandSteps = [...]commandStep{
	{"watch for its execution", (*command).watchForExec, nil},
	// Everything above 2 goes at execve, also what a careless caller left open.
	{"close the descriptors", (*command).closeDescriptors, nil},
	{"make a process group", (*command).leadGroup, nil},
	{"become the sandbox's user", (*command).takeIDs, nil},
	{"let itself be traced", (*command).allowTracer, nil},
	// Before no_new_privs and the loss of CAP_SYS_ADMIN, which it needs otherwise.
	{"restrict the file system with Landlock", (*command).restrictPaths, (*command).explainPaths},
	// The bounding set needs CAP_SETPCAP, so it goes before the other sets.
	{"drop the capabilities", (*command).dropCapabilities, (*command).explainCapabilities},
	{"set no_new_privs", (*command).setNoNewPrivs, nil},
	{"enter the working directory", (*command).enterDir, (*command).explainDir},
	{"reset the signals", (*command).resetSignals, (*command).explainSignals},
	{"set the tasks limit", (*command).setTasksLimit, nil},
	// Then it waits for the word of init and the supervisor, who have read back
	// the rest. Last, in command.launch and without a call in between: seccomp,
	// all of it read back once more by init, execve.
}

// StepError says which step could not be done. Status is purple's exit status.
type StepError struct {
	Step   string
	Err    error
	Status int
}

func (e *StepError) Error() string { return fmt.Sprintf("cannot %s: %v", e.Step, e.Err) }

func (e *StepError) Unwrap() error { return e.Err }

// oneProcessor keeps the Go runtime of a process that is about to do one thing
// after the other from making threads for more: they are a fifth of its start.
// The supervisor gets it as Environment= of the unit (package translate).
const oneProcessor = "GOMAXPROCS=1"

// runSteps stops at the first step that fails.
func runSteps[T any](on T, steps []step[T]) error {
	for _, s := range steps {
		if err := s.run(on); err != nil {
			return &StepError{Step: s.name, Err: err, Status: spec.StatusRefused}
		}
	}
	return nil
}

// asStepError gives any error the shape that travels to purple.
func asStepError(err error, step string) *StepError {
	var e *StepError
	if errors.As(err, &e) {
		return e
	}
	return &StepError{Step: step, Err: err, Status: spec.StatusRefused}
}
