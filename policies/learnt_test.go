package policies

import (
	"strings"
	"testing"
	"time"
)

func lesson(t *testing.T, base string, calls ...LearntCall) *Lesson {
	t.Helper()
	p, err := Parse("", base+".yaml", []byte("name: "+base+"\nextends: offline\n"))
	if extends := base == "offline"; extends || err != nil {
		if p, err = Parse("offline", "offline.yaml", builtinText(t, "offline")); err != nil {
			t.Fatal(err)
		}
	}
	return &Lesson{
		Name: "mine", Base: p, Extends: base == "offline", When: time.Unix(1e9, 0), Run: "run 0123abcd: true",
		Calls: calls, Chance: []string{"time"}, Always: []string{"execve", "exit"},
	}
}

func builtinText(t *testing.T, name string) []byte {
	t.Helper()
	p, err := Builtin(name)
	if err != nil {
		t.Fatal(err)
	}
	return p.Content
}

func made(name string, count uint64, comms ...string) LearntCall {
	return LearntCall{Rule: SyscallRule{Name: name}, Count: count, Comms: comms, First: time.Unix(1e9, 0)}
}

func profileOf(t *testing.T, l *Lesson) string {
	t.Helper()
	text, err := l.Profile()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLessonProfile(t *testing.T) {
	const want = `# Made by "purple learn": the system calls that a command was seen to make, and
# no other. All else is as in offline, whose denied calls stay denied.
# Learnt from
#   2001-09-09T01:46:40Z, run 0123abcd: true
#
# Behind a call: how often it was made and by which processes; when first.
name: "mine"
description: "Learnt under the profile offline"
extends: "offline"

syscalls:
  default_deny: true
  allow:
    # Allowed under every profile: execve, exit.
    - "brk"                    # 2 × sh, true; first 2001-09-09T01:46:40Z
    - "openat"                 # 1 × x # "; \x0a: first 2001-09-09T01:46:40Z
    - "time"                   # not seen, but another run may make it: the clock or the other threads decide
`
	l := lesson(t, "offline", made("openat", 1, `x # "; \x0a: first 2001`), made("brk", 2, "sh", "true"))
	got := profileOf(t, l)
	if got != strings.Replace(want, ": first 2001-", ": first 2001; first 2001-", 1) {
		t.Errorf("%s", got)
	}
	p, err := Parse("mine", "mine.yaml", []byte(got))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range p.Syscalls.Allow {
		names = append(names, r.Name)
	}
	if strings.Join(names, " ") != "brk openat time" || !p.Syscalls.DefaultDeny || len(p.Syscalls.Deny) != len(l.Base.Syscalls.Deny) {
		t.Errorf("%+v", p.Syscalls)
	}
}

// A base that cannot be extended by name is written out: all but the allowed
// calls means the same.
func TestLessonProfileIsComplete(t *testing.T) {
	l := lesson(t, "other", made("brk", 1, "sh"))
	text := profileOf(t, l)
	p, err := Parse("mine", "mine.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if strings.Contains(text, "extends") || len(p.Syscalls.Allow) != 2 || !strings.Contains(text, "- \"brk\"                    # 1 × sh;") {
		t.Errorf("%s", text)
	}
	p.Syscalls.Allow = l.Base.Syscalls.Allow
	if got, err := p.makeDigest(); err != nil || got != digestOf(t, l.Base) {
		t.Errorf("%v: it differs from its base:\n%s", err, text)
	}
}

func TestLessonMerged(t *testing.T) {
	before := profileOf(t, lesson(t, "offline", made("brk", 2, "sh", "true"), made("openat", 1, "sh")))
	before = strings.Replace(before, "    - \"openat\" ", "    # by hand\n    - \"lseek\"  # 7 of them\n    - \"openat\" ", 1)
	l := lesson(t, "offline", made("brk", 3, "true", "ls"), made("lseek", 1, "ls"), made("access", 1, "ls"), made("mkdir", 1, "ls"), made("write", 4, "ls"))
	l.Run = "run 89abcdef: ls"
	l.When = l.When.Add(time.Hour)
	for i := range l.Calls {
		l.Calls[i].First = l.When
	}
	merged, err := l.Merged("mine.yaml", []byte(before))
	if err != nil {
		t.Fatal(err)
	}
	const want = `#   2001-09-09T01:46:40Z, run 0123abcd: true
#   2001-09-09T02:46:40Z, run 89abcdef: ls
#
# Behind a call: how often it was made and by which processes; when first.
name: "mine"
description: "Learnt under the profile offline"
extends: "offline"

syscalls:
  default_deny: true
  allow:
    # Allowed under every profile: execve, exit.
    - "access"                 # 1 × ls; first 2001-09-09T02:46:40Z
    - "brk"                    # 5 × sh, true, ls; first 2001-09-09T01:46:40Z
    # by hand
    - "lseek"  # 7 of them
    - "mkdir"                  # 1 × ls; first 2001-09-09T02:46:40Z
    - "openat"                 # 1 × sh; first 2001-09-09T01:46:40Z
    - "time"                   # not seen, but another run may make it: the clock or the other threads decide
    - "write"                  # 4 × ls; first 2001-09-09T02:46:40Z
`
	if _, got, _ := strings.Cut(string(merged), "# Learnt from\n"); got != want {
		t.Errorf("%s", got)
	}
	if _, err := Parse("mine", "mine.yaml", merged); err != nil {
		t.Error(err)
	}
}

func TestLessonMergedRefuses(t *testing.T) {
	l := lesson(t, "offline", made("brk", 1, "sh"))
	for text, want := range map[string]string{
		"name: mine\nsyscalls:\n  allow:\n    - brk\n":                          `it extends "", and what was learnt belongs to one that extends "offline"`,
		"extends: python\nsyscalls:\n  allow:\n    - brk\n":                     `it extends "python"`,
		"extends: offline\n":                                                    "no list syscalls.allow",
		"extends: offline\nsyscalls:\n  allow: [brk, read]\n":                   "line 3 is not as",
		"extends: offline\nsyscalls:\n  allow:\n    - brk\n    -\n      read\n": "line 6 is not as",
		"extends: [\n": "mine.yaml",
	} {
		if _, err := l.Merged("mine.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
