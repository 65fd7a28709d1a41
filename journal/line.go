package journal

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// fieldTime is when an event was written; in the journal it is journald's own.
const fieldTime = "time"

// Line writes an event as one line of JSON: the time, and the journal's fields
// for it, each as a text.
func Line(e Event, at time.Time) ([]byte, error) {
	line := []byte(`{`)
	fields := append([]Field{{fieldTime, at.UTC().Format(time.RFC3339Nano)}}, Fields(e)...)
	for i, f := range fields {
		if !utf8.ValidString(f.Value) {
			f.Value = Escape(f.Value) // JSON has no other bytes
		}
		value, err := json.Marshal(f.Value)
		if err != nil {
			return nil, fmt.Errorf("internal error: cannot write the field %q: %v", f.Name, err)
		}
		if i > 0 {
			line = append(line, ',')
		}
		line = append(append(line, `"`+f.Name+`":`...), value...)
	}
	return append(line, "}\n"...), nil
}
