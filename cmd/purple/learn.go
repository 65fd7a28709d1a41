package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate/seccomp"
	"github.com/spf13/cobra"
)

func newLearnCommand(a *app) *cobra.Command {
	var req request
	var output string
	var merge bool
	cmd := &cobra.Command{
		Use:   "learn --output NAME.yaml [flags] -- COMMAND [ARGUMENT]...",
		Short: "Run a command to find out which system calls it makes, as a profile",
		Long: `Run a command under a profile and write another one, which allows the system
calls that the command has made and no other.

Files, network, resources and capabilities are confined as the profile says. A
system call that the profile does not name goes on all the same, and is written
down; what it denies by name, and what Purple denies under every profile, stays
denied. Do not learn from a command that you expect to attack the kernel.

The exit status is the command's own, as with run. The profile is written however
the command has ended: it knows what the command did, not what it could do.`,
		Example: `  purple learn --profile offline --output script.yaml -- python3 script.py
  purple learn --profile offline --output script.yaml --merge -- python3 script.py --all`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.argv = args
			return a.learn(cmd.Context(), req, output, merge)
		},
	}
	req.addFlags(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", "", "the profile to write, NAME.yaml; never over an existing file")
	cmd.Flags().BoolVar(&merge, "merge", false, "add to the profile of an earlier run what this one makes besides")
	_ = cmd.MarkFlagRequired("output") // it fails for a flag that is not there
	return cmd
}

// learner collects which system calls a learning run has made. Only `purple learn`
// makes one: no filter lets more pass than its policy without it.
type learner struct {
	placedFile
	name        string         // of the profile to be
	extends     bool           // the base is found by name
	earlierText []byte         // the profile to merge into; nil: none
	earlier     *seccomp.Rules // its own

	prepared *prepared
	base     *seccomp.Rules // of the profile that it is learnt under
	lax      *seccomp.Rules // of the filter
	started  time.Time      // of the command
	calls    []spec.LearntCall
	complete bool // all parts have come
}

func (a *app) learn(ctx context.Context, req request, output string, merge bool) error {
	l, err := a.newLearner(req, output, merge)
	if err != nil {
		return fmt.Errorf("cannot write the profile %q: %w", output, err)
	}
	defer l.dir.Close()
	req.learner, req.placed = l, &l.placedFile
	runErr := a.run(ctx, req, nil)
	if !l.complete {
		if exitStatus(runErr) == 0 {
			return &statusError{spec.StatusLost, errors.New("nothing was learnt: purple-init has not told what the command did")}
		}
		return runErr
	}
	if err := a.writeLesson(l, runErr); err != nil {
		err = errors.Join(fmt.Errorf("cannot write the profile %q: %w", output, err), sayable(runErr))
		return &statusError{orLost(exitStatus(runErr)), err}
	}
	return runErr
}

// sayable is nil for a status that is the command's own.
func sayable(err error) error {
	if status := (*statusError)(nil); errors.As(err, &status) && status.err == nil {
		return nil
	}
	return err
}

// newLearner makes sure before the run that its result can be written.
func (a *app) newLearner(req request, output string, merge bool) (*learner, error) {
	name, ok := strings.CutSuffix(filepath.Base(output), ".yaml")
	if !ok {
		return nil, errors.New("its name must end in .yaml")
	}
	if err := policies.ValidateName(name); err != nil {
		return nil, err
	}
	l := &learner{name: name, extends: !strings.Contains(req.profile, "/")}
	if l.extends && name == req.profile {
		return nil, errors.New("it would be called like the profile that it extends")
	}
	var err error
	if l.invoker, err = invoker(); err != nil {
		return nil, err
	}
	l.file = output
	if merge {
		if err := a.readEarlier(l); err != nil {
			return nil, err
		}
	}
	l.replace, l.keeps = l.earlierText != nil, true
	err = l.open()
	if errors.Is(err, fs.ErrExist) {
		return nil, errors.New("it exists, and is not replaced; --merge adds to it")
	}
	return l, err
}

// readEarlier reads the profile to merge into, now: the command may be able to
// change it. There need not be one yet.
func (a *app) readEarlier(l *learner) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	earlier, err := store.ReadFile(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l.earlierText = earlier.Content
	l.earlier, err = a.rulesOf(l, l.earlierText)
	return err
}

// accept refuses before the run an earlier profile that cannot be merged into.
func (l *learner) accept(base *policies.Policy) error {
	if l == nil || l.earlierText == nil {
		return nil
	}
	_, err := (&policies.Lesson{Base: base, Extends: l.extends}).Merged(l.file, l.earlierText)
	return err
}

// begin notes when the command has started.
func (l *learner) begin() {
	if l != nil {
		l.started = time.Now()
	}
}

// take keeps one part of what was learnt.
func (l *learner) take(part *spec.Learnt) {
	if l == nil || part == nil {
		return
	}
	l.calls = append(l.calls, part.Calls...)
	l.complete = uint64(len(l.calls)) == part.Of
}

// writeLesson writes the profile and says so.
func (a *app) writeLesson(l *learner, runErr error) error {
	lesson := l.lesson()
	content, err := lesson.Profile()
	if l.earlierText != nil && err == nil {
		content, err = lesson.Merged(l.file, l.earlierText)
	}
	if err != nil {
		return err
	}
	if err := a.checkLesson(l, lesson, content); err != nil {
		return err
	}
	if err := l.put(content); err != nil {
		return err
	}
	a.sayLearnt(l, lesson, runErr)
	return nil
}

func (l *learner) lesson() *policies.Lesson {
	s := &l.prepared.plan.Spec
	const most = 200
	lesson := &policies.Lesson{
		Name: l.name, Base: l.prepared.policy, Extends: l.extends, When: l.started,
		Run:    fmt.Sprintf("run %s: %s", s.RunID, journal.Cut(journal.CommandText(s.Command.Argv), most)),
		Always: seccomp.Always(),
	}
	for _, c := range l.calls {
		if slices.Contains(lesson.Always, l.base.CallName(c.Nr)) {
			continue
		}
		call := policies.LearntCall{Rule: l.base.LearntRule(c.Nr), Count: c.Count, First: l.started.Add(time.Duration(c.First) * time.Microsecond)}
		for _, comm := range c.Comms {
			call.Comms = append(call.Comms, cmp.Or(journal.Escape(comm), `""`))
		}
		lesson.Calls = append(lesson.Calls, call)
	}
	for _, name := range seccomp.ChanceCalls(seccomp.NativeArch) {
		if l.lax.AllowsRule(policies.SyscallRule{Name: name}) {
			lesson.Chance = append(lesson.Chance, name)
		}
	}
	return lesson
}

// checkLesson makes sure that the text is a profile, and that it allows each
// call that was made.
func (a *app) checkLesson(l *learner, lesson *policies.Lesson, content []byte) error {
	rules, err := a.rulesOf(l, content)
	if err != nil {
		return err
	}
	if missing := notAllowed(rules, lesson.Calls); len(missing) > 0 {
		return fmt.Errorf("it would not allow what was made: something in it denies %s", strings.Join(missing, ", "))
	}
	return nil
}

func (a *app) rulesOf(l *learner, content []byte) (*seccomp.Rules, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	policy, err := store.Parse(l.name, l.file, content)
	if err != nil {
		return nil, err
	}
	return seccomp.Resolve(policy.Syscalls, seccomp.NativeArch)
}

// notAllowed are those of the calls that a policy does not allow.
func notAllowed(rules *seccomp.Rules, calls []policies.LearntCall) []string {
	var names []string
	for _, c := range calls {
		if !rules.AllowsRule(c.Rule) {
			names = append(names, c.Rule.String())
		}
	}
	return names
}

// sayLearnt says in a few lines what was learnt. What was denied all the same
// has been said.
func (a *app) sayLearnt(l *learner, lesson *policies.Lesson, runErr error) {
	unit, base := l.prepared.plan.Unit, l.prepared.policy.Name
	learnt := "learnt " + counted(uint64(len(lesson.Calls)), "system call")
	if l.earlier != nil {
		learnt += fmt.Sprintf(", %d of them new", len(notAllowed(l.earlier, lesson.Calls)))
	}
	fmt.Fprintf(a.stderr, "purple: %s: %s; the profile is %s\n", unit, learnt, l.file)
	if beyond := notAllowed(l.base, lesson.Calls); len(beyond) > 0 {
		const width = 400
		fmt.Fprintf(a.stderr, "  %s does not allow %d of them: %s\n", base, len(beyond), journal.Cut(strings.Join(beyond, ", "), width))
	}
	if status := exitStatus(runErr); status != 0 {
		fmt.Fprintf(a.stderr, "  the command has ended with status %d: what it did not get to do is not in the profile\n", status)
	}
}
