package journal

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// encode writes an entry in the native protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): NAME=value and a newline, or,
// for a value with control bytes, NAME, a newline, the length, the value: a
// value with a newline can then not pose as a further field.
func encode(fields []Field) ([]byte, error) {
	var b []byte
	for _, f := range fields {
		if !validName(f.Name) {
			return nil, fmt.Errorf("internal error: %q is no name for a journal field", f.Name)
		}
		b = append(b, f.Name...)
		if strings.ContainsFunc(f.Value, isControl) {
			b = append(b, '\n')
			b = binary.LittleEndian.AppendUint64(b, uint64(len(f.Value)))
		} else {
			b = append(b, '=')
		}
		b = append(append(b, f.Value...), '\n')
	}
	return b, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }

// validName: journald drops a field of another form without a word. A leading
// underscore is for the fields that it sets itself.
func validName(name string) bool {
	if name == "" || len(name) > 64 || name[0] == '_' || '0' <= name[0] && name[0] <= '9' {
		return false
	}
	for _, c := range []byte(name) {
		if c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Escape makes a text safe for any terminal: what is not printable, or not
// UTF-8, becomes \x1b.
func Escape(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteString(s[:size])
		} else {
			for _, c := range []byte(s[:size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		}
		s = s[size:]
	}
	return b.String()
}
