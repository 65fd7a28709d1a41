package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
	"github.com/purple-sandbox/purple/policies"
	"github.com/purple-sandbox/purple/translate"
	"github.com/purple-sandbox/purple/translate/seccomp"
)

// Only a request of `purple learn` has a learner; without one nothing is let
// through, whatever the profile is.
func TestOnlyLearnLetsCallsGoOn(t *testing.T) {
	a := &app{stderr: &bytes.Buffer{}, policyDirs: []policies.Dir{}, levels: newLogFilter()}
	for _, name := range policies.Builtins() {
		req := request{profile: name, argv: []string{"true"}, planOnly: true}
		p, err := a.prepare(req)
		if err != nil {
			t.Fatal(err)
		}
		program, err := p.program()
		if err != nil {
			t.Fatal(err)
		}
		enforced, err := seccomp.Compile(p.policy.Syscalls, seccomp.NativeArch)
		if err != nil {
			t.Fatal(err)
		}
		expected, err := enforced.Notifying().Watching(seccomp.Watch{Paths: true, Capabilities: true, Held: p.plan.Spec.Capabilities})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(program.Bytes(), expected.Bytes()) || p.plan.Spec.Learning || p.learner != nil || strings.Contains(p.plan.UnitFile(), translate.LearningDescription) {
			t.Errorf("%s: a run learns", name)
		}
		req.learner = &learner{}
		if p, err = a.prepare(req); err != nil {
			t.Fatal(err)
		}
		if program, err = p.program(); err != nil || bytes.Equal(program.Bytes(), expected.Bytes()) || !p.plan.Spec.Learning || !strings.Contains(p.plan.UnitFile(), translate.LearningDescription) {
			t.Errorf("control: %s: %v: learn does not learn", name, err)
		}
	}
}

func TestLearnRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there.yaml"), []byte("name: there\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	a := &app{stderr: &bytes.Buffer{}, policyDirs: []policies.Dir{}, levels: newLogFilter()}
	for _, c := range []struct {
		output, want string
		merge        bool
	}{
		{"there.yaml", "--merge adds to it", false},
		{"link.yaml", "not a regular file", false},
		{"link.yaml", "symbolic link", true},
		{"mine", "must end in .yaml", false},
		{"My Own.yaml", "My Own", false},
		{".yaml", "", false},
		{"offline.yaml", "called like the profile that it extends", false},
		{"none/mine.yaml", "no such file or directory", false},
	} {
		_, err := a.newLearner(request{profile: "offline"}, filepath.Join(dir, c.output), c.merge)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.output, err, c.want)
		}
	}
	l, err := a.newLearner(request{profile: "offline"}, filepath.Join(dir, "mine.yaml"), true)
	if err != nil || l.earlierText != nil {
		t.Fatalf("there is nothing yet to merge into: %v", err)
	}
	l.dir.Close()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A lesson of which a part is missing makes no profile.
func TestLearnerTakesParts(t *testing.T) {
	var l learner
	l.take(&spec.Learnt{Of: 3, Calls: make([]spec.LearntCall, 2)})
	if l.complete {
		t.Error("2 of 3 are complete")
	}
	l.take(&spec.Learnt{Of: 3, Calls: make([]spec.LearntCall, 1)})
	if !l.complete {
		t.Error("3 of 3 are not")
	}
	var none *learner
	none.take(&spec.Learnt{})
	none.begin()
	l.take(nil)
}
