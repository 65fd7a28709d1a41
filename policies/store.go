package policies

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is one directory of profiles, NAME.yaml each.
type Dir struct {
	Path     string
	Source   string // what to call it: "system", "package", "user"
	Writable bool   // Create and Delete work in the first one that is
}

// Holds tells whether a path is one of a file right in the directory. It must be written
// so: with links on the way "link/../../etc/purple/policies" leads somewhere else than its
// text says.
func (d Dir) Holds(unsafePath string) bool {
	return unsafePath == filepath.Join(d.Path, filepath.Base(unsafePath))
}

// What the Source of a profile may be.
const (
	SourceBuiltin = "built-in" // part of purple
	SourceSystem  = "system"   // the administrator's
	SourcePackage = "package"
	SourceUser    = "user"
	SourceFile    = "file" // named by its path
)

// SystemDirs are the directories whose files are root's own. Only root changes them.
func SystemDirs() []Dir {
	return []Dir{{Path: "/etc/purple/policies", Source: SourceSystem}, {Path: "/usr/share/purple/policies", Source: SourcePackage}}
}

func userDir(home string) Dir {
	return Dir{Path: filepath.Join(home, ".config/purple/policies"), Source: SourceUser, Writable: true}
}

// RootsDirs are the directories that root's profiles are found in, the first that has
// a name wins.
func RootsDirs() []Dir {
	dirs := SystemDirs()
	dirs[0].Writable = true
	return dirs
}

// UsersDirs are the directories of a user's profiles: their own come first.
func UsersDirs(home string) []Dir { return slices.Concat([]Dir{userDir(home)}, SystemDirs()) }

// DirsBehindSudo are those of root's for a user behind sudo: no profile of theirs has
// the name of an administrator's, which sudoers may give away, or of a package's.
func DirsBehindSudo(home string) []Dir { return append(SystemDirs(), userDir(home)) }

// Rights calls a function with certain rights to files, and returns its error.
type Rights func(func() error) error

func ownRights(f func() error) error { return f() }

// Store finds profiles by name: in its directories, in their order, and then
// among the built-in ones.
type Store struct {
	dirs    []Dir
	guard   guard
	callers Rights // for files that the caller names or owns
}

// NewStore returns a Store that believes files of root and of this process's
// user.
func NewStore(dirs ...Dir) *Store {
	return &Store{dirs: dirs, guard: guard{owners: []uint32{uint32(os.Geteuid())}}, callers: ownRights}
}

// For makes the Store one of another user's, the one behind sudo: it believes their
// files too, and reads or writes what they name or own with their rights alone. What it
// shows of a file, in an error too, they may read themselves.
func (s *Store) For(uid uint32, theirs Rights) {
	s.guard.owners = append(s.guard.owners, uid)
	s.callers = theirs
}

// rights are those with which a directory, and what is in it, is used.
func (s *Store) rights(dir Dir) Rights {
	if dir.Source == SourceUser {
		return s.callers
	}
	return ownRights
}

// dirOf is the directory of the Store that a file lies in; without one it is nowhere in
// particular, which is the caller's to name.
func (s *Store) dirOf(file string) Dir {
	for _, dir := range s.dirs {
		if dir.Holds(file) {
			return dir
		}
	}
	return Dir{Source: SourceUser}
}

// Profile is a profile as it was written.
type Profile struct {
	Name    string // as it was asked for; empty when asked for by path
	Source  string // of its Dir, SourceBuiltin, or "file" for one by path
	File    string // as errors name it
	Content []byte
}

// Load reads the profile that arg names, by path if it has a slash, with all
// that it extends. It changes nothing. A mistake in a profile is an Errors.
func (s *Store) Load(arg string) (*Policy, error) {
	profile, err := s.Read(arg)
	if err != nil {
		return nil, err
	}
	return s.Parse(profile.Name, profile.File, profile.Content)
}

// Parse is Parse, with the Store's profiles for "extends".
func (s *Store) Parse(name, file string, content []byte) (*Policy, error) {
	return parse(name, file, content, func(by []string, name string) (string, []byte, error) {
		profile, err := s.forChain(by).find(name)
		return profile.File, profile.Content, err
	})
}

// forChain is the Store in which the next parent of a chain of profiles is found. What
// root's profile extends is root's: a user's of that name would loosen it for who is
// given that profile alone.
func (s *Store) forChain(by []string) *Store {
	isRoots := func(file string) bool { return s.dirOf(file).Source != SourceUser }
	if !slices.ContainsFunc(by, isRoots) {
		return s
	}
	roots := *s
	roots.dirs = slices.DeleteFunc(slices.Clone(s.dirs), func(d Dir) bool { return d.Source == SourceUser })
	return &roots
}

// Read returns the profile that arg names, unparsed.
func (s *Store) Read(arg string) (Profile, error) {
	if strings.Contains(arg, "/") {
		return s.ReadFile(arg)
	}
	return s.find(arg)
}

// ReadFile returns the profile in a file. The error is fs.ErrNotExist if there
// is none.
func (s *Store) ReadFile(unsafePath string) (Profile, error) {
	// As a built-in one it would be believed like one.
	if IsBuiltin(unsafePath) {
		unsafePath = "./" + unsafePath
	}
	content, err := s.read(s.dirOf(unsafePath), unsafePath)
	return Profile{Source: SourceFile, File: unsafePath, Content: content}, err
}

func (s *Store) read(dir Dir, unsafePath string) (content []byte, err error) {
	err = s.rights(dir)(func() (err error) {
		content, err = s.guard.read(unsafePath)
		return err
	})
	return content, err
}

func (s *Store) find(name string) (Profile, error) {
	if err := ValidateName(name); err != nil {
		return Profile{}, err
	}
	for _, dir := range s.dirs {
		profile, err := s.findIn(dir, name)
		if !errors.Is(err, fs.ErrNotExist) {
			return profile, err
		}
	}
	if file, content, ok := builtin(name); ok {
		return Profile{name, SourceBuiltin, file, content}, nil
	}
	return Profile{}, s.notFound(name)
}

func (s *Store) findIn(dir Dir, name string) (Profile, error) {
	file := filepath.Join(dir.Path, name+".yaml")
	content, err := s.read(dir, file)
	return Profile{name, dir.Source, file, content}, err
}

func (s *Store) notFound(name string) error {
	var places []string
	names := Builtins()
	for _, dir := range s.dirs {
		places = append(places, dir.Path)
		names = append(names, s.namesIn(dir)...)
	}
	places = append(places, "the built-in profiles")
	return fmt.Errorf("there is no profile %q%s: looked in %s; \"purple profile list\" shows all, \"purple profile create %s\" makes it",
		name, didYouMean(name, names), strings.Join(places, ", "), name)
}

// namesIn are the names of the profiles in a directory; none if it cannot be
// read.
func (s *Store) namesIn(dir Dir) []string {
	var entries []os.DirEntry
	err := s.rights(dir)(func() (err error) {
		entries, err = os.ReadDir(dir.Path)
		return err
	})
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && validName(name) {
			names = append(names, name)
		}
	}
	return names
}

// Entry is one line of a list of profiles.
type Entry struct {
	Name        string `json:"name"`
	Source      string `json:"source"`
	File        string `json:"file"`
	Description string `json:"description"`
	Error       string `json:"error,omitempty"` // why it cannot be used
}

// List returns every profile that Load would find by name, sorted by name. One
// that is broken is there with its Error.
func (s *Store) List() []Entry {
	names := Builtins()
	for _, dir := range s.dirs {
		names = append(names, s.namesIn(dir)...)
	}
	slices.Sort(names)
	var entries []Entry
	for _, name := range slices.Compact(names) {
		entries = append(entries, s.entry(name))
	}
	return entries
}

func (s *Store) entry(name string) Entry {
	entry := Entry{Name: name}
	profile, err := s.find(name)
	entry.Source, entry.File = profile.Source, profile.File
	var policy *Policy
	if err == nil {
		policy, err = s.Parse(name, profile.File, profile.Content)
	}
	if err != nil {
		entry.Error = err.Error()
		return entry
	}
	entry.Description = policy.Description
	return entry
}

// Create writes a new profile into the first writable directory, made if need
// be, and returns the file's path. The content must be a valid profile of that
// name. An existing file is never replaced; on an error nothing has changed.
func (s *Store) Create(name string, content []byte) (string, error) {
	if err := ValidateName(name); err != nil {
		return "", err
	}
	target, err := s.writable()
	if err != nil {
		return "", err
	}
	file := filepath.Join(target.Path, name+".yaml")
	if first := s.foundBefore(target, name); first != "" {
		return "", fmt.Errorf("cannot create profile %q: %q is found before it; choose another name", name, first)
	}
	if _, err := s.Parse(name, file, content); err != nil {
		return "", err
	}
	err = s.rights(target)(func() error { return s.writeIn(target, name+".yaml", content) })
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("profile %q exists already (%s): nothing was changed; \"purple profile delete %s\" first to replace it", name, file, name)
	}
	if err != nil {
		return "", fmt.Errorf("cannot create profile %q: %w", name, err)
	}
	return file, nil
}

// foundBefore is the file of a name that is found before the one in target; empty: none.
func (s *Store) foundBefore(target Dir, name string) string {
	for _, dir := range s.dirs {
		if dir == target {
			return ""
		}
		if file := filepath.Join(dir.Path, name+".yaml"); s.isThere(dir, file) {
			return file
		}
	}
	return ""
}

func (s *Store) writeIn(target Dir, base string, content []byte) error {
	if err := os.MkdirAll(target.Path, 0o755); err != nil {
		return fmt.Errorf("cannot make the directory for profiles %q: %w", target.Path, cause(err))
	}
	dir, err := s.openDir(target.Path)
	if err != nil {
		return err
	}
	return errors.Join(writeNew(dir, base, content), dir.Close())
}

func (s *Store) writable() (Dir, error) {
	for _, dir := range s.dirs {
		if dir.Writable {
			return dir, nil
		}
	}
	return Dir{}, errors.New("internal error: no directory for profiles is writable")
}

// openDir opens a directory that holds, or will hold, profiles: one that others
// may change is refused now, because what is in it would be refused later.
func (s *Store) openDir(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the directory for profiles %q: %w", path, cause(err))
	}
	place, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err == nil {
		err = s.guard.checkPlace(place, 1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot use the directory for profiles %q: %w", path, err), dir.Close())
	}
	return dir, nil
}

// Delete removes a profile from the first writable directory and returns the
// file's path. It removes a link or a broken file just as well, and never what
// a link leads to. A profile of another directory is refused with the reason.
func (s *Store) Delete(name string) (string, error) {
	if err := ValidateName(name); err != nil {
		return "", err
	}
	target, err := s.writable()
	if err != nil {
		return "", err
	}
	file := filepath.Join(target.Path, name+".yaml")
	if !s.isThere(target, file) {
		return "", s.notDeletable(name, target)
	}
	return file, s.rights(target)(func() error { return s.deleteIn(target, name+".yaml") })
}

func (s *Store) deleteIn(target Dir, base string) error {
	dir, err := s.openDir(target.Path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Unlinkat(int(dir.Fd()), base, 0); err != nil {
		return fmt.Errorf("cannot delete the profile %q: %w", filepath.Join(target.Path, base), err)
	}
	return dir.Sync()
}

// isThere is false only where there surely is no such file.
func (s *Store) isThere(dir Dir, file string) bool {
	err := s.rights(dir)(func() error {
		_, err := os.Lstat(file)
		return err
	})
	return !errors.Is(err, fs.ErrNotExist)
}

// notDeletable tells why a profile that is not in the writable directory
// cannot be deleted.
func (s *Store) notDeletable(name string, target Dir) error {
	for _, dir := range s.dirs {
		file := filepath.Join(dir.Path, name+".yaml")
		if !s.isThere(dir, file) {
			continue
		}
		why := "it came with a package: remove that"
		switch dir.Source {
		case SourceSystem:
			why = "it is the administrator's: delete it as root, with --system behind sudo"
		case SourceUser:
			why = "it is your own: leave --system out"
		}
		return fmt.Errorf("cannot delete profile %q (%s): %s; \"purple profile create %s\" makes one of your own that is used instead", name, file, why, name)
	}
	if _, _, ok := builtin(name); ok {
		return fmt.Errorf("cannot delete profile %q: it is built into purple, there is no file; \"purple profile create %s\" makes one of your own that is used instead", name, name)
	}
	return fmt.Errorf("there is no profile %q in %s%s", name, target.Path, didYouMean(name, s.namesIn(target)))
}
