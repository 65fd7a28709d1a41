package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/purple-sandbox/purple/internal/spec"
	"golang.org/x/sys/unix"
)

// statusText is /proc/PID/status of a confined process of uid and gid 1000.
func statusText(seccomp, filters string) string {
	const none = "0000000000000000"
	text := "Name:\tpurple-init\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t \nNoNewPrivs:\t1\nSeccomp:\t" + seccomp + "\n"
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn"} {
		text += fmt.Sprintf("%s:\t%s\n", set, none)
	}
	if filters != "" {
		text += "Seccomp_filters:\t" + filters + "\n"
	}
	return text
}

// A filter that the unit had before is not taken for Purple's own.
func TestPostureCountsTheFilters(t *testing.T) {
	cases := []struct{ name, mode, before, modeAfter, after, want string }{
		{"ours alone", "0", "0", "2", "1", ""},
		{"ours above others", "2", "3", "2", "4", ""},
		{"none", "0", "0", "0", "0", `Seccomp is "0"`},
		{"the others' alone", "2", "3", "2", "3", `Seccomp_filters is "3", not "4"`},
		{"two at once", "0", "0", "2", "2", `Seccomp_filters is "2", not "1"`},
		{"a kernel that does not count", "0", "", "2", "", ""},
		{"a kernel that does not count, none", "0", "", "0", "", `Seccomp is "0"`},
		{"no number", "0", "x", "2", "1", `Seccomp_filters is "x"`},
	}
	for _, c := range cases {
		f, err := os.Create(filepath.Join(t.TempDir(), "status"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		write := func(text string) {
			if err := os.WriteFile(f.Name(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := &posture{spec: &spec.Spec{Identity: spec.Identity{HostUID: 1000, HostGID: 1000}}, status: f}
		write(statusText(c.mode, c.before))
		if err := p.verify(); err != nil {
			t.Errorf("%s: before: %v", c.name, err)
		}
		write(statusText(c.modeAfter, c.after))
		err = p.verifyFiltered()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// The rules of Landlock are made for what lies at a path, not for where a link leads
// that others have put on the way.
func TestRulesFollowNoLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "real", "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if entries, err := listNoLinks(filepath.Join(dir, "real")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := listNoLinks(filepath.Join(dir, "link")); err != unix.ELOOP {
		t.Errorf("listed: %v", err)
	}
	l := landlock{ruleset: -1}
	if err := l.allow(filepath.Join(dir, "link", "inner")); err == nil || !strings.Contains(err.Error(), "cannot open") {
		t.Errorf("allowed: %v", err)
	}
}
