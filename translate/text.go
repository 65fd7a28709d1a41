package translate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Line is one statement of a plan and what causes it.
type Line struct {
	Section   string `json:"section"`
	Statement string `json:"statement"`
	Where     string `json:"where"` // a place in a profile, "default", or "purple"
	Key       string `json:"key,omitempty"`
	Why       string `json:"why,omitempty"`
}

// Lines are the whole plan as statements, each with its cause.
func (p *Plan) Lines() []Line {
	var lines []Line
	for _, prop := range p.Properties {
		l := Line{Section: "unit", Statement: prop.File + "=" + prop.Text, Where: "purple", Key: prop.Key, Why: prop.Why}
		if prop.Key != "" {
			l.Where = prop.Where.String()
		}
		lines = append(lines, l)
	}
	lines = append(lines, p.sandbox...)
	slices.SortStableFunc(lines, func(x, y Line) int { return slices.Index(sections, x.Section) - slices.Index(sections, y.Section) })
	return lines
}

var sections = []string{"unit", "mounts", "sandbox"}

// Text is the plan for a reader.
func (p *Plan) Text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", p.Unit)
	section := ""
	for _, l := range p.Lines() {
		if l.Section != section {
			section = l.Section
			fmt.Fprintf(&out, "\n[%s]\n", section)
		}
		fmt.Fprintf(&out, "%-60s # %s\n", l.Statement, l.cause())
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&out, "\n%v\n", w)
	}
	return out.String()
}

func (l Line) cause() string {
	if l.Key == "" {
		return l.Why
	}
	return strings.TrimSpace(l.Where + " " + l.Key)
}

// JSON is the plan for a program.
func (p *Plan) JSON() ([]byte, error) {
	warnings := []string{}
	for _, w := range p.Warnings {
		warnings = append(warnings, w.String())
	}
	return json.MarshalIndent(struct {
		Unit     string   `json:"unit"`
		Lines    []Line   `json:"lines"`
		Warnings []string `json:"warnings"`
	}{p.Unit, p.Lines(), warnings}, "", "  ")
}

// UnitFile is the same service as a unit file, each setting with its cause.
// It shows what systemd is asked for; the rest, the spec, reaches purple-init
// over a socket that only `purple run` makes.
func (p *Plan) UnitFile() string {
	var unit, service strings.Builder
	for _, prop := range p.Properties {
		out := &service
		if prop.Name == "Description" || prop.Name == "CollectMode" {
			out = &unit
		}
		l := Line{Where: prop.Where.String(), Key: prop.Key, Why: prop.Why}
		fmt.Fprintf(out, "# %s\n%s=%s\n", l.cause(), prop.File, prop.Text)
	}
	return fmt.Sprintf("# %s, to be read: the sandbox itself reaches purple-init over a socket of `purple run`.\n[Unit]\n%s\n[Service]\nStandardInput=null\n%s", p.Unit, unit.String(), service.String())
}
