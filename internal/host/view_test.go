package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
)

// someHost has a few programs; the view is of parts of it.
func someHost(t *testing.T) (View, string) {
	t.Helper()
	root := tree(t, map[string]string{
		"usr/bin/tool":       "\x7fELF not really",
		"usr/bin/script":     "#!/bin/tool -x\n",
		"usr/bin/orphan":     "#!/opt/interp\n",
		"usr/bin/plain":      "text",
		"usr/bin/loop":       "#!/bin/loop\n",
		"hidden/bin/secret":  "x",
		"project/agent.py":   "print()",
		"project/run.sh":     "#!/bin/script\n",
		"etc/alternatives/t": "-> /usr/bin/tool",
		"usr/bin/alt":        "-> /etc/alternatives/t",
		"usr/bin/relative":   "-> ../bin/tool",
		"usr/bin/circle":     "-> circle",
		"usr/bin/away":       "-> /hidden/bin/secret",
		"usr/bin/enved":      "#!/usr/bin/env tool",
		"usr/bin/envless":    "#!/usr/bin/env -S nothing --flag",
		"usr/bin/env":        "\x7fELF not really",
		"usr/bin/windows":    "#!/bin/tool\r\n",
	})
	if err := os.Chmod(filepath.Join(root, "usr/bin/plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	bind := func(source, target string) spec.Mount {
		return spec.Mount{Kind: spec.BindReadOnly, Source: filepath.Join(root, source), Target: target}
	}
	return NewView(&spec.Spec{Mounts: []spec.Mount{
		bind("usr/bin", "/bin"), bind("etc/alternatives", "/etc/alternatives"), bind("usr", "/usr"), bind("project", "/work"),
		{Kind: spec.Tmpfs, Target: "/tmp"},
	}}, ownRights), root
}

func TestCommand(t *testing.T) {
	view, _ := someHost(t)
	for argv0, want := range map[string]string{
		"tool": "/bin/tool", "/usr/bin/tool": "/usr/bin/tool", "./run.sh": "/work/run.sh", "script": "/bin/script",
		"alt": "/bin/alt", "relative": "/bin/relative", "enved": "/bin/enved",
	} {
		got, err := view.Command(argv0, Lookup{Path: "/nowhere:/bin:/usr/bin", Dir: "/work"})
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", argv0, got, err, want)
		}
	}
	// An empty entry of PATH is the command's directory, and what comes of it
	// is absolute.
	if got, err := view.Command("run.sh", Lookup{Path: ":/bin", Dir: "/work"}); err != nil || got != "/work/run.sh" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCommandThatCannotStart(t *testing.T) {
	view, _ := someHost(t)
	for argv0, want := range map[string]struct {
		status int
		text   string
	}{
		"":               {127, "empty"},
		"nothing":        {127, "cannot find"},
		"circle":         {127, "cannot find"},
		"away":           {127, "cannot find"},
		"/usr/bin/away":  {127, "cannot find"},
		"/bin/plain":     {126, "not an executable file"},
		"plain":          {126, "not an executable file"},
		"/work":          {126, "not an executable file"},
		"orphan":         {127, `interpreter "/opt/interp" does not exist`},
		"windows":        {127, `interpreter "/bin/tool\r" does not exist`},
		"envless":        {127, `cannot find "nothing"`},
		"loop":           {126, "too many interpreters"},
		"/tmp/something": {127, "cannot find"},
	} {
		_, err := view.Command(argv0, Lookup{Path: "/bin", Dir: "/work"})
		var e *VisibleError
		if !errors.As(err, &e) || e.Status != want.status || !strings.Contains(e.Text, want.text) {
			t.Errorf("%q: %v, want status %d and %q", argv0, err, want.status, want.text)
		}
	}
}

// What only the host has is told with what to add: the directory in which the
// way ends, not the one in which it began.
func TestCommandThatOnlyTheHostHas(t *testing.T) {
	_, root := someHost(t)
	bin, hidden := filepath.Join(root, "usr/bin"), filepath.Join(root, "hidden/bin")
	if err := os.Symlink(hidden+"/secret", bin+"/linked"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin+"/needs", []byte("#!"+hidden+"/secret\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	view := NewView(&spec.Spec{Mounts: []spec.Mount{{Kind: spec.BindReadOnly, Source: bin, Target: bin}}}, ownRights)
	add := "add \"" + hidden + "\" to filesystem.immutable_paths"
	for _, c := range []struct {
		name, argv0 string
		l           Lookup
		want        string
	}{
		{"in PATH", "secret", Lookup{Path: bin + ":" + hidden}, add},
		{"in the caller's PATH", "secret", Lookup{Path: bin, CallerPath: hidden}, add + " and call it \"" + hidden + "/secret\""},
		{"visible, not in PATH", "tool", Lookup{Path: "/bin", CallerPath: bin}, "call it \"" + bin + "/tool\""},
		{"behind a link", "linked", Lookup{Path: bin}, add},
		{"behind a link, by path", bin + "/linked", Lookup{Path: bin}, add},
		{"by path", hidden + "/secret", Lookup{Path: bin}, add},
		{"interpreter", "needs", Lookup{Path: bin}, add},
		{"where the caller stands", "./secret", Lookup{Path: bin, Dir: "/home/agent", CallerDir: hidden}, "--workspace " + hidden},
	} {
		_, err := view.Command(c.argv0, c.l)
		var e *VisibleError
		if !errors.As(err, &e) || e.Status != 127 || !strings.Contains(e.Text, c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// The ELF interpreter of this test's own kind of machine is found and followed.
func TestELFInterpreter(t *testing.T) {
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	loader, _, err := interpreterOf(place{ownRights, sh})
	if err != nil || !filepath.IsAbs(loader) {
		t.Fatalf("%q, %v", loader, err)
	}
	dir := filepath.Dir(sh)
	bound := spec.Mount{Kind: spec.BindReadOnly, Source: dir, Target: dir}
	if _, err := NewView(&spec.Spec{Mounts: []spec.Mount{bound}}, ownRights).Command(sh, Lookup{}); err == nil || !strings.Contains(err.Error(), `its interpreter "`+loader) {
		t.Errorf("without it: %v", err)
	}
	all := []spec.Mount{bound}
	for _, dir := range []string{"/lib", "/lib64", "/usr"} {
		all = append(all, spec.Mount{Kind: spec.BindReadOnly, Source: dir, Target: dir})
	}
	if got, err := NewView(&spec.Spec{Mounts: all}, ownRights).Command(sh, Lookup{}); err != nil || got != sh {
		t.Errorf("with it: %q, %v", got, err)
	}
}

func words(line string) [][]byte {
	var argv [][]byte
	for _, w := range strings.Fields(line) {
		argv = append(argv, []byte(w))
	}
	return argv
}

func TestScript(t *testing.T) {
	view, root := someHost(t)
	l := Lookup{Dir: "/home/agent", CallerDir: filepath.Join(root, "project")}
	for line, visible := range map[string]bool{
		"python3 agent.py":                 false,
		"python3.11 -u agent.py":           false,
		"python3 -W ignore agent.py":       false,
		"python3 -- agent.py":              false,
		"/usr/bin/node agent.py":           false,
		"bash agent.py":                    false,
		"sh -e agent.py":                   false,
		"bash -o pipefail agent.py":        false,
		"deno run -A agent.py":             false,
		"python3 /work/agent.py":           true, // visible under that name
		"python3 -c agent.py":              true, // a program, no script
		"sh -ec agent.py":                  true,
		"perl -e agent.py":                 true,
		"python3 -m agent.py":              true,
		"python3 no-such-file.py":          true, // python says so itself
		"python3 no-such-file.py agent.py": true, // the script's own argument
		"cat agent.py":                     true, // no interpreter
		"python3":                          true,
		"python3 - agent.py":               true,
		"bash /proc/self/environ":          true, // the sandbox's own
		"python3 " + root + "/etc":         true, // a directory
	} {
		err := view.Script(words(line), l)
		var e *VisibleError
		if (err == nil) != visible || err != nil && (!errors.As(err, &e) || e.Status != 125 || !strings.Contains(e.Text, "--workspace "+l.CallerDir)) {
			t.Errorf("%s: %v", line, err)
		}
	}
	l.Dir = "/work"
	if err := view.Script(words("python3 agent.py"), l); err != nil {
		t.Errorf("where it is visible: %v", err)
	}
}

// What the invoker has asked for is looked at with their rights, and so is all that only
// the host has: an error must not tell what is in another user's folder.
func TestRightsOfTheInvoker(t *testing.T) {
	_, root := someHost(t)
	denied := func(func() error) error { return fs.ErrPermission }
	bin := filepath.Join(root, "usr/bin")
	mount := spec.Mount{Kind: spec.BindReadOnly, Source: bin, Target: "/bin"}
	view := NewView(&spec.Spec{Mounts: []spec.Mount{mount}}, ownRights)
	view.callers = denied
	if got, err := view.Command("tool", Lookup{Path: "/bin"}); err != nil || got != "/bin/tool" {
		t.Errorf("root's mount: %q, %v", got, err)
	}
	mount.AsOwner = true
	view = NewView(&spec.Spec{Mounts: []spec.Mount{mount}}, ownRights)
	view.callers = denied
	for _, c := range []struct {
		argv0 string
		l     Lookup
	}{
		{"tool", Lookup{Path: "/bin"}}, {"/bin/tool", Lookup{}}, {bin + "/tool", Lookup{}}, {"tool", Lookup{Path: "/sbin", CallerPath: bin}},
		{"./tool", Lookup{Dir: "/home", CallerDir: bin}},
	} {
		_, err := view.Command(c.argv0, c.l)
		if err == nil || !strings.HasPrefix(err.Error(), "cannot find \""+c.argv0+"\"") || strings.Contains(err.Error(), "immutable_paths") || strings.Contains(err.Error(), "--workspace") {
			t.Errorf("%q: %v", c.argv0, err)
		}
	}
	if err := view.Script([][]byte{[]byte("sh"), []byte(bin + "/tool")}, Lookup{}); err != nil {
		t.Error(err)
	}
}

// Nor does root's mount of what all get to, such as /usr, show them what is closed in it.
func TestClosedBelowWhatAllReach(t *testing.T) {
	_, root := someHost(t)
	bin := filepath.Join(root, "usr/bin")
	reached := 0
	onlyTheMount := func(f func() error) error {
		if reached++; reached == 1 {
			return f()
		}
		return fs.ErrPermission
	}
	view := NewView(&spec.Spec{Mounts: []spec.Mount{{Kind: spec.BindReadOnly, Source: bin, Target: "/bin"}}}, ownRights)
	view.callers = onlyTheMount
	if _, err := view.Command("/bin/tool", Lookup{}); err == nil || err.Error() != `cannot find "/bin/tool"` {
		t.Errorf("%v", err)
	}
}
