// Package syscalls names the system calls that a profile can speak of, their
// numbers, and systemd's groups of them. It is pure data: what the calls of
// this kernel are makes no difference.
//
// The tables know amd64 and arm64 only, and no i386 or x32 name ("mmap2",
// "socketcall"): Purple's filter kills a call made through those.
package syscalls

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed calls.txt
var callLines string

//go:embed groups.txt
var groupLines string

// known is every name, so that @known means what it means to systemd.
const known = "@known"

// architectures are those that have numbers, in the order of the columns.
var architectures = []string{"amd64", "arm64"}

// call is a system call and its number on each of the architectures, -1 where
// it has none.
type call struct {
	name    string
	numbers [2]int
}

// tables are the two embedded files, read once: every start of a sandbox does,
// so what few ask for is made when they do.
type tables struct {
	calls  []call              // by name
	groups map[string][]string // as written: members may be groups
}

var load = sync.OnceValue(func() *tables {
	t := &tables{calls: make([]call, 0, strings.Count(callLines, "\n"))}
	for line := range dataLines(callLines) {
		t.calls = append(t.calls, readCall(line))
	}
	t.groups = readGroups(groupLines)
	return t
})

// dataLines yields the lines of an embedded table that hold data.
func dataLines(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if !yield(line) {
				return
			}
		}
	}
}

func readCall(line string) call {
	name, numbers, _ := strings.Cut(line, " ")
	first, second, ok := strings.Cut(numbers, " ")
	if !ok {
		panic(fmt.Sprintf("internal error: calls.txt: %q has not three columns", line))
	}
	c := call{name: name}
	for i, text := range []string{first, second} {
		c.numbers[i] = -1
		if text == "-" {
			continue
		}
		var err error
		if c.numbers[i], err = strconv.Atoi(text); err != nil {
			panic(fmt.Sprintf("internal error: calls.txt: %q: %v", line, err))
		}
	}
	return c
}

func readGroups(text string) map[string][]string {
	written := make(map[string][]string, strings.Count(text, "\n@"))
	group := ""
	for line := range dataLines(text) {
		if fields := strings.Fields(line); len(fields) == 1 && fields[0][0] == '@' {
			group = fields[0]
		} else {
			written[group] = append(written[group], fields...)
		}
	}
	return written
}

// expand adds the calls of a group, and of the groups in it, to members. The
// groups have no cycle: a test reads them all.
func expand(written map[string][]string, group string, members map[string]bool) {
	for _, m := range written[group] {
		if m[0] == '@' {
			expand(written, m, members)
			continue
		}
		members[m] = true
	}
}

// find looks a call up by its name.
func (t *tables) find(name string) (call, bool) {
	i, ok := slices.BinarySearchFunc(t.calls, name, func(c call, name string) int { return strings.Compare(c.name, name) })
	if !ok {
		return call{}, false
	}
	return t.calls[i], true
}

// Known tells whether name is a system call of amd64 or arm64 ("openat"), or a
// group ("@file-system").
func Known(name string) bool {
	t := load()
	if _, ok := t.groups[name]; ok || name == known {
		return true
	}
	_, ok := t.find(name)
	return ok
}

// Names are all system calls of amd64 and arm64, sorted.
func Names() []string {
	var names []string
	for _, c := range load().calls {
		names = append(names, c.name)
	}
	return names
}

// Groups are the names of all groups, with their "@", sorted.
func Groups() []string {
	names := append(slices.Collect(maps.Keys(load().groups)), known)
	slices.Sort(names)
	return names
}

// Group is the calls of a group ("@file-system"), with those of the groups in
// it, sorted; false if there is no such group. Some of them may not exist on
// an architecture: Number tells.
func Group(name string) ([]string, bool) {
	if name == known {
		return Names(), true
	}
	written := load().groups
	if _, ok := written[name]; !ok {
		return nil, false
	}
	members := map[string]bool{}
	expand(written, name, members)
	return slices.Sorted(maps.Keys(members)), true
}

// Architectures are those that have numbers here, as GOARCH writes them.
func Architectures() []string { return slices.Clone(architectures) }

// Number is the number of a system call on arch (a GOARCH), false where it
// has none.
func Number(arch, name string) (int, bool) {
	column := slices.Index(architectures, arch)
	c, ok := load().find(name)
	if !ok || column < 0 || c.numbers[column] < 0 {
		return 0, false
	}
	return c.numbers[column], true
}

// loadNames is the names by their numbers, for each architecture; empty: none.
var loadNames = sync.OnceValue(func() [2][]string {
	var names [2][]string
	for _, c := range load().calls {
		for column, nr := range c.numbers {
			for nr >= len(names[column]) {
				names[column] = append(names[column], make([]string, 512)...)
			}
			if nr >= 0 {
				names[column][nr] = c.name
			}
		}
	}
	return names
})

// Name is the system call with a number on arch, false where there is none.
func Name(arch string, nr int) (string, bool) {
	column := slices.Index(architectures, arch)
	if column < 0 || nr < 0 {
		return "", false
	}
	names := loadNames()[column]
	if nr >= len(names) || names[nr] == "" {
		return "", false
	}
	return names[nr], true
}

// Numbers are the numbers in use on arch, ascending; nil for an architecture
// that is not known.
func Numbers(arch string) []int {
	column := slices.Index(architectures, arch)
	if column < 0 {
		return nil
	}
	var numbers []int
	for nr, name := range loadNames()[column] {
		if name != "" {
			numbers = append(numbers, nr)
		}
	}
	return numbers
}
