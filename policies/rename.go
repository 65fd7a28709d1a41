package policies

import (
	"bytes"
	"fmt"
)

// Renamed returns a profile's text with the value of its "name" replaced, all
// else byte for byte as it was, comments included. A profile that has no
// "name" comes back unchanged: it is called by its file. The name must be
// written on the line of its key, bare or in plain quotes.
func Renamed(file string, content []byte, name string) ([]byte, error) {
	if err := ValidateName(name); err != nil {
		return nil, err
	}
	root, errs := parseTree(file, content)
	if err := errs.asError(); err != nil {
		return nil, err
	}
	old := root.field("name")
	if old == nil {
		return content, nil
	}
	start := offsetOf(content, old.at)
	for _, written := range []string{`"` + old.text + `"`, `'` + old.text + `'`, old.text} {
		if bytes.HasPrefix(content[start:], []byte(written)) {
			renamed := fmt.Appendf(nil, "%s%q%s", content[:start], name, content[start+len(written):])
			return renamed, checkRenamed(file, renamed, name)
		}
	}
	return nil, Errors{{At: old.at, Key: "name", Text: "cannot replace it: write it on one line, as name: \"" + keyText(old.text) + "\""}}
}

// checkRenamed makes sure that the text, cut by position, is what was meant.
func checkRenamed(file string, content []byte, name string) error {
	root, errs := parseTree(file, content)
	if err := errs.asError(); err != nil {
		return err
	}
	if got := root.field("name"); got == nil || got.text != name {
		return fmt.Errorf("internal error: %s: the name is not where it was replaced", file)
	}
	return nil
}

// offsetOf is the inverse of positionOf.
func offsetOf(content []byte, at Position) int {
	offset := 0
	for range at.Line - 1 {
		offset += bytes.IndexByte(content[offset:], '\n') + 1
	}
	for i := range string(content[offset:]) {
		if at.Column--; at.Column == 0 {
			return offset + i
		}
	}
	return len(content)
}
