package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// escaping writes a text in which nothing steers a terminal: a path, a profile or a name
// in it may be another's. Lines and tabs stay.
type escaping struct{ io.Writer }

func (e escaping) Write(text []byte) (int, error) {
	parts := strings.SplitAfter(string(text), "\n")
	for i, part := range parts {
		line, end := strings.CutSuffix(part, "\n")
		parts[i] = escapeLine(line)
		if end {
			parts[i] += "\n"
		}
	}
	if _, err := io.WriteString(e.Writer, strings.Join(parts, "")); err != nil {
		return 0, err
	}
	return len(text), nil
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
