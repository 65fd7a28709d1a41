package policies

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// LearntCall is a system call that a command was seen to make.
type LearntCall struct {
	Rule  SyscallRule
	Count uint64
	Comms []string // of the first processes that made it, printable
	First time.Time
}

// Lesson is what a learning run has found out, to become a profile: the calls
// that were made, and no other. All else is the base's.
type Lesson struct {
	Name string // of the profile to be
	Base *Policy
	// Extends: the base is found by its name, so the profile can extend it.
	// Otherwise the profile has all of it.
	Extends bool

	When  time.Time
	Run   string // printable: which run, of what
	Calls []LearntCall
	// Chance are calls that the next run may make although this one did not: the
	// machine's clock decides, or who is faster. Always are allowed by every profile.
	Chance, Always []string
}

// Profile is the lesson as a commented profile.
func (l *Lesson) Profile() ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by \"purple learn\": the system calls that a command was seen to make, and\n"+
		"# no other. All else is as in %s, whose denied calls stay denied.\n# Learnt from\n%s\n#\n"+
		"# Behind a call: how often it was made and by which processes; when first.\n", l.Base.Name, l.runLine())
	if !l.Extends {
		return l.complete(b.String())
	}
	fmt.Fprintf(&b, "name: %q\ndescription: %q\nextends: %q\n\nsyscalls:\n  default_deny: true\n%s", l.Name, l.description(), l.Base.Name, l.allow())
	return []byte(b.String()), nil
}

func (l *Lesson) description() string { return "Learnt under the profile " + l.Base.Name }

// complete writes the profile with all that the base has.
func (l *Lesson) complete(header string) ([]byte, error) {
	p := *l.Base
	p.Name, p.Description = l.Name, l.description()
	p.Syscalls.DefaultDeny, p.Syscalls.Allow = true, nil
	text, err := p.Encode()
	if err != nil {
		return nil, err
	}
	// Strings are in quotes, where a line's end is an escape: no other line is this.
	before, after, found := bytes.Cut(text, []byte("\n  allow: []\n"))
	if !found {
		return nil, errors.New("internal error: cannot find the allowed calls in the encoded policy")
	}
	return fmt.Appendf(nil, "%s%s\n%s%s", header, before, l.allow(), after), nil
}

const learntRun = "#   "

func (l *Lesson) runLine() string {
	return fmt.Sprintf("%s%s, %s", learntRun, l.When.UTC().Format(time.RFC3339), l.Run)
}

// allow is the list, sorted.
func (l *Lesson) allow() string {
	lines := map[string]string{}
	for _, name := range l.Chance {
		lines[name] = itemLine(name, "not seen, but another run may make it: the clock or the other threads decide")
	}
	for _, c := range l.Calls {
		lines[c.Rule.String()] = c.line()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  allow:\n    # Allowed under every profile: %s.\n", strings.Join(l.Always, ", "))
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintln(&b, lines[name])
	}
	return b.String()
}

func itemLine(rule, comment string) string {
	return fmt.Sprintf("    - %-24s # %s", `"`+rule+`"`, comment)
}

func (c LearntCall) line() string {
	return itemLine(c.Rule.String(), fmt.Sprintf("%d × %s; first %s", c.Count, strings.Join(c.Comms, ", "), c.First.UTC().Format(time.RFC3339)))
}

// learntLine is what line writes.
var learntLine = lazily(`^    - "([^"]+)" +# (\d+) × (.*); first (\S+)$`)

// Merged is an earlier profile of the same base with the lesson in it: nothing
// is taken out and no other line is changed. A call that it has already keeps
// when it was first seen, and is counted on; new calls come in their place.
func (l *Lesson) Merged(file string, content []byte) ([]byte, error) {
	items, err := l.mergeable(file, content)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(content), "\n")
	added := map[int][]string{} // behind the line with that index
	for _, c := range l.Calls {
		if i, ok := items[c.Rule.String()]; ok {
			lines[i] = c.countedOn(lines[i])
			continue
		}
		i := placeOf(c.Rule.String(), items)
		added[i] = append(added[i], c.line())
	}
	if i := lastRun(lines); i >= 0 {
		added[i] = append(added[i], l.runLine())
	}
	var merged []string
	for i, line := range lines {
		merged = append(merged, line)
		slices.Sort(added[i])
		merged = append(merged, added[i]...)
	}
	return []byte(strings.Join(merged, "\n")), nil
}

// mergeable are the allowed calls of a profile, each by the index of its line.
func (l *Lesson) mergeable(file string, content []byte) (map[string]int, error) {
	root, errs := parseTree(file, content)
	if err := errs.asError(); err != nil {
		return nil, err
	}
	extends := ""
	if n := root.field("extends"); n != nil {
		extends = n.text
	}
	if base := l.baseName(); extends != base {
		return nil, fmt.Errorf("cannot merge into %q: it extends %q, and what was learnt belongs to one that extends %q", file, extends, base)
	}
	allow := root.field("syscalls").field("allow")
	if allow == nil || len(allow.items) == 0 {
		return nil, fmt.Errorf("cannot merge into %q: it has no list syscalls.allow", file)
	}
	items := map[string]int{}
	lines := strings.Split(string(content), "\n")
	for _, item := range allow.items {
		i := item.at.Line - 1
		if !strings.HasPrefix(lines[i], "    - ") {
			return nil, fmt.Errorf("cannot merge into %q: line %d is not as \"purple learn\" writes it, one call on a line behind four spaces", file, i+1)
		}
		items[item.text] = i
	}
	return items, nil
}

// baseName is what "extends" says; empty: it is not there.
func (l *Lesson) baseName() string {
	if l.Extends {
		return l.Base.Name
	}
	return ""
}

// placeOf is the line that a new call comes behind: the last one of the calls
// before it in the alphabet, else the one before the first of all.
func placeOf(rule string, items map[string]int) int {
	place, first := -1, -1
	for name, i := range items {
		if name < rule {
			place = max(place, i)
		}
		if first < 0 || i < first {
			first = i
		}
	}
	if place < 0 {
		return first - 1
	}
	return place
}

// countedOn is the line of a call with those of this run added. A line that
// somebody has written by hand stays as it is.
func (c LearntCall) countedOn(line string) string {
	m := learntLine().FindStringSubmatch(line)
	if m == nil {
		return line
	}
	before, err := strconv.ParseUint(m[2], 10, 64)
	first, errFirst := time.Parse(time.RFC3339, m[4])
	if err != nil || errFirst != nil {
		return line
	}
	c.Count += before
	c.First = first
	comms := strings.Split(m[3], ", ")
	for _, comm := range c.Comms {
		if !slices.Contains(comms, comm) && len(comms) < mostComms {
			comms = append(comms, comm)
		}
	}
	c.Comms = comms
	return c.line()
}

// mostComms is how many names of processes a line gets to have.
const mostComms = 6

// lastRun is the index of the last line that tells of a run, -1: there is none.
func lastRun(lines []string) int {
	last := -1
	for i, line := range lines {
		when, _, _ := strings.Cut(strings.TrimPrefix(line, learntRun), ",")
		if _, err := time.Parse(time.RFC3339, when); err == nil && strings.HasPrefix(line, learntRun) {
			last = i
		}
	}
	return last
}
