package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/purple-sandbox/purple/internal/host"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/spf13/cobra"
)

func newDoctorCommand(a *app) *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Say what this machine has of what a run needs, and how to get the rest",
		Long: `Say, a line each, what a run needs of this machine and whether it is there:
ok, missing, or broken; what does not work without it, and what mends it. Root is
told of the system manager, anybody else of their own.

It changes nothing. The exit status is 0 if the profile could run here, 1 if not,
125 if that could not be found out. What a run refuses is what stands here with a
"!" in front.`,
		Example: `  purple doctor
  purple doctor --profile offline --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context(), profile) },
	}
	cmd.Flags().StringVarP(&profile, "profile", "p", defaultProfile, "profile, by name or, with a slash, by path")
	return cmd
}

// doctorTime bounds what is asked of other programs.
const doctorTime = 30 * time.Second

func (a *app) doctor(ctx context.Context, profile string) error {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	d, err := a.domain()
	if err != nil {
		return err
	}
	store, err := a.store()
	if err != nil {
		return err
	}
	policy, err := store.Load(profile)
	if err != nil {
		return err
	}
	command := translate.Command{Dir: "/", RootsFiles: rootsFiles(policy)}
	if command.Invoker, err = invoker(); err != nil {
		return err
	}
	facts, err := completeFacts(d.probe(), policy, command)
	if err != nil {
		return err
	}
	if policy.Network.Isolated { // what another profile would need is told, too
		if facts.Network, err = host.ProbeNetwork(); err != nil {
			return err
		}
	}
	checks := translate.Examine(policy, facts, survey(ctx, d, facts))
	if err := a.printChecks(d, policy, checks); err != nil {
		return err
	}
	if !translate.CouldRun(checks) {
		return &statusError{status: 1}
	}
	return nil
}

// survey asks the manager, purple-init and pasta.
func survey(ctx context.Context, d domain, facts host.Facts) host.Survey {
	s := host.ProbeSurvey()
	s.Lingers = host.Lingers(userName())
	s.JournalReadable = d.mayReadJournal()
	if manager, err := d.connect(ctx); err != nil {
		s.ManagerError = err.Error()
	} else {
		defer manager.Close()
		if s.Version, err = manager.Version(); err != nil {
			s.ManagerError = err.Error()
		}
	}
	if err := try(ctx, &s); err != nil {
		s.HelperError = err.Error()
	}
	if facts.Network.Pasta != "" {
		// The first line of pasta 0.0~git20230309 in Debian 12 is "pasta unknown version".
		out, err := exec.CommandContext(ctx, facts.Network.Pasta, "--version").Output()
		if line, _, _ := strings.Cut(string(out), "\n"); err == nil {
			s.PastaVersion = strings.TrimPrefix(line, "pasta ")
		}
	}
	return s
}

func userName() string {
	i, err := invoker()
	if err != nil {
		return ""
	}
	return i.Name
}

// try has purple-init build the start of a sandbox.
func try(ctx context.Context, s *host.Survey) error {
	program, err := helperPath("purple-init")
	if err != nil {
		return err
	}
	helper, err := helperPath("purple-net")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "trial", helper)
	cmd.Env = []string{}
	var said, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &failed
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%q: %w: %s", program, err, strings.TrimSpace(failed.String()))
	}
	for line := range strings.Lines(said.String()) {
		what, why, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch what {
		case "namespaces":
			s.NamespacesError, s.ProcError, s.RulesError = why, notTried, notTried
		case "proc":
			s.ProcError = why
		case "rules":
			s.RulesError = why
		default:
			return fmt.Errorf("%q says %q", program, line)
		}
	}
	return nil
}

const notTried = "not known, as there are no namespaces to try it in"

// shownCheck is a check in JSON: docs/doctor.md has its fields.
type shownCheck struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"`
	Found   string `json:"found"`
	Cost    string `json:"cost,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
	Needed  bool   `json:"needed"`
}

type shownDoctor struct {
	Manager  string       `json:"manager"`
	Profile  string       `json:"profile"`
	CouldRun bool         `json:"could_run"`
	Checks   []shownCheck `json:"checks"`
}

func (a *app) printChecks(d domain, policy *policies.Policy, checks []translate.Check) error {
	if a.json {
		shown := shownDoctor{Manager: string(d.kind), Profile: policy.Name, CouldRun: translate.CouldRun(checks), Checks: []shownCheck{}}
		for _, c := range checks {
			shown.Checks = append(shown.Checks, shownCheck{c.Name, string(c.Verdict), c.Found, c.Cost, c.Remedy, c.Needed})
		}
		return printJSON(a.stdout, shown)
	}
	_, err := fmt.Fprint(a.out(), checksText(d, policy.Name, checks))
	return err
}

func checksText(d domain, profile string, checks []translate.Check) string {
	var out strings.Builder
	for _, c := range checks {
		mark := " "
		if c.Needed && c.Verdict != translate.OK {
			mark = "!"
		}
		fmt.Fprintf(&out, "%s %-7s  %-20s  %s\n", mark, c.Verdict, c.Name, c.Found)
		if c.Verdict != translate.OK {
			fmt.Fprintf(&out, "%11s%-20s  without it: %s\n%11s%-20s  to mend it: %s\n", "", "", c.Cost, "", "", c.Remedy)
		}
	}
	could := "could run here"
	if !translate.CouldRun(checks) {
		could = "could not run here: see the lines with !"
	}
	fmt.Fprintf(&out, "\nprofile %s, %s manager: %s\n", profile, d.kind, could)
	return out.String()
}

// warnOfLinger says before a detached start that the run may not outlive the
// caller's session.
func (a *app) warnOfLinger(d domain) {
	if d.isUser() && !host.Lingers(userName()) {
		fmt.Fprintln(a.stderr, "purple: this run will end when you log out, with your systemd manager; `loginctl enable-linger` keeps both")
	}
}
