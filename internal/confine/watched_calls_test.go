package confine

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/journal"
	"github.com/purple-sandbox/purple/policies/syscalls"
	"golang.org/x/sys/unix"
)

const notifies = unix.SECCOMP_RET_USER_NOTIF

func encodeProgram(program []unix.SockFilter) []byte {
	var b []byte
	for _, i := range program {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// A call goes on only if the filter says so itself, by its mark: everything else,
// whatever it is, is a denial.
func TestWhatAbout(t *testing.T) {
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: returnConstant, K: k} }
	load := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: loadWord, K: k} }
	jump := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k, Jf: 1} }
	// The call is number 7 with the arguments 0x1_0000_0006 and 0.
	for name, c := range map[string]struct {
		want    about
		program []unix.SockFilter
	}{
		"a path":                        {aboutPath, []unix.SockFilter{ret(notifies | 1)}},
		"a capability":                  {aboutCapability, []unix.SockFilter{ret(notifies | 2)}},
		"a denial":                      {aboutDenied, []unix.SockFilter{ret(notifies)}},
		"another mark":                  {aboutDenied, []unix.SockFilter{ret(notifies | 3)}},
		"a mark on another action":      {aboutDenied, []unix.SockFilter{ret(unix.SECCOMP_RET_ALLOW | 1)}},
		"no program":                    {aboutDenied, nil},
		"no end":                        {aboutDenied, []unix.SockFilter{load(0)}},
		"an unknown instruction":        {aboutDenied, []unix.SockFilter{{Code: unix.BPF_LDX | unix.BPF_IMM}, ret(notifies | 1)}},
		"a load from behind":            {aboutDenied, []unix.SockFilter{load(64), ret(notifies | 1)}},
		"a load from far behind":        {aboutDenied, []unix.SockFilter{load(0xfffffffc), ret(notifies | 1)}},
		"a jump to behind":              {aboutDenied, []unix.SockFilter{{Code: jumpAlways, K: 5}, ret(notifies | 1)}},
		"a jump to far behind":          {aboutDenied, []unix.SockFilter{{Code: jumpAlways, K: 0xffffffff}, ret(notifies | 1)}},
		"equal":                         {aboutPath, []unix.SockFilter{load(0), jump(jumpEqual, 7), ret(notifies | 1), ret(notifies)}},
		"not equal":                     {aboutDenied, []unix.SockFilter{load(0), jump(jumpEqual, 8), ret(notifies | 1), ret(notifies)}},
		"greater":                       {aboutPath, []unix.SockFilter{load(0), jump(jumpGreater, 6), ret(notifies | 1), ret(notifies)}},
		"not greater":                   {aboutDenied, []unix.SockFilter{load(0), jump(jumpGreater, 7), ret(notifies | 1), ret(notifies)}},
		"not less":                      {aboutPath, []unix.SockFilter{load(0), jump(jumpNotLess, 7), ret(notifies | 1), ret(notifies)}},
		"a bit":                         {aboutPath, []unix.SockFilter{load(16), jump(jumpSet, 4), ret(notifies | 1), ret(notifies)}},
		"no bit":                        {aboutDenied, []unix.SockFilter{load(16), jump(jumpSet, 1), ret(notifies | 1), ret(notifies)}},
		"the upper half":                {aboutPath, []unix.SockFilter{load(20), jump(jumpEqual, 1), ret(notifies | 1), ret(notifies)}},
		"masked":                        {aboutPath, []unix.SockFilter{load(16), {Code: andConstant, K: 2}, jump(jumpEqual, 2), ret(notifies | 1), ret(notifies)}},
		"over an instruction":           {aboutPath, []unix.SockFilter{{Code: jumpAlways, K: 1}, ret(notifies), ret(notifies | 1)}},
		"the last argument's last word": {aboutPath, []unix.SockFilter{load(60), jump(jumpEqual, 0), ret(notifies | 1), ret(notifies)}},
	} {
		a := &answerer{program: newProgram(encodeProgram(c.program))}
		a.n.data.nr, a.n.data.args = 7, [6]uint64{1<<32 | 6}
		if got := a.whatAbout(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func testWatcher() *watcher {
	return newWatcher(&spec.Spec{Mounts: []spec.Mount{
		{Kind: spec.BindReadOnly, Target: "/usr"}, {Kind: spec.Tmpfs, Target: "/tmp"},
		{Kind: spec.BindReadWrite, Target: "/work"}, {Kind: spec.BindReadOnly, Target: "/work/vendor"},
	}}, runtime.GOARCH, textArguments(runtime.GOARCH))
}

// Only what is certain without a look is not looked at.
func TestPlainlyWritable(t *testing.T) {
	w := testWatcher()
	for path, want := range map[string]bool{
		"/tmp/x": true, "/tmp/.hidden": true, "/tmp/a/b.c": true, "/tmp/a/...": false, "/work/src/x": true, "/work/vendored": true,
		"/dev/null": true, "/dev/shm/x": true, "/dev/pts/0": true,
		"/tmp": false, "/work": false, "/work/vendor": false, "/work/vendor/x": false, "/usr/x": false, "/": false, "": false, "x": false,
		"/tmp/../usr/x": false, "/tmp/./x": false, "/tmp//x": false, "/tmp/x/..": false, "/tmp/x/.": false, "/tmpx": false, "/dev/nullx": false,
		"/tmp/" + strings.Repeat("x", maxText): false,
	} {
		var text claimedText
		text.read = uint16(copy(text.bytes[:], path+"\x00"))
		length, plain := plainLength(&text)
		if got := plain && w.isBelowWritable(&text, length); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// What is read and could be a write-only path is looked at, and so is all that
// changes something.
func TestPlainlyAllowed(t *testing.T) {
	w := testWatcher()
	w.changes, w.reads, w.writeOnly = true, true, []string{"/out", "/work/log/day"}
	nr, _ := syscalls.Number(runtime.GOARCH, "openat")
	for _, c := range []struct {
		path  string
		flags int
		want  bool
	}{
		{"/usr/x", unix.O_RDONLY, true}, {"/work/logs", unix.O_RDONLY, true}, {"/work/log/days/x", unix.O_RDONLY, true}, {"/outer", unix.O_RDONLY, true},
		{"/ou", unix.O_RDONLY, true}, {"/out/x", unix.O_PATH, true}, {"/out", unix.O_PATH | unix.O_DIRECTORY, true},
		{"/out/x", unix.O_WRONLY, false}, // testWatcher has no mount there
		{"/work/log/day/x", unix.O_WRONLY | unix.O_CREAT, true}, {"/work/log/day/x", unix.O_RDWR, false}, {"/work/src", unix.O_RDWR, true},
		{"/out", unix.O_RDONLY, false}, {"/out/", unix.O_RDONLY, false}, {"/out/x/y", unix.O_RDONLY, false}, {"/work/log/day", unix.O_RDONLY, false},
		{"/work/log", unix.O_RDONLY, false}, {"/work", unix.O_RDONLY, false}, {"/work/", unix.O_RDONLY, false}, {"/", unix.O_RDONLY, false},
		{"x", unix.O_RDONLY, false}, {"/usr/../out/x", unix.O_RDONLY, false}, {"/usr/x", unix.O_WRONLY, false},
	} {
		a := &answerer{watch: w}
		a.n.data.nr, a.n.data.args[2] = int32(nr), uint64(c.flags)
		slot := w.slots[nr][0]
		a.found.texts[slot].read = uint16(copy(a.found.texts[slot].bytes[:], c.path+"\x00"))
		if got := a.isPlainlyAllowed(); got != c.want {
			t.Errorf("%q, %#x: %v", c.path, c.flags, got)
		}
	}
}

// Landlock refuses to read what is below a write-only path, whatever leads there,
// and to list what leads to one.
func TestJudgeRead(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"out/sub", "other"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"out/file", "other/file"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/out/file", root+"/other/in"), os.Symlink("/other/file", root+"/out/out"), unix.Mkfifo(root+"/out/fifo", 0o644)); err != nil {
		t.Fatal(err)
	}
	w := testWatcher()
	// The sandbox's root is a mount, and the paths begin there: here they do not.
	w.writeOnly = []string{root + "/out"}
	var err error
	if w.root, err = unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w.root)
	for path, want := range map[string]bool{
		"/out": true, "/out/": true, "/out/file": true, "/out/sub": true, "/other/in": true, "/other/../out/file": true, "/": true,
		"/other": false, "/other/file": false, "/out/out": false, "/out/none": false, "/out/fifo": false,
	} {
		if got := w.judgeRead(path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// What the kernel says of each path, on a read-only mount and on a writable one,
// is what is found beforehand.
func TestJudge(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("none", root, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	for _, dir := range []string{"ro/dir", "rw/dir"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		top := filepath.Join(root, filepath.Dir(dir))
		if err := os.WriteFile(top+"/file", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(top+"/fifo", 0o644); err != nil {
			t.Fatal(err)
		}
		for name, to := range map[string]string{"in": "/ro/file", "out": "/rw/file", "up": "../../../../../../ro/file", "away": "/no/such"} {
			if err := os.Symlink(to, filepath.Join(top, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ro := filepath.Join(root, "ro")
	if err := unix.Mount(ro, ro, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", ro, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	w := testWatcher()
	var err error
	if w.root, err = unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(w.root)
	const create, remove, write = journal.EffectCreate, journal.EffectRemove, journal.EffectWrite
	for _, c := range []struct {
		call, path string
		flags      int
		want       journal.Effect // empty: it is not refused
	}{
		{"openat", "/ro/file", unix.O_WRONLY, write}, {"openat", "/ro/file", unix.O_RDWR | unix.O_CREAT, write}, {"openat", "/ro/file", unix.O_TRUNC, write},
		{"openat", "/ro/file", unix.O_CREAT, ""}, {"openat", "/ro/new", unix.O_CREAT | unix.O_WRONLY, create}, {"openat", "/ro/new", unix.O_WRONLY, ""},
		{"openat", "/ro/fifo", unix.O_WRONLY, ""}, {"openat", "/ro/none/new", unix.O_CREAT, ""}, {"openat", "/rw/../ro/./file", unix.O_WRONLY, write},
		{"openat", "/rw/file", unix.O_WRONLY, ""}, {"openat", "/rw/new", unix.O_CREAT | unix.O_RDWR, ""},
		{"openat", "/rw/in", unix.O_WRONLY, write}, {"openat", "/ro/out", unix.O_WRONLY, ""}, {"openat", "/rw/up", unix.O_WRONLY, write}, {"openat", "/rw/away", unix.O_WRONLY, ""},
		{"mkdirat", "/ro/d", notOpen, create}, {"mkdirat", "/ro/d/", notOpen, create}, {"mkdirat", "/ro/dir", notOpen, ""}, {"mkdirat", "/rw/d", notOpen, ""},
		{"symlinkat", "/ro/l", notOpen, create}, {"symlinkat", "/ro/out", notOpen, ""},
		{"unlinkat", "/ro/file", notOpen, remove}, {"unlinkat", "/ro/none", notOpen, remove}, {"unlinkat", "/rw/file", notOpen, ""}, {"unlinkat", "/none/x", notOpen, ""},
		{"renameat2", "/ro/file", notOpen, remove}, {"renameat2", "/rw/file", notOpen, ""},
		{"fchmodat", "/ro/file", notOpen, write}, {"fchmodat", "/ro/none", notOpen, ""}, {"fchmodat", "/rw/file", notOpen, ""},
		{"truncate", "/ro/file", notOpen, write}, {"utimensat", "/ro/dir", notOpen, write}, {"setxattr", "/rw/in", notOpen, write}, {"lsetxattr", "/rw/in", notOpen, ""},
	} {
		p := syscalls.Paths(c.call)[0]
		effect, refused := w.judge(c.path, p, c.flags)
		if refused != (c.want != "") || refused && effect != c.want {
			t.Errorf("%s(%q, %#x): %q, %v; want %q", c.call, c.path, c.flags, effect, refused, c.want)
		}
		errno := try(root, c.call, c.path, c.flags)
		if (errno == unix.EROFS) != refused {
			t.Errorf("%s(%q, %#x): the kernel says %v, found %v", c.call, c.path, c.flags, errno, refused)
		}
	}
}

// try makes the call in a process-wide chroot's stead: as a path below root, where
// that names the same.
func try(root, call, path string, flags int) error {
	name := root + path
	switch call {
	case "openat":
		if strings.Contains(path, "/in") || strings.Contains(path, "/up") {
			name = root + "/ro/file" // the links are the sandbox's
		} else if strings.Contains(path, "/out") {
			name = root + "/rw/file"
		}
		fd, err := unix.Open(name, flags|unix.O_NONBLOCK, 0o644)
		if err == nil {
			unix.Close(fd)
			if strings.HasSuffix(path, "/new") {
				_ = unix.Unlink(name)
			}
		}
		return err
	case "mkdirat":
		err := unix.Mkdir(name, 0o755)
		if err == nil {
			_ = unix.Rmdir(name)
		}
		return err
	case "symlinkat":
		return unix.Symlink("x", name)
	case "unlinkat":
		if path == "/rw/file" {
			return nil // it is needed
		}
		return unix.Unlink(name)
	case "renameat2":
		if path == "/rw/file" {
			return nil
		}
		return unix.Rename(name, name+"2")
	case "fchmodat":
		return unix.Chmod(name, 0o644)
	case "truncate":
		return unix.Truncate(name, 0)
	case "utimensat":
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, nil, 0)
	case "setxattr":
		return unix.Setxattr(root+"/ro/file", "user.x", nil, 0)
	default:
		return nil // of the link itself: a tmpfs has none of those
	}
}

// A port is low where bind(2) needs a capability for it.
func TestBindsLowPort(t *testing.T) {
	for address, want := range map[string]bool{
		"\x02\x00\x00\x50": true, "\x0a\x00\x03\xff": true, "\x02\x00\x04\x00": false, "\x02\x00\x00\x00": false,
		"\x01\x00\x00\x50": false, "\x02\x00": false, "": false,
	} {
		a := &answerer{}
		a.found.texts[0].read = uint16(copy(a.found.texts[0].bytes[:], address))
		if got := a.bindsLowPort(); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}
