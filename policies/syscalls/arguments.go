package syscalls

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"
)

//go:embed arguments.txt
var argumentLines string

// Kind is what an argument holds.
type Kind byte

// The kinds of argument.
const (
	KindText    Kind = 's' // the address of a text that ends with a NUL byte
	KindPointer Kind = 'p' // the address of something else
	KindNumber  Kind = 'd'
	KindFlags   Kind = 'x' // flags, or an address that is a number
	KindMode    Kind = 'o' // a file's mode
)

// Argument is one argument of a system call.
type Argument struct {
	Name string
	Kind Kind
}

// loadArguments is the lines of the table, by the name that each begins with.
var loadArguments = sync.OnceValue(func() []string { return slices.Collect(dataLines(argumentLines)) })

func nameOf(line string) string {
	name, _, _ := strings.Cut(line, " ")
	return name
}

// Arguments are those of a system call, at most six; false where they are not
// known. They are the same on all architectures, but for clone, whose last two
// are the other way round on arm64.
func Arguments(name string) ([]Argument, bool) {
	lines := loadArguments()
	i, ok := slices.BinarySearchFunc(lines, name, func(line, name string) int { return strings.Compare(nameOf(line), name) })
	if !ok {
		return nil, false
	}
	var arguments []Argument
	for _, field := range strings.Fields(lines[i])[1:] {
		name, kind, ok := strings.Cut(field, ":")
		if !ok || len(kind) != 1 {
			panic(fmt.Sprintf("internal error: arguments.txt: %q", lines[i]))
		}
		arguments = append(arguments, Argument{name, Kind(kind[0])})
	}
	return arguments, true
}
