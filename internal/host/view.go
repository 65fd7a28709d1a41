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

// View answers what a sandbox will see, before it exists: it follows a path as
// the command would, through the planned mounts.
type View struct {
	mounts []spec.Mount
	files  []spec.File
}

// NewView makes the view of a plan's mounts and generated files.
func NewView(s *spec.Spec) View { return View{mounts: s.Mounts, files: s.Files} }

// VisibleError says that the command cannot be started as it was given.
// Status is purple's exit status.
type VisibleError struct {
	Status int
	Text   string
}

func (e *VisibleError) Error() string { return e.Text }

// maxLinks is the kernel's limit (path_resolution(7)).
const maxLinks = 40

// errHidden: the path exists in no mount of the sandbox.
var errHidden = errors.New("not visible in the sandbox")

// host gives the host path behind a sandbox path, links followed as inside.
func (v View) host(sandboxPath string) (string, error) {
	at := "/"
	rest := strings.Split(sandboxPath, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		source, ok := v.source(next)
		if !ok {
			at = next // a directory of the skeleton, or nothing
			continue
		}
		info, err := os.Lstat(source)
		if err != nil {
			return "", errHidden
		}
		if info.Mode()&fs.ModeSymlink == 0 || v.isMountPoint(next) {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", errHidden
		}
		target, err := os.Readlink(source)
		if err != nil {
			return "", errHidden
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	source, ok := v.source(at)
	if !ok {
		return "", errHidden
	}
	return source, nil
}

// source maps a sandbox path to the host's by the longest mount that holds it;
// false: the skeleton, a tmpfs, or nothing.
func (v View) source(name string) (string, bool) {
	best := -1
	for i, m := range v.mounts {
		if below(m.Target, name) && (best < 0 || len(m.Target) >= len(v.mounts[best].Target)) {
			best = i
		}
	}
	if best < 0 || v.mounts[best].Kind == spec.Tmpfs {
		return "", false
	}
	m := v.mounts[best]
	return path.Join(m.Source, strings.TrimPrefix(name, m.Target)), true
}

// isMountPoint: a mount's source is opened by its host path, where a link is
// followed on the host and not in the sandbox.
func (v View) isMountPoint(name string) bool {
	return slices.ContainsFunc(v.mounts, func(m spec.Mount) bool { return m.Target == name })
}

func below(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// Command finds what argv0 means in the sandbox and makes sure that it can be
// started: the file, its ELF interpreter, the interpreter of its #! line. It
// returns the sandbox path. searchPath is the command's PATH, dir its
// directory.
func (v View) Command(argv0, searchPath, dir string) (string, error) {
	if argv0 == "" {
		return "", &VisibleError{spec.StatusNotFound, "cannot run an empty command name"}
	}
	if strings.Contains(argv0, "/") {
		name := argv0
		if !path.IsAbs(name) {
			name = path.Join(dir, name)
		}
		return name, v.executable(argv0, name, 0)
	}
	for _, d := range strings.Split(searchPath, ":") {
		name := path.Join(d, argv0)
		if source, err := v.host(name); err == nil && isExecutable(source) {
			return name, v.executable(argv0, name, 0)
		}
	}
	return "", notFound(argv0, searchPath)
}

func isExecutable(source string) bool {
	info, err := os.Stat(source)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// notFound says whether the host has the command where the sandbox has not.
func notFound(name, searchPath string) error {
	for _, d := range strings.Split(searchPath, ":") {
		if on := path.Join(d, name); isExecutable(on) {
			return &VisibleError{spec.StatusNotFound, fmt.Sprintf("cannot find %q in the sandbox; on this machine it is %q: add %q to filesystem.immutable_paths", name, on, d)}
		}
	}
	return &VisibleError{spec.StatusNotFound, fmt.Sprintf("cannot find %q in %s", name, searchPath)}
}

// maxInterpreters is the kernel's limit of nested #! lines (execve(2)).
const maxInterpreters = 4

func (v View) executable(argv0, name string, depth int) error {
	source, err := v.host(name)
	if err != nil {
		return hidden(argv0, name)
	}
	info, err := os.Stat(source)
	if err != nil {
		return hidden(argv0, name)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return &VisibleError{spec.StatusNotExecutable, fmt.Sprintf("cannot execute %q: it is not an executable file", name)}
	}
	interpreter, err := interpreterOf(source)
	if err != nil || interpreter == "" {
		return err
	}
	if depth == maxInterpreters {
		return &VisibleError{spec.StatusNotExecutable, fmt.Sprintf("cannot execute %q: too many interpreters", name)}
	}
	if _, err := v.host(interpreter); err != nil {
		return &VisibleError{spec.StatusNotFound, fmt.Sprintf("cannot execute %q: its interpreter %q is not visible in the sandbox; add %q to filesystem.immutable_paths", name, interpreter, path.Dir(interpreter))}
	}
	return v.executable(argv0, interpreter, depth+1)
}

func hidden(argv0, name string) error {
	if _, err := os.Stat(name); err == nil {
		return &VisibleError{spec.StatusNotFound, fmt.Sprintf("cannot find %q in the sandbox: add %q to filesystem.immutable_paths, or call purple in its folder with `filesystem.workspace: read-only`", argv0, path.Dir(name))}
	}
	return &VisibleError{spec.StatusNotFound, fmt.Sprintf("cannot find %q", argv0)}
}

// interpreterOf reads a #! line or an ELF program's PT_INTERP; empty: none.
// What cannot be read is left to execve to refuse.
func interpreterOf(source string) (string, error) {
	f, err := os.Open(source)
	if err != nil {
		return "", &VisibleError{spec.StatusNotExecutable, fmt.Sprintf("cannot execute %q: %v", source, err)}
	}
	defer f.Close()
	head, _ := bufio.NewReaderSize(f, 256).Peek(256)
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		fields := strings.Fields(string(line))
		if len(fields) == 0 {
			return "", nil
		}
		return fields[0], nil
	}
	return elfInterpreter(f), nil
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

// interpreters are the programs whose first plain argument is a script.
var interpreters = []string{"bash", "dash", "deno", "lua", "node", "perl", "php", "pypy3", "python", "python3", "ruby", "sh", "zsh"}

// Script makes sure that the script which an interpreter is given is visible.
// callerDir is where the caller stands, dir where the command starts.
func (v View) Script(argv [][]byte, callerDir, dir string) error {
	name := strings.TrimRight(path.Base(string(argv[0])), "0123456789.")
	if name != "python" && !slices.Contains(interpreters, path.Base(string(argv[0]))) && !slices.Contains(interpreters, name) {
		return nil
	}
	script, ok := firstPlain(argv[1:])
	if !ok {
		return nil
	}
	onHost, inside := script, script
	if !path.IsAbs(script) {
		onHost, inside = path.Join(callerDir, script), path.Join(dir, script)
	}
	info, err := os.Stat(onHost)
	if err != nil || !info.Mode().IsRegular() {
		return nil // the interpreter says so itself
	}
	if _, err := v.host(inside); err == nil {
		return nil
	}
	return &VisibleError{spec.StatusRefused, fmt.Sprintf("cannot see the script %q in the sandbox: write `filesystem.workspace: read-only` in the profile or call purple with `--workspace %s`, or add %q to filesystem.immutable_paths", script, path.Dir(onHost), path.Dir(onHost))}
}

// firstPlain is the first argument that is no option; none after -c, -e or -m,
// which take the program from the command line.
func firstPlain(args [][]byte) (string, bool) {
	for _, arg := range args {
		a := string(arg)
		if a == "-" || a == "--" {
			return "", false
		}
		if !strings.HasPrefix(a, "-") {
			return a, true
		}
		if strings.HasPrefix(a, "--") {
			continue
		}
		if strings.ContainsAny(a, "cemp") {
			return "", false
		}
	}
	return "", false
}
