package policies

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// testStore has a writable and a read-only directory.
func testStore(t *testing.T) (s *Store, user, system string) {
	t.Helper()
	root := t.TempDir()
	user, system = filepath.Join(root, "user"), filepath.Join(root, "system")
	for _, dir := range []string{user, system} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return NewStore(Dir{user, "user", true}, Dir{system, "system", false}), user, system
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	// Not left to the umask of whoever runs the tests.
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
}

func TestLoadRefusesUnsafeFiles(t *testing.T) {
	const profile = "description: x\n"
	tests := []struct {
		name, want string
		make       func(dir, file string) error
	}{
		{"others may write", "others may write to it (mode 0646)", func(_, file string) error { return os.Chmod(file, 0o646) }},
		{"the group may write", "others may write to it (mode 0664)", func(_, file string) error { return os.Chmod(file, 0o664) }},
		{"directory of all", "others may write to its directory", func(dir, _ string) error { return os.Chmod(dir, 0o777) }},
		{"directory of the group", "others may write to its directory", func(dir, _ string) error { return os.Chmod(dir, 0o775) }},
		{"directory above", "others may write to its directory", func(dir, _ string) error { return os.Chmod(filepath.Dir(dir), 0o777) }},
		{"second name in a sticky directory", "it has 2 names", func(dir, file string) error {
			return errors.Join(os.Link(file, file+"2"), os.Chmod(dir, 0o777|fs.ModeSticky))
		}},
		{"link", "it is a symbolic link", func(_, file string) error {
			return errors.Join(os.Rename(file, file+"2"), os.Symlink(file+"2", file))
		}},
		{"link to nothing", "it is a symbolic link", func(_, file string) error {
			return errors.Join(os.Remove(file), os.Symlink("/nowhere", file))
		}},
		{"fifo", "it is not a regular file", func(_, file string) error {
			return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o644))
		}},
		{"directory", "it is not a regular file", func(_, file string) error {
			return errors.Join(os.Remove(file), os.Mkdir(file, 0o755))
		}},
		{"too big", "is too big", func(_, file string) error { return os.Truncate(file, maxFile+1) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, dir, _ := testStore(t)
			file := filepath.Join(dir, "web.yaml")
			write(t, file, profile)
			if _, err := s.Load("web"); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			if err := tt.make(dir, file); err != nil {
				t.Fatal(err)
			}
			_, byName := s.Load("web")
			wantError(t, byName, tt.want)
			_, byPath := s.Load(file)
			wantError(t, byPath, tt.want)
		})
	}
}

// A device must be refused by what it is, and without waiting for it.
func TestLoadRefusesDevices(t *testing.T) {
	s, _, _ := testStore(t)
	for _, device := range []string{"/dev/zero", "/dev/null"} {
		_, err := s.Load(device)
		wantError(t, err, "it is not a regular file")
	}
}

// Whose file it is cannot be changed without root: the guard is asked instead.
func TestGuardTrustsRootAndItsOwners(t *testing.T) {
	g := guard{owners: []uint32{1000}}
	for uid, want := range map[uint32]bool{0: true, 1000: true, 1001: false, 65534: false} {
		if got := g.trusts(uid); got != want {
			t.Errorf("trusts(%d) = %t, want %t", uid, got, want)
		}
	}
	uid := uint32(os.Geteuid())
	file := filepath.Join(t.TempDir(), "web.yaml")
	write(t, file, "{}")
	if _, err := (guard{owners: []uint32{uid}}).read(file); err != nil {
		t.Errorf("a file of ours: %v", err)
	}
	if uid == 0 {
		if err := os.Chown(file, 1001, 1001); err != nil {
			t.Fatal(err)
		}
	}
	// As root the file is user 1001's now; else it is ours and nobody trusts us.
	_, err := (guard{}).read(file)
	wantError(t, err, "it belongs to user")
}

func TestLoadAcceptsAStickyDirectory(t *testing.T) {
	s, dir, _ := testStore(t)
	write(t, filepath.Join(dir, "web.yaml"), "{}")
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("web"); err != nil {
		t.Error(err)
	}
}

func TestLoadFindsTheFirst(t *testing.T) {
	s, user, system := testStore(t)
	write(t, filepath.Join(system, "web.yaml"), "description: system\n")
	write(t, filepath.Join(system, "python.yaml"), "description: system\n")
	write(t, filepath.Join(user, "python.yaml"), "extends: web\ndescription: user\n")
	for name, want := range map[string]string{
		"web": "system", "python": "user", "node": "A Node.js program: reads the current folder, writes to private scratch space, no network",
		filepath.Join(system, "python.yaml"): "system",
	} {
		p, err := s.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Description != want {
			t.Errorf("%s: got %q, want %q", name, p.Description, want)
		}
	}
}

func TestLoadRefusesNames(t *testing.T) {
	s, _, system := testStore(t)
	write(t, filepath.Join(system, "web.yaml"), "{}")
	for arg, want := range map[string]string{
		"wbe":     `there is no profile "wbe" (did you mean "web"?)`,
		"..":      "cannot be a profile's name",
		"w%n":     "cannot be a profile's name",
		"my.yaml": `a file is written with a slash, "./my.yaml"`,
		"./none":  `cannot open profile "./none": no such file or directory`,
	} {
		_, err := s.Load(arg)
		wantError(t, err, want)
	}
	if _, err := s.ReadFile("./none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
}

// A way through a link of the caller's is theirs, whatever its text says.
func TestDirHoldsWhatLiesInIt(t *testing.T) {
	dir := Dir{Path: "/etc/purple/policies"}
	for file, want := range map[string]bool{
		"/etc/purple/policies/corp.yaml":                    true,
		"/home/me/link/../../../etc/purple/policies/x.yaml": false,
		"/etc/purple/policies/../policies/corp.yaml":        false,
		"/etc/purple//policies/corp.yaml":                   false,
		"/etc/purple/policies/below/corp.yaml":              false,
		"/etc/purple/policies":                              false,
		"corp.yaml":                                         false,
	} {
		if got := dir.Holds(file); got != want {
			t.Errorf("%s: %v", file, got)
		}
	}
}

// A profile of root's means the same whoever uses it, also through others between.
func TestRootsProfilesExtendRoots(t *testing.T) {
	s, user, system := testStore(t)
	const limit = "resources: {pids_limit: %d}\n"
	for file, content := range map[string]string{
		user + "/base.yaml":    fmt.Sprintf(limit, 1),
		user + "/offline.yaml": fmt.Sprintf(limit, 2),
		user + "/mid.yaml":     "extends: base\n",
		user + "/mine.yaml":    "extends: corp\n",
		user + "/own.yaml":     "extends: base\n",
		system + "/base.yaml":  fmt.Sprintf(limit, 3),
		system + "/corp.yaml":  "extends: mid\n",
		system + "/mid.yaml":   "extends: base\n",
		system + "/built.yaml": "extends: offline\n",
	} {
		write(t, file, content)
	}
	builtin, err := s.Load("built")
	if err != nil || builtin.Resources.Tasks.Value == 2 {
		t.Errorf("%v", err)
	}
	for name, want := range map[string]uint64{"corp": 3, "mine": 3, "own": 1, "mid": 1, system + "/mid.yaml": 3} {
		if p, err := s.Load(name); err != nil || p.Resources.Tasks.Value != want {
			t.Errorf("%s: %v, want %d", name, err, want)
		}
	}
	write(t, system+"/lone.yaml", "extends: own\n")
	_, err = s.Load("lone")
	wantError(t, err, "there is no profile \"own\"")
}

func TestLoadNamesTheParentsFile(t *testing.T) {
	s, user, system := testStore(t)
	write(t, filepath.Join(system, "base.yaml"), "resources: {pids_limit: 0}\n")
	write(t, filepath.Join(user, "web.yaml"), "extends: base\n")
	write(t, filepath.Join(user, "self.yaml"), "extends: self\n")
	_, err := s.Load("web")
	wantError(t, err, filepath.Join(system, "base.yaml")+":1:25: resources.pids_limit: ")
	_, err = s.Load("self")
	wantError(t, err, "extends itself")
}

func TestList(t *testing.T) {
	s, user, system := testStore(t)
	write(t, filepath.Join(user, "python.yaml"), "description: mine\n")
	write(t, filepath.Join(system, "broken.yaml"), "a: 1\n")
	write(t, filepath.Join(system, "Not A Name.yaml"), "")
	write(t, filepath.Join(system, "notes.txt"), "")
	var got []string
	for _, e := range s.List() {
		got = append(got, fmt.Sprint(e.Name, " ", e.Source, " ", e.Error != ""))
	}
	want := []string{"ai-dev-safe built-in false", "broken system true", "node built-in false", "offline built-in false", "python user false"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCreate(t *testing.T) {
	s, dir, _ := testStore(t)
	content := []byte("# mine\ndescription: x\n")
	file, err := s.Create("web", content)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != string(content) || file != filepath.Join(dir, "web.yaml") {
		t.Errorf("%s: %q, %v", file, got, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o644 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	_, err = s.Create("web", []byte("description: y\n"))
	wantError(t, err, `profile "web" exists already`)
	_, err = s.Create("bad", []byte("descripion: y\n"))
	wantError(t, err, "bad.yaml:1:1: descripion: unknown key")
	_, err = s.Create("../web", content)
	wantError(t, err, "cannot be a profile's name")
	if got, err := os.ReadFile(file); err != nil || string(got) != string(content) {
		t.Errorf("the file has changed: %q, %v", got, err)
	}
	if names := filesIn(t, dir); !slices.Equal(names, []string{"web.yaml"}) {
		t.Errorf("left: %q", names)
	}
}

func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCreateRefusesToReplaceALink(t *testing.T) {
	s, dir, _ := testStore(t)
	target := filepath.Join(t.TempDir(), "target")
	if err := os.Symlink(target, filepath.Join(dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Create("web", []byte("{}"))
	wantError(t, err, "exists already")
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("written through the link: %v", err)
	}
}

func TestCreateRefusesAnUnsafeDirectory(t *testing.T) {
	s, dir, _ := testStore(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := s.Create("web", []byte("{}"))
	wantError(t, err, "others may write to its directory")
	if names := filesIn(t, dir); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
}

func TestCreateMakesItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b")
	s := NewStore(Dir{dir, "user", true})
	if _, err := s.Create("web", []byte("{}")); err != nil {
		t.Error(err)
	}
}

func TestDelete(t *testing.T) {
	s, user, system := testStore(t)
	target := filepath.Join(t.TempDir(), "target")
	write(t, target, "{}")
	write(t, filepath.Join(user, "web.yaml"), "broken: [")
	write(t, filepath.Join(system, "base.yaml"), "{}")
	if err := os.Symlink(target, filepath.Join(user, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"base":    "it is the administrator's: delete it as root",
		"python":  "it is built into purple",
		"pyth":    `there is no profile "pyth"`,
		"../base": "cannot be a profile's name",
	} {
		_, err := s.Delete(name)
		wantError(t, err, want)
	}
	for _, name := range []string{"web", "link"} {
		if _, err := s.Delete(name); err != nil {
			t.Error(err)
		}
	}
	if names := filesIn(t, user); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
	if _, err := os.Stat(target); err != nil {
		t.Errorf("what the link led to is gone: %v", err)
	}
}

func TestDirs(t *testing.T) {
	for want, dirs := range map[string][]Dir{
		"[{/etc/purple/policies system true} {/usr/share/purple/policies package false}]":                                               RootsDirs(),
		"[{/home/me/.config/purple/policies user true} {/etc/purple/policies system false} {/usr/share/purple/policies package false}]": UsersDirs("/home/me"),
		"[{/etc/purple/policies system false} {/usr/share/purple/policies package false} {/home/me/.config/purple/policies user true}]": DirsBehindSudo("/home/me"),
	} {
		if got := fmt.Sprint(dirs); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// What the caller names or owns is read and written with the caller's rights, and what
// is root's with root's.
func TestRightsOfTheCaller(t *testing.T) {
	s, user, system := testStore(t)
	s.dirs = []Dir{s.dirs[1], s.dirs[0]} // as behind sudo
	if err := os.WriteFile(filepath.Join(system, "corp.yaml"), []byte("name: corp\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var used []string
	s.For(uint32(os.Geteuid()), func(f func() error) error {
		used = append(used, "theirs")
		return f()
	})
	for _, c := range []struct {
		what string
		call func() error
		want bool
	}{
		{"by a system's name", func() error { _, err := s.Read("corp"); return err }, false},
		{"a system's file", func() error { _, err := s.ReadFile(filepath.Join(system, "corp.yaml")); return err }, false},
		{"create", func() error { _, err := s.Create("mine", []byte("name: mine\n")); return err }, true},
		{"by a user's name", func() error { _, err := s.Read("mine"); return err }, true},
		{"by a path", func() error { _, err := s.ReadFile(filepath.Join(user, "mine.yaml")); return err }, true},
		{"by a path that goes up", func() error {
			_, err := s.ReadFile(system + "/../" + filepath.Base(user) + "/mine.yaml")
			return err
		}, true},
		{"delete", func() error { _, err := s.Delete("mine"); return err }, true},
	} {
		used = nil
		if err := c.call(); err != nil || (used != nil) != c.want {
			t.Errorf("%s: %q, %v", c.what, used, err)
		}
	}
	_, err := s.Create("corp", []byte("name: corp\n"))
	wantError(t, err, "is found before it")
	_, err = s.Delete("corp")
	wantError(t, err, "it is the administrator's")
}

// A file cannot be called as the built-in profiles are, which are believed.
func TestFileLikeABuiltIn(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := errors.Join(os.Mkdir("built-in", 0o755), os.WriteFile("built-in/x.yaml", []byte("name: x\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := NewStore()
	p, err := s.Load("built-in/x.yaml")
	if err != nil || p.Files()[0] != "./built-in/x.yaml" || IsBuiltin(p.Files()[0]) {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = s.Load("offline"); err != nil || !IsBuiltin(p.Files()[0]) {
		t.Errorf("%+v, %v", p, err)
	}
}
