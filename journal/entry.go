package journal

import (
	"encoding/json"
	"fmt"
)

// Entry is the fields of one journal entry.
type Entry map[string]string

// ParseEntry reads one line of `journalctl -o json`. Of a field that an entry
// has several times the first value counts; a value that journalctl left out
// for its length (without --all) is empty.
func ParseEntry(line []byte) (Entry, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return nil, fmt.Errorf("cannot read an entry of the journal: %w", err)
	}
	e := make(Entry, len(raw))
	for name, value := range raw {
		text, err := parseValue(value)
		if err != nil {
			return nil, fmt.Errorf("cannot read the field %q of the journal: %w", name, err)
		}
		e[name] = text
	}
	return e, nil
}

// parseValue reads a text, null, an array of the bytes of what is no printable
// text, or an array of several such values.
func parseValue(value json.RawMessage) (string, error) {
	var text string
	if err := json.Unmarshal(value, &text); err == nil {
		return text, nil // null leaves it empty
	}
	var list []json.RawMessage
	if err := json.Unmarshal(value, &list); err != nil || len(list) == 0 {
		return "", err
	}
	var bytes []byte // in JSON an array of numbers too, and not only base64
	if err := json.Unmarshal(value, &bytes); err != nil {
		return parseValue(list[0])
	}
	return string(bytes), nil
}
