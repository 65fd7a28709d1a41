package translate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/purple-sandbox/purple/internal/spec"
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
		l := prop.cause()
		for _, text := range prop.Text {
			l.Statement = prop.File + "=" + text
			lines = append(lines, l)
		}
	}
	lines = append(lines, p.sandbox...)
	slices.SortStableFunc(lines, func(x, y Line) int { return slices.Index(sections, x.Section) - slices.Index(sections, y.Section) })
	return lines
}

// cause is a line of the unit without its statement.
func (p Property) cause() Line {
	l := Line{Section: "unit", Where: "purple", Key: p.Key, Why: p.Why}
	if p.Key != "" {
		l.Where = p.Where.String()
	}
	return l
}

var sections = []string{"unit", "network", "mounts", "sandbox"}

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
		fmt.Fprintf(&out, "%-60s # %s\n", l.Statement, l.reason())
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(&out, "\n%v\n", w)
	}
	return out.String()
}

// reason is what stands behind a statement: the place in the profile and its
// key, or why. On one line, whatever a profile's file is called.
func (l Line) reason() string {
	if l.Key == "" {
		return l.Why
	}
	return printable(l.Where + " " + l.Key)
}

// printable quotes what would not show as it is: a folder may be called
// anything, and a plan is read on a terminal.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return strconv.Quote(s)
	}
	return s
}

// jsonPlan is the plan for a program: the parts as values, and the same lines
// that a reader gets. Neither the command's arguments nor a value of its
// environment is in it.
type jsonPlan struct {
	Unit         string         `json:"unit"`
	Properties   map[string]any `json:"properties"` // as D-Bus takes them
	Mounts       []jsonMount    `json:"mounts"`
	UID          uint32         `json:"uid"` // inside
	GID          uint32         `json:"gid"`
	HostUID      uint32         `json:"host_uid"`
	HostGID      uint32         `json:"host_gid"`
	Capabilities uint64         `json:"capabilities"` // a mask
	WriteOnly    []string       `json:"write_only"`
	Lines        []Line         `json:"lines"`
	Warnings     []string       `json:"warnings"`
}

type jsonMount struct {
	Kind   spec.MountKind `json:"kind"`
	Target string         `json:"target"`
	Source string         `json:"source,omitempty"`
	Size   uint64         `json:"size,omitempty"` // bytes
	Exec   bool           `json:"exec"`
}

// JSON is the plan for a program.
func (p *Plan) JSON() ([]byte, error) {
	id := p.Spec.Identity
	out := jsonPlan{
		Unit: p.Unit, UID: id.UID, GID: id.GID, HostUID: id.HostUID, HostGID: id.HostGID,
		Capabilities: p.Spec.Capabilities, WriteOnly: append([]string{}, p.Spec.WriteOnly...),
		Properties: map[string]any{}, Mounts: []jsonMount{}, Warnings: []string{}, Lines: p.Lines(),
	}
	for _, prop := range p.Properties {
		out.Properties[prop.Name] = prop.Value
	}
	for _, m := range p.Spec.Mounts {
		out.Mounts = append(out.Mounts, jsonMount{m.Kind, m.Target, m.Source, m.Size, m.Exec})
	}
	for _, w := range p.Warnings {
		out.Warnings = append(out.Warnings, w.String())
	}
	return json.MarshalIndent(out, "", "  ")
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
		fmt.Fprintf(out, "# %s\n", prop.cause().reason())
		for _, text := range prop.Text {
			fmt.Fprintf(out, "%s=%s\n", prop.File, text)
		}
	}
	if p.Network != nil {
		fmt.Fprintf(&service, "# NetworkNamespacePath= is that of a namespace which `purple run` makes.\n")
	}
	return fmt.Sprintf("# %s, to be read: the sandbox itself reaches purple-init over a socket of `purple run`.\n[Unit]\n%s\n[Service]\nStandardInput=null\n%s", p.Unit, unit.String(), service.String())
}
