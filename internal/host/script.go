package host

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
)

// interpreter is a program whose first plain argument is a script.
type interpreter struct {
	names []string // without a version
	// inline are the one-letter options that take the program from the
	// command line: after them there is no script.
	inline string
	// subcommand comes before the script, where there is one.
	subcommand string
}

var interpreters = []interpreter{
	{names: []string{"bash", "dash", "ksh", "sh", "zsh"}, inline: "cs"},
	{names: []string{"python", "pypy"}, inline: "cm"},
	{names: []string{"node", "nodejs"}, inline: "ep"},
	{names: []string{"deno", "bun"}, inline: "e", subcommand: "run"},
	{names: []string{"perl"}, inline: "eE"},
	{names: []string{"ruby"}, inline: "e"},
	{names: []string{"php"}, inline: "r"},
	{names: []string{"lua", "luajit"}, inline: "e"},
}

// Script makes sure that the script which an interpreter is given is visible:
// its own complaint would not say why. The error is a *VisibleError. Only the
// script is looked at, and no file that it opens.
func (v View) Script(argv [][]byte, l Lookup) error {
	script := scriptOf(argv, func(name string) bool { return v.named(callerPath(name, l)).isRegular() })
	if script == "" {
		return nil
	}
	inside, on := l.abs(script), callerPath(script, l)
	// /dev/stdin and its like are the sandbox's own.
	if below("/dev", inside) || below("/proc", inside) {
		return nil
	}
	if _, hidden := v.host(inside); hidden == nil {
		return nil
	}
	dir := path.Dir(on)
	return &VisibleError{spec.StatusRefused, fmt.Sprintf("cannot see the script %q in the sandbox: write `filesystem.workspace: read-only` in the profile and call purple in %q, or call it with `--workspace %s`, or add %q to filesystem.immutable_paths", script, dir, dir, dir)}
}

func callerPath(name string, l Lookup) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(l.CallerDir, name)
}

// scriptOf is the script of a command line, or empty: the command is no
// interpreter, takes its program from elsewhere, or is given no file that
// exists, which it says best itself.
func scriptOf(argv [][]byte, exists func(string) bool) string {
	name := strings.TrimRight(path.Base(string(argv[0])), "0123456789.")
	i := slices.IndexFunc(interpreters, func(in interpreter) bool { return slices.Contains(in.names, name) })
	if i < 0 {
		return ""
	}
	in, args := interpreters[i], argv[1:]
	if in.subcommand != "" && len(args) > 0 && string(args[0]) == in.subcommand {
		args = args[1:]
	}
	afterOption := false
	for i, arg := range args {
		a := string(arg)
		switch {
		case a == "--" && i+1 < len(args):
			return existing(string(args[i+1]), exists)
		case a == "-" || in.isInline(a):
			return ""
		case strings.HasPrefix(a, "-"):
			afterOption = true
		case afterOption && !exists(a):
			afterOption = false // the option's value: python3 -W ignore agent.py
		default:
			return existing(a, exists)
		}
	}
	return ""
}

func existing(name string, exists func(string) bool) string {
	if !exists(name) {
		return ""
	}
	return name
}

// isInline tells whether one of a group of short options, as in -xc, ends the
// options with a program. A long option never does: --eval's value is no file.
func (in interpreter) isInline(option string) bool {
	return strings.HasPrefix(option, "-") && !strings.HasPrefix(option, "--") && strings.ContainsAny(option[1:], in.inline)
}
