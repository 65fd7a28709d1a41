package syscalls

import (
	_ "embed"
	"fmt"
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

var loadArguments = sync.OnceValue(func() map[string][]Argument {
	calls := map[string][]Argument{}
	for line := range dataLines(argumentLines) {
		fields := strings.Fields(line)
		var arguments []Argument
		for _, field := range fields[1:] {
			name, kind, ok := strings.Cut(field, ":")
			if !ok || len(kind) != 1 {
				panic(fmt.Sprintf("internal error: arguments.txt: %q", line))
			}
			arguments = append(arguments, Argument{name, Kind(kind[0])})
		}
		calls[fields[0]] = arguments
	}
	return calls
})

// Arguments are those of a system call, at most six; false where they are not
// known. They are the same on all architectures, but for clone, whose last two
// are the other way round on arm64. The slice is not to be changed.
func Arguments(name string) ([]Argument, bool) {
	arguments, ok := loadArguments()[name]
	return arguments, ok
}
