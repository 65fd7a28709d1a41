package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// quoteCommand writes an argument vector for a shell, so that no byte of it
// means anything to a terminal: bash reads back the very same bytes.
func quoteCommand(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = quoteArgument(arg)
	}
	return strings.Join(words, " ")
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

// orDash writes "-" for what is not known.
func orDash(text func(uint64) string, n *uint64) string {
	if n == nil {
		return "-"
	}
	return text(*n)
}

// ofLimit writes "3.1M/512M", or only the first where there is no limit.
func ofLimit(text func(uint64) string, n, limit *uint64) string {
	if limit == nil {
		return orDash(text, n)
	}
	return orDash(text, n) + "/" + text(*limit)
}

func countText(n uint64) string { return strconv.FormatUint(n, 10) }

// bytesText writes powers of 1024 as systemd does, with at most one decimal.
func bytesText(n uint64) string {
	units, value := "KMGTPE", float64(n)
	if n < 1024 {
		return countText(n) + "B"
	}
	i := -1
	for value >= 1024 && i < len(units)-1 {
		value /= 1024
		i++
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', 1, 64), ".0") + units[i:i+1]
}

func cpuText(nsec *uint64) string {
	if nsec == nil {
		return "-"
	}
	d := time.Duration(*nsec)
	if d < time.Minute {
		return fmt.Sprintf("%.2fs", d.Seconds())
	}
	return d.Truncate(time.Second).String()
}

// sinceText leaves out the date of what began less than a day ago.
func sinceText(since *time.Time, now time.Time) string {
	switch {
	case since == nil:
		return "-"
	case now.Sub(*since) < 24*time.Hour:
		return since.In(now.Location()).Format(time.TimeOnly)
	default:
		return since.In(now.Location()).Format("2006-01-02 15:04")
	}
}

// alignColumns makes lines of rows; no cell has a tab or a newline.
func alignColumns(rows [][]string) []string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	_ = table.Flush() // a Builder takes everything
	var lines []string
	for line := range strings.Lines(text.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return lines
}

// cutTo shortens a line to a width, and shows that it did.
func cutTo(line string, width int) string {
	runes := []rune(line)
	if len(runes) <= width || width < 1 {
		return line
	}
	return string(runes[:width-1]) + "…"
}

// terminalSize is that of the terminal which w is, if it is one.
func terminalSize(w io.Writer) (columns, rows int, isTerminal bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0, false
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return 0, 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Col == 0 || size.Row == 0 {
		return 80, 24, true // a serial line knows no size
	}
	return int(size.Col), int(size.Row), true
}
