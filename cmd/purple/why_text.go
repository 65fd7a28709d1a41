package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// text is the report for a reader.
func (w *report) text() string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("%s: %s", w.Unit, w.howItEnded())
	say("profile: %s", w.profileText())
	for _, l := range w.Limits {
		say("limit: %s: %s", l.Key, l.message)
	}
	if len(w.Denials) > 0 {
		say("denied:")
		for _, line := range alignColumns(denialRows(w)) {
			say("  %s", line)
		}
	}
	for _, note := range w.notes() {
		say("%s", note)
	}
	return b.String()
}

func (w *report) howItEnded() string {
	switch {
	case w.End != nil:
		return w.End.message
	case w.Running:
		return "it goes on; what was denied in the last 10 seconds may be missing"
	default:
		return "how it ended was not recorded; `purple logs` has what systemd says"
	}
}

func (w *report) profileText() string {
	text := w.Profile
	if w.ProfileFile != "" {
		text += " (" + w.ProfileFile + ")"
	}
	switch w.ProfileState {
	case profileChanged:
		text += ": it has changed since the start of the run; what would allow something is said of it as it is now"
	case profileUnreadable:
		text += ": it cannot be loaded again, so what would allow something is not known: " + w.ProfileError
	}
	return text
}

func denialRows(w *report) [][]string {
	rows := [][]string{{"COUNT", "PROCESS", "WHAT", "ERRNO", "WHAT WOULD ALLOW IT"}}
	for _, d := range w.Denials {
		process, errno := processName(d.Process), d.Errno
		if d.Kind == "connection" {
			process, errno = "-", "-"
		}
		rows = append(rows, []string{strconv.FormatUint(d.Count, 10), process, d.what, errno, d.remedyText()})
	}
	return rows
}

func (d *reportedDenial) remedyText() string {
	switch {
	case d.Allowed:
		return "the profile as it is now allows it"
	case d.Remedy == nil:
		return "not known"
	case d.Remedy.Never != "":
		return "no profile: " + d.Remedy.Never
	}
	text := d.Remedy.String()
	var places []string
	for _, c := range slices.Concat(d.Remedy.Add, d.Remedy.Remove) {
		places = append(places, c.At)
	}
	return text + "  # " + strings.Join(places, ", ")
}

// notes are what the table does not tell.
func (w *report) notes() []string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if w.NetworkError != "" {
		add("what would allow packets is not known: %s", w.NetworkError)
	}
	if n := w.untold("connection", w.Totals.Connections); n > 0 {
		add("and %s to destinations without an event of their own", counted(n, "packet"))
	}
	if n := w.untold("syscall", w.Totals.Syscalls); n > 0 {
		add("and %s that no event tells of", counted(n, "system call"))
	}
	if n := w.untold("path", w.Totals.Paths); n > 0 {
		add("and %s that no event tells of", countedAccesses(n))
	}
	if w.Totals.Paths == nil {
		add("refused accesses to paths were not recorded")
	}
	if w.Totals.Syscalls == nil {
		add("denied system calls were not recorded")
	}
	if w.Totals.Connections == nil && !w.isolated {
		add("denied packets were not recorded")
	}
	if notes == nil && len(w.Denials) == 0 {
		add("nothing was denied")
	}
	if w.Unreadable > 0 {
		add("not read: %s, of another version of purple", counted(uint64(w.Unreadable), "event"))
	}
	return notes
}

// untold is how many of the total are in none of the denials.
func (w *report) untold(kind string, total *uint64) uint64 {
	if total == nil {
		return 0
	}
	left := *total
	for _, d := range w.Denials {
		if d.Kind == kind {
			left -= min(left, d.Count)
		}
	}
	return left
}
