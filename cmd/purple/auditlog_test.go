package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"golang.org/x/sys/unix"
)

func testOpener() logOpener { return openerFor(0, uint32(os.Geteuid())) }

func openerFor(owners ...uint32) logOpener {
	return logOpener{owners: owners, outside: func(int) error { return nil }}
}

func TestOpenLogMakesWhatIsMissing(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	file := filepath.Join(t.TempDir(), "a", "b", "log")
	for _, text := range []string{journal.LineStart + "one\n", "tw", "three\n"} {
		f, err := testOpener().open(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	// Half a line, of a run for which the disk was full, gets its end.
	if data, err := os.ReadFile(file); err != nil || string(data) != journal.LineStart+"one\ntw\nthree\n" {
		t.Errorf("%q, %v", data, err)
	}
	for name, want := range map[string]os.FileMode{file: 0o640, filepath.Dir(file): os.ModeDir | 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestOpenLogRefuses(t *testing.T) {
	made := func(make func(dir, file string) error) func(t *testing.T) string {
		return func(t *testing.T) string {
			dir := t.TempDir()
			file := filepath.Join(dir, "log")
			if err := make(dir, file); err != nil {
				t.Fatal(err)
			}
			return file
		}
	}
	touch := func(file string) error { return os.WriteFile(file, nil, 0o600) }
	for want, path := range map[string]func(*testing.T) string{
		"it is a symbolic link": made(func(dir, file string) error { return os.Symlink(filepath.Join(dir, "other"), file) }),
		"it is a link or no directory": func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(dir, "link", "log")
		},
		"no directory; name the place itself": func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "file")
			if err := touch(file); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(file, "log")
		},
		"it is not a regular file": made(func(_, file string) error { return unix.Mkfifo(file, 0o600) }),
		"not a regular file":       made(func(_, file string) error { return os.Mkdir(file, 0o700) }),
		"it has 2 names": made(func(dir, file string) error {
			if err := touch(filepath.Join(dir, "other")); err != nil {
				return err
			}
			return os.Link(filepath.Join(dir, "other"), file)
		}),
		"it is not a log of Purple's": made(func(_, file string) error { return os.WriteFile(file, []byte("root:x:0:0\n"), 0o600) }),
		"others may write to it (mode 0660)": made(func(_, file string) error {
			if err := touch(file); err != nil {
				return err
			}
			return os.Chmod(file, 0o660)
		}),
		"others may write to it (mode 0770)": made(func(dir, _ string) error { return os.Chmod(dir, 0o770) }),
		"others may write to it (mode 0777)": func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(dir, "below", "log")
		},
	} {
		file := path(t)
		if f, err := testOpener().open(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %q", file, f, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "log")
	nobody := openerFor(12345)
	if f, err := nobody.open(file); err == nil || !strings.Contains(err.Error(), "it belongs to user") {
		t.Errorf("%v, %v", f, err)
	}
}

// A fifo with a reader opens at once, and is none the less refused.
func TestOpenLogRefusesAFifoWithAReader(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(reader)
	if f, err := testOpener().open(file); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v, %v", f, err)
	}
}

// A group may write above the last directory, as distributions have /var/log.
func TestOpenLogBelowAGroupsDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o775); err != nil {
		t.Fatal(err)
	}
	f, err := testOpener().open(filepath.Join(dir, "purple", "log"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// Behind sudo root's rights open a log only in a directory for logs.
func TestLogDirs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log-directories")
	if dirs, err := logDirs(file); err != nil || len(dirs) != 1 || dirs[0] != "/var/log" {
		t.Errorf("%q, %v", dirs, err)
	}
	for content, want := range map[string]string{
		"# for agents\n\n/srv/logs/\n /data \n": "/var/log /srv/logs /data",
		"logs\n":                                "is not the absolute path", "/\n": "is not the absolute path", "/x/..\n": "is not the absolute path",
	} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		dirs, err := logDirs(file)
		if got := strings.Join(dirs, " "); got != want && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
	if err := os.Chmod(file, 0o664); err != nil {
		t.Fatal(err)
	}
	if dirs, err := logDirs(file); err == nil || !strings.Contains(err.Error(), "only root can write") {
		t.Errorf("%q, %v", dirs, err)
	}
	// Without sudo nobody's rights are lent.
	own := translate.Invoker{UID: uint32(os.Geteuid())}
	if w, err := logWriter("/anywhere/log", policies.Position{File: "/home/me/x.yaml"}, own); err != nil || w.UID != own.UID {
		t.Errorf("%+v, %v", w, err)
	}
}
