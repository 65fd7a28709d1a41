package host

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
)

// VisibleError says that the command cannot be started as it was given.
// Status is purple's exit status.
type VisibleError struct {
	Status int
	Text   string
}

func (e *VisibleError) Error() string { return e.Text }

func notFound(format string, args ...any) error {
	return &VisibleError{spec.StatusNotFound, fmt.Sprintf(format, args...)}
}

func notExecutable(format string, args ...any) error {
	return &VisibleError{spec.StatusNotExecutable, fmt.Sprintf(format, args...)}
}

// Lookup is what a command's name means something in. The caller's PATH and
// directory are for hints only.
type Lookup struct {
	Path string // the command's PATH
	Dir  string // where the command starts, as the sandbox sees it

	CallerPath string // the caller's PATH, or empty
	CallerDir  string // where the caller stands, on the host
}

// abs makes a sandbox path absolute: an empty or relative entry of PATH counts
// from the command's directory.
func (l Lookup) abs(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(l.Dir, name)
}

// Command finds what argv0 means in the sandbox and makes sure that it can be
// started: the file, its ELF interpreter, the interpreters of its #! line. It
// returns the sandbox path. The error is a *VisibleError.
func (v View) Command(argv0 string, l Lookup) (string, error) {
	if argv0 == "" {
		return "", notFound("cannot run an empty command name")
	}
	if !strings.Contains(argv0, "/") {
		return v.search(argv0, l, 0)
	}
	name := l.abs(argv0)
	if _, hidden := v.host(name); hidden != nil {
		return "", v.missing(argv0, name, hidden, l)
	}
	return name, v.executable(name, l, 0)
}

// missing explains a command that was named by its path.
func (v View) missing(argv0, name string, hidden *hiddenError, l Lookup) error {
	if v.named(name).exists() && v.onHost(hidden) {
		return notFound("cannot find %q in the sandbox: add %q to filesystem.immutable_paths, or call purple in its folder with `filesystem.workspace: read-only`", argv0, path.Dir(hidden.at))
	}
	if on := path.Join(l.CallerDir, argv0); !path.IsAbs(argv0) && v.named(on).isExecutable() {
		return notFound("cannot find %q in the sandbox, where the command starts in %q: write `filesystem.workspace: read-only` in the profile, or call purple with `--workspace %s`", argv0, l.Dir, path.Dir(on))
	}
	return notFound("cannot find %q", argv0)
}

// search looks in PATH as execvp(3) does: the first that can be executed.
func (v View) search(name string, l Lookup, depth int) (string, error) {
	found := ""
	for _, dir := range strings.Split(l.Path, ":") {
		file := l.abs(path.Join(dir, name))
		source, hidden := v.host(file)
		if hidden != nil {
			continue
		}
		if source.isExecutable() {
			return file, v.executable(file, l, depth)
		}
		found = file
	}
	if found != "" {
		return "", notExecutable("cannot execute %q: it is not an executable file", found)
	}
	return "", v.elsewhere(name, l)
}

// elsewhere says where the host has a command that the sandbox's PATH has not.
func (v View) elsewhere(name string, l Lookup) error {
	inside := strings.Split(l.Path, ":")
	for _, dir := range append(inside, strings.Split(l.CallerPath, ":")...) {
		on := path.Join(dir, name)
		if !path.IsAbs(on) || !v.named(on).isExecutable() {
			continue
		}
		byName := ""
		if !slices.Contains(inside, dir) {
			byName = fmt.Sprintf(" and call it %q", on)
		}
		_, hidden := v.host(on)
		switch {
		case hidden == nil:
			return notFound("cannot find %q in %s: call it %q", name, l.Path, on)
		case v.onHost(hidden):
			return notFound("cannot find %q in the sandbox; on this machine it is %q: add %q to filesystem.immutable_paths%s", name, on, path.Dir(hidden.at), byName)
		}
	}
	return notFound("cannot find %q in %s", name, l.Path)
}

// maxInterpreters is the kernel's limit of nested #! lines (execve(2)).
const maxInterpreters = 4

// executable follows the interpreters of a visible file.
func (v View) executable(name string, l Lookup, depth int) error {
	source, hidden := v.host(name)
	if hidden != nil {
		return notFound("cannot find %q", name)
	}
	if !source.isExecutable() {
		return notExecutable("cannot execute %q: it is not an executable file", name)
	}
	interpreter, argument, err := interpreterOf(source)
	if err != nil || interpreter == "" {
		return err
	}
	if depth == maxInterpreters {
		return notExecutable("cannot execute %q: too many interpreters", name)
	}
	interpreter = l.abs(interpreter)
	if _, hidden := v.host(interpreter); hidden != nil {
		return v.withoutInterpreter(name, interpreter, hidden)
	}
	if program := envProgram(interpreter, argument); program != "" {
		if _, err := v.search(program, l, depth+1); err != nil {
			return err
		}
	}
	return v.executable(interpreter, l, depth+1)
}

func (v View) withoutInterpreter(name, interpreter string, hidden *hiddenError) error {
	if !v.onHost(hidden) {
		return notFound("cannot execute %q: its interpreter %q does not exist", name, interpreter)
	}
	return notFound("cannot execute %q: its interpreter %q is not visible in the sandbox; add %q to filesystem.immutable_paths", name, interpreter, path.Dir(hidden.at))
}

// interpreterOf reads a #! line, with its argument, or an ELF program's
// PT_INTERP; empty: none. What cannot be read is left to execve to refuse.
func interpreterOf(source place) (interpreter, argument string, err error) {
	f, err := source.open()
	if errors.Is(err, fs.ErrPermission) {
		return "", "", nil // it may be executed all the same: execve tells
	}
	if err != nil {
		return "", "", notExecutable("cannot execute %q: %v", source.path, err)
	}
	defer f.Close()
	head, _ := bufio.NewReaderSize(f, 256).Peek(256)
	line, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return elfInterpreter(f), "", nil
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	interpreter = strings.Trim(string(line), " \t")
	if i := strings.IndexAny(interpreter, " \t"); i > 0 {
		interpreter, argument = interpreter[:i], strings.TrimSpace(interpreter[i:])
	}
	return interpreter, argument, nil
}

func elfInterpreter(f *os.File) string {
	program, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz == 0 || p.Filesz > 4096 {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err == nil {
			return strings.TrimRight(string(name), "\x00")
		}
	}
	return ""
}

// envProgram is the program that `#!/usr/bin/env NAME` looks up, or empty where
// that needs more of env(1)'s rules than -S.
func envProgram(interpreter, argument string) string {
	if path.Base(interpreter) != "env" {
		return ""
	}
	words := strings.Fields(argument)
	if len(words) > 1 && words[0] == "-S" {
		words = words[1:]
	}
	if len(words) == 0 || strings.ContainsAny(words[0], "-=/\\\"'$") {
		return ""
	}
	return words[0]
}
