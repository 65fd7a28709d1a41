package host

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/purple-sandbox/purple/internal/spec"
)

// View answers what a sandbox will see, before it exists: it follows a path as
// the command would, through the planned mounts. It is help for the user and
// guards nothing: files may change until the command starts.
type View struct {
	mounts []spec.Mount
}

// NewView makes the view of a plan's mounts.
func NewView(s *spec.Spec) View { return View{mounts: s.Mounts} }

// maxLinks is the kernel's limit (path_resolution(7)).
const maxLinks = 40

// hiddenError says where the way of a path ends in the sandbox: at, a sandbox
// path without links, is in no mount, or not there.
type hiddenError struct{ at string }

func (e *hiddenError) Error() string { return e.at + " is not visible in the sandbox" }

// onHost tells whether the host has what the sandbox lacks.
func (e *hiddenError) onHost() bool {
	_, err := os.Lstat(e.at)
	return err == nil
}

// host gives the host path behind an absolute sandbox path, links followed as
// inside.
func (v View) host(sandboxPath string) (string, *hiddenError) {
	at := "/"
	rest := strings.Split(sandboxPath, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		target, err := v.readlink(next)
		if err != nil {
			return "", err
		}
		if target == "" {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &hiddenError{next}
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	source, ok := v.source(at)
	if !ok {
		return "", &hiddenError{at}
	}
	return source, nil
}

// readlink gives the target of a link, and empty for all else. A directory of
// the skeleton is none, and neither is a mount point: the link that a bind may
// be given as is followed on the host.
func (v View) readlink(name string) (string, *hiddenError) {
	source, ok := v.source(name)
	if !ok {
		return "", nil
	}
	info, err := os.Lstat(source)
	if err != nil {
		return "", &hiddenError{name}
	}
	if info.Mode()&fs.ModeSymlink == 0 || v.isMountPoint(name) {
		return "", nil
	}
	target, err := os.Readlink(source)
	if err != nil {
		return "", &hiddenError{name}
	}
	return target, nil
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

func (v View) isMountPoint(name string) bool {
	return slices.ContainsFunc(v.mounts, func(m spec.Mount) bool { return m.Target == name })
}

func below(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}
