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
	// callers are the rights of who called, to all that their command line names: those
	// of the calling thread. The errors of a View say what is where.
	callers rights
	// roots are those with which the mounts of root's profiles are opened.
	roots rights
	// reached are the sources of mounts, and whether who called gets as far by themselves.
	reached map[string]bool
}

// rights calls a function with certain rights to files, and returns its error.
type rights func(func() error) error

// NewView makes the view of a plan's mounts, for a thread with the rights of who called.
// roots are the rights with which the sources of those mounts are opened that root's
// profiles ask for.
func NewView(s *spec.Spec, roots func(func() error) error) View {
	return View{mounts: s.Mounts, callers: ownRights, roots: roots, reached: map[string]bool{}}
}

func ownRights(f func() error) error { return f() }

// place is a path on the host, and the rights with which it is looked at.
type place struct {
	rights rights
	path   string
}

func (p place) lstat() (info fs.FileInfo, err error) {
	err = p.rights(func() (err error) {
		info, err = os.Lstat(p.path)
		return err
	})
	return info, err
}

func (p place) readlink() (target string, err error) {
	err = p.rights(func() (err error) {
		target, err = os.Readlink(p.path)
		return err
	})
	return target, err
}

func (p place) open() (f *os.File, err error) {
	err = p.rights(func() (err error) {
		f, err = os.Open(p.path)
		return err
	})
	return f, err
}

// stat follows links.
func (p place) stat() (info fs.FileInfo, err error) {
	err = p.rights(func() (err error) {
		info, err = os.Stat(p.path)
		return err
	})
	return info, err
}

func (p place) exists() bool {
	_, err := p.stat()
	return err == nil
}

func (p place) isRegular() bool {
	info, err := p.stat()
	return err == nil && info.Mode().IsRegular()
}

func (p place) isExecutable() bool {
	info, err := p.stat()
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// named is a path that the command line names.
func (v View) named(path string) place { return place{v.callers, path} }

// maxLinks is the kernel's limit (path_resolution(7)).
const maxLinks = 40

// hiddenError says where the way of a path ends in the sandbox: at, a sandbox
// path without links, is in no mount, or not there.
type hiddenError struct{ at string }

func (e *hiddenError) Error() string { return e.at + " is not visible in the sandbox" }

// onHost tells whether the host has, for who called, what the sandbox lacks.
func (v View) onHost(e *hiddenError) bool {
	_, err := v.named(e.at).lstat()
	return err == nil
}

// host gives the host path behind an absolute sandbox path, links followed as
// inside.
func (v View) host(sandboxPath string) (place, *hiddenError) {
	at := "/"
	rest := strings.Split(sandboxPath, "/")
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		target, err := v.readlink(next)
		if err != nil {
			return place{}, err
		}
		if target == "" {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return place{}, &hiddenError{next}
		}
		if path.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	source, ok := v.source(at)
	if !ok {
		return place{}, &hiddenError{at}
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
	info, err := source.lstat()
	if err != nil {
		return "", &hiddenError{name}
	}
	if info.Mode()&fs.ModeSymlink == 0 || v.isMountPoint(name) {
		return "", nil
	}
	target, err := source.readlink()
	if err != nil {
		return "", &hiddenError{name}
	}
	return target, nil
}

// source maps a sandbox path to the host's by the longest mount that holds it;
// false: the skeleton, a tmpfs, or nothing.
func (v View) source(name string) (place, bool) {
	best := -1
	for i, m := range v.mounts {
		if below(m.Target, name) && (best < 0 || len(m.Target) >= len(v.mounts[best].Target)) {
			best = i
		}
	}
	if best < 0 || v.mounts[best].Kind == spec.Tmpfs {
		return place{}, false
	}
	m := v.mounts[best]
	source := v.named(path.Join(m.Source, strings.TrimPrefix(name, m.Target)))
	if !m.AsOwner && !v.reaches(m.Source) {
		source.rights = v.roots
	}
	return source, true
}

// reaches tells whether who called gets to a mount's source without root's profile. Then
// what lies below it is looked at as they, and the command, could: not everything below
// /usr is for all.
func (v View) reaches(source string) bool {
	reached, known := v.reached[source]
	if !known {
		_, err := v.named(source).lstat()
		reached = err == nil
		v.reached[source] = reached
	}
	return reached
}

func (v View) isMountPoint(name string) bool {
	return slices.ContainsFunc(v.mounts, func(m spec.Mount) bool { return m.Target == name })
}

func below(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}
