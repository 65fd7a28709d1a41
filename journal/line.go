package journal

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// fieldTime is when an event was written; in the journal it is journald's own.
const fieldTime = "time"

// LineStart is how each line begins.
const LineStart = `{"` + fieldTime + `":"`

// Line writes an event as one line of JSON: the time, and the journal's fields
// for it, each as a text.
//
// Not by encoding/json: purple-init does without, whose every start that would
// slow down.
func Line(e Event, at time.Time) []byte {
	line := []byte(LineStart + at.UTC().Format(time.RFC3339Nano) + `"`)
	for _, f := range Fields(e) {
		line = append(line, `,"`+f.Name+`":`...)
		line = appendQuoted(line, f.Value)
	}
	return append(line, "}\n"...)
}

// appendQuoted writes a JSON string (RFC 8259, section 7), which is UTF-8: any
// other byte is escaped as in a message.
func appendQuoted(to []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = Escape(s)
	}
	to = append(to, '"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ':
			to = fmt.Appendf(to, `\u%04x`, c)
		default:
			to = append(to, c)
		}
	}
	return append(to, '"')
}
