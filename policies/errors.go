package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxErrors caps what is reported of one profile: the rest is most likely the
// echo of the first mistakes.
const maxErrors = 20

// Error is one mistake in a profile.
type Error struct {
	At   Position
	Key  string // "filesystem.immutable_paths[2].host_path"; empty for the file as a whole
	Text string
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("%s: %s", e.At, e.Text)
	}
	return fmt.Sprintf("%s: %s: %s", e.At, e.Key, e.Text)
}

// Errors is everything that is wrong with a profile, sorted by position, at
// most maxErrors of them. Each prints as one line, "FILE:LINE:COLUMN: KEY: TEXT".
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, 0, len(es))
	for _, e := range es {
		lines = append(lines, e.Error())
	}
	return strings.Join(lines, "\n")
}

// asError sorts and caps the errors; none is nil.
func (es Errors) asError() error {
	if len(es) == 0 {
		return nil
	}
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.At.File, b.At.File),
			cmp.Compare(a.At.Line, b.At.Line),
			cmp.Compare(a.At.Column, b.At.Column),
		)
	})
	if len(es) <= maxErrors {
		return es
	}
	more := len(es) - maxErrors
	last := &Error{At: es[maxErrors].At, Text: fmt.Sprintf("and %d more errors from here on", more)}
	return append(es[:maxErrors:maxErrors], last)
}

// printable is s as it may stand in an error message: a profile can hold
// escape sequences ("\x1b]0;…"), and the message goes to a terminal.
func printable(s string) string {
	const longest = 80
	if r := []rune(s); len(r) > longest {
		s = string(r[:longest]) + "…"
	}
	return strconv.Quote(s)
}

// keyText is a key as it stands in a dotted path: bare where that is clear.
func keyText(s string) string {
	bare := func(r rune) bool {
		return r == '_' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return !bare(r) }) {
		return printable(s)
	}
	return s
}
