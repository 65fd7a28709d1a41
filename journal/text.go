package journal

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// QuoteCommand writes an argument vector for a shell, so that no byte of it
// means anything to a terminal: bash reads back the very same bytes.
func QuoteCommand(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = quoteArgument(arg)
	}
	return strings.Join(words, " ")
}

// mostCommand bounds what an event has of a command: arguments may take 2 MiB.
const mostCommand = 32 << 10

// CommandText is QuoteCommand of the arguments, as many as 32 KiB hold, the
// last of them perhaps shortened; then it ends in an ellipsis, which is no
// argument: quoted it would be '…'.
func CommandText(argv [][]byte) string {
	var words []string
	left := mostCommand
	for _, arg := range argv {
		if left <= 0 {
			return QuoteCommand(words) + " …"
		}
		if len(arg) > left {
			return QuoteCommand(append(words, string(arg[:left]))) + "…"
		}
		words = append(words, string(arg))
		left -= len(arg) + 1
	}
	return QuoteCommand(words)
}

func quoteArgument(arg string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._+-@:=,%", r)
	}
	switch {
	case arg != "" && !strings.ContainsFunc(arg, func(r rune) bool { return !plain(r) }):
		return arg
	case utf8.ValidString(arg) && !strings.ContainsFunc(arg, func(r rune) bool { return !strconv.IsPrint(r) }):
		return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	default:
		return "$'" + ansiC(arg) + "'"
	}
}

// ansiC writes what stands between $' and ' (bash(1), QUOTING).
func ansiC(arg string) string {
	var b strings.Builder
	for len(arg) > 0 {
		r, size := utf8.DecodeRuneInString(arg)
		switch {
		case r == '\'' || r == '\\':
			b.WriteString(`\` + arg[:size])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case strconv.IsPrint(r) && (r != utf8.RuneError || size > 1):
			b.WriteString(arg[:size])
		default:
			for _, c := range []byte(arg[:size]) {
				// Octal: always three digits, whatever follows.
				fmt.Fprintf(&b, `\%03o`, c)
			}
		}
		arg = arg[size:]
	}
	return b.String()
}

// Bytes writes powers of 1024 as systemd does, with at most one decimal.
func Bytes(n uint64) string {
	units, value := "KMGTPE", float64(n)
	if n < 1024 {
		return decimal(n) + "B"
	}
	i := -1
	for value >= 1024 && i < len(units)-1 {
		value /= 1024
		i++
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + units[i:i+1]
}

// Cut shortens a line to a width, and shows that it did.
func Cut(line string, width int) string {
	runes := []rune(line)
	if len(runes) <= width || width < 1 {
		return line
	}
	return string(runes[:width-1]) + "…"
}
