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

// tables are the two embedded files, read once.
type tables struct {
	numbers map[string]map[string]int // architecture, name: number
	names   map[string]map[int]string // architecture, number: name
	calls   []string                  // sorted
	groups  map[string][]string       // expanded, sorted
}

var load = sync.OnceValue(func() *tables {
	t := &tables{
		numbers: map[string]map[string]int{"amd64": {}, "arm64": {}},
		names:   map[string]map[int]string{"amd64": {}, "arm64": {}},
		groups:  map[string][]string{},
	}
	for line := range dataLines(callLines) {
		t.addCall(strings.Fields(line))
	}
	slices.Sort(t.calls)
	t.expandGroups(readGroups(groupLines))
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

func (t *tables) addCall(fields []string) {
	if len(fields) != 3 {
		panic(fmt.Sprintf("internal error: calls.txt: %q has not three columns", fields))
	}
	t.calls = append(t.calls, fields[0])
	for i, arch := range []string{"amd64", "arm64"} {
		if fields[i+1] == "-" {
			continue
		}
		nr, err := strconv.Atoi(fields[i+1])
		if err != nil {
			panic(fmt.Sprintf("internal error: calls.txt: %q: %v", fields, err))
		}
		t.numbers[arch][fields[0]] = nr
		t.names[arch][nr] = fields[0]
	}
}

// readGroups reads groups as written: members may be groups.
func readGroups(text string) map[string][]string {
	written := map[string][]string{}
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

func (t *tables) expandGroups(written map[string][]string) {
	for name := range written {
		members := map[string]bool{}
		expand(written, name, members)
		t.groups[name] = slices.Sorted(maps.Keys(members))
	}
	t.groups[known] = t.calls
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

// Known tells whether name is a system call of amd64 or arm64 ("openat"), or a
// group ("@file-system").
func Known(name string) bool {
	t := load()
	if _, ok := t.groups[name]; ok {
		return true
	}
	_, ok := slices.BinarySearch(t.calls, name)
	return ok
}

// Names are all system calls of amd64 and arm64, sorted.
func Names() []string { return slices.Clone(load().calls) }

// Groups are the names of all groups, with their "@", sorted.
func Groups() []string { return slices.Sorted(maps.Keys(load().groups)) }

// Group is the calls of a group ("@file-system"), with those of the groups in
// it, sorted; false if there is no such group. Some of them may not exist on
// an architecture: Number tells.
func Group(name string) ([]string, bool) {
	calls, ok := load().groups[name]
	return slices.Clone(calls), ok
}

// Architectures are those that have numbers here, as GOARCH writes them.
func Architectures() []string { return []string{"amd64", "arm64"} }

// Number is the number of a system call on arch (a GOARCH), false where it
// has none.
func Number(arch, name string) (int, bool) {
	nr, ok := load().numbers[arch][name]
	return nr, ok
}

// Name is the system call with a number on arch, false where there is none.
func Name(arch string, nr int) (string, bool) {
	name, ok := load().names[arch][nr]
	return name, ok
}

// Numbers are the numbers in use on arch, ascending; nil for an architecture
// that is not known.
func Numbers(arch string) []int { return slices.Sorted(maps.Keys(load().names[arch])) }
