package host

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
)

// tree makes files with their content below a new directory; a content that
// starts with "-> " makes a link.
func tree(t *testing.T, entries map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range entries {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, file)
		} else {
			err = os.WriteFile(file, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWholeDisk(t *testing.T) {
	root := tree(t, map[string]string{
		"devices/sda/dev": "8:0\n", "devices/sda/sda1/dev": "8:1\n", "devices/sda/sda1/partition": "1\n",
		"devices/dm-0/dev": "253:0\n", "devices/dm-0/slaves/sda1": "-> ../../sda/sda1",
		"devices/dm-1/dev": "253:1\n", "devices/dm-1/slaves/dm-0": "-> ../../dm-0",
		"devices/md0/dev": "9:0\n", "devices/md0/slaves/sda1": "-> ../../sda/sda1", "devices/md0/slaves/sdb1": "-> ../../sda/sda1",
		"dev/block/8:0": "-> ../../devices/sda", "dev/block/8:1": "-> ../../devices/sda/sda1",
		"dev/block/253:0": "-> ../../devices/dm-0", "dev/block/253:1": "-> ../../devices/dm-1", "dev/block/9:0": "-> ../../devices/md0",
	})
	for number, want := range map[string]string{
		"8:0":   "8:0",
		"8:1":   "8:0", // a partition
		"253:0": "8:0", // LUKS on a partition
		"253:1": "8:0", // LVM on LUKS
		"9:0":   "9:0", // a RAID of two is a disk of its own
		"7:7":   "",    // no such device
	} {
		if got := wholeDisk(root, number); got != want {
			t.Errorf("%s: %q, want %q", number, got, want)
		}
	}
}

func TestProbe(t *testing.T) {
	facts, err := Probe([]string{"/", "/proc", "/no/such/path", "/etc/passwd"})
	if err != nil {
		t.Fatal(err)
	}
	if !facts.Paths["/"].IsDir || facts.Paths["/no/such/path"].Exists || facts.Paths["/etc/passwd"].IsDir {
		t.Errorf("%+v", facts.Paths)
	}
	if facts.Cgroup != Unified && facts.Cgroup != Hybrid {
		t.Errorf("cgroup layout %q", facts.Cgroup)
	}
	for _, home := range []string{"/root", "/home"} {
		if !slices.Contains(facts.Homes, home) {
			t.Errorf("homes %q", facts.Homes)
		}
	}
	// Who may not look at PID 1 learns nothing, and a run is refused for it.
	if n := len(facts.ManagerNamespaces); n != 0 && n != len(namespaces) {
		t.Errorf("namespaces %v", facts.ManagerNamespaces)
	}
}

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
	}}), root
}

func TestCommand(t *testing.T) {
	view, _ := someHost(t)
	for argv0, want := range map[string]string{
		"tool": "/bin/tool", "/usr/bin/tool": "/usr/bin/tool", "./run.sh": "/work/run.sh", "script": "/bin/script",
		"alt": "/bin/alt", "relative": "/bin/relative",
	} {
		got, err := view.Command(argv0, "/nowhere:/bin:/usr/bin", "/work")
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", argv0, got, err, want)
		}
	}
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
		"/work":          {126, "not an executable file"},
		"orphan":         {127, `"/opt/interp"`},
		"loop":           {126, "too many interpreters"},
		"/tmp/something": {127, "cannot find"},
	} {
		_, err := view.Command(argv0, "/bin", "/work")
		var e *VisibleError
		if !errors.As(err, &e) || e.Status != want.status || !strings.Contains(e.Text, want.text) {
			t.Errorf("%q: %v, want status %d and %q", argv0, err, want.status, want.text)
		}
	}
}

func TestCommandThatOnlyTheHostHas(t *testing.T) {
	view, root := someHost(t)
	bin := filepath.Join(root, "hidden/bin")
	_, err := view.Command("secret", bin, "/work")
	if err == nil || !strings.Contains(err.Error(), "add \""+bin+"\" to filesystem.immutable_paths") {
		t.Errorf("%v", err)
	}
}

func TestScript(t *testing.T) {
	view, root := someHost(t)
	project := filepath.Join(root, "project")
	words := func(line string) [][]byte {
		var argv [][]byte
		for _, w := range strings.Fields(line) {
			argv = append(argv, []byte(w))
		}
		return argv
	}
	for line, visible := range map[string]bool{
		"python3 agent.py":         false,
		"python3.11 -u agent.py":   false,
		"/usr/bin/node agent.py":   false,
		"bash agent.py":            false,
		"python3 /work/agent.py":   true, // visible under that name
		"python3 -c agent.py":      true, // a program, no script
		"python3 -m agent.py":      true,
		"python3 no-such-file.py":  true, // python says so itself
		"cat agent.py":             true, // no interpreter
		"python3":                  true,
		"python3 - agent.py":       true,
		"python3 -- agent.py":      true,
		"python3 " + root + "/etc": true, // a directory
	} {
		err := view.Script(words(line), project, "/home/agent")
		if (err == nil) != visible {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := view.Script(words("python3 agent.py"), project, "/work"); err != nil {
		t.Errorf("where it is visible: %v", err)
	}
}
