package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newPlanCommand(a *app) *cobra.Command {
	var req request
	var format string
	cmd := &cobra.Command{
		Use:   "plan [flags] -- COMMAND [ARGUMENT]...",
		Short: "Show what run would do, and which line of the profile asks for it",
		Long: `Show what run would do, and which line of the profile asks for it.

The plan is made by the code that run uses, and nothing is started. It needs
neither root nor systemd; what only root can know is said in it.`,
		Example: `  purple plan --profile ai-dev-safe -- python3 agent.py
  purple plan --format=unit -- make`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			req.argv, req.planOnly = args, true
			return a.plan(req, format)
		},
	}
	req.addFlags(cmd)
	cmd.Flags().StringVar(&format, "format", "text", "text, json, unit (a unit file), seccomp (the filter) or nft (the ruleset)")
	return cmd
}

func (a *app) plan(req request, format string) error {
	if a.json {
		format = "json"
	}
	print, ok := planFormats[format]
	if !ok {
		return fmt.Errorf("cannot print the plan as %q: the formats are text, json, unit, seccomp and nft", format)
	}
	p, err := a.prepare(req)
	if err != nil {
		return err
	}
	text, err := print(p)
	if err != nil {
		return err
	}
	to := a.out()
	if format == "json" {
		to = a.stdout // it is escaped as JSON
	}
	_, err = fmt.Fprint(to, text)
	return err
}

var planFormats = map[string]func(*prepared) (string, error){
	"text": func(p *prepared) (string, error) { return p.plan.Text(), nil },
	"json": func(p *prepared) (string, error) {
		b, err := p.plan.JSON()
		return string(b) + "\n", err
	},
	"unit": func(p *prepared) (string, error) { return p.plan.UnitFile(), nil },
	"seccomp": func(p *prepared) (string, error) {
		program, err := p.program()
		if err != nil {
			return "", err
		}
		return program.Listing(), nil
	},
	"nft": func(p *prepared) (string, error) {
		if p.plan.Network == nil {
			return "", errors.New("cannot print a ruleset: the network is isolated, there is nothing to filter")
		}
		return p.plan.Network.Rules.Text(), nil
	},
}
