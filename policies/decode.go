package policies

import (
	"fmt"
	"slices"
	"strings"
)

// decoder reads a merged tree into a Policy. It collects errors instead of
// stopping at the first: a person mends a file once, not twenty times.
type decoder struct {
	errs     Errors
	warnings []Warning
}

func (d *decoder) errorf(n *node, format string, args ...any) {
	d.errs = append(d.errs, &Error{At: n.at, Key: n.key, Text: fmt.Sprintf(format, args...)})
}

func (d *decoder) warnf(n *node, format string, args ...any) {
	d.warnings = append(d.warnings, Warning{At: n.at, Text: n.key + ": " + fmt.Sprintf(format, args...)})
}

// reader reads the value behind one key of a mapping.
type reader struct {
	name string
	read func(*node)
}

// mapping calls the reader of each key that is there, in the order of the
// readers, and refuses the keys that have none.
func (d *decoder) mapping(n *node, readers ...reader) {
	if !d.is(n, mapping) {
		return
	}
	for _, r := range readers {
		if value := n.field(r.name); value != nil {
			r.read(value)
		}
	}
	var names []string
	for _, r := range readers {
		names = append(names, r.name)
	}
	for _, f := range n.fields {
		if !slices.Contains(names, f.name) {
			d.unknownKey(f, names)
		}
	}
}

func (d *decoder) unknownKey(f field, names []string) {
	hint := didYouMean(f.name, names)
	if hint == "" {
		hint = " (known here: " + strings.Join(names, ", ") + ")"
	}
	d.errs = append(d.errs, &Error{At: f.value.keyAt, Key: f.value.key, Text: "unknown key" + hint})
}

// each calls read for every item of a list.
func (d *decoder) each(n *node, read func(*node)) {
	if !d.is(n, list) {
		return
	}
	for _, item := range n.items {
		read(item)
	}
}

var kindNames = map[kind]string{null: "nothing", scalar: "a single value", list: "a list", mapping: "a mapping"}

// is tells whether n is of the wanted kind and reports it if not.
func (d *decoder) is(n *node, want kind) bool {
	switch n.kind {
	case want:
		return true
	case bad:
		return false
	case null:
		d.errorf(n, "must not be empty: give %s, or leave the key out for its default", kindNames[want])
	default:
		d.errorf(n, "must be %s, not %s", kindNames[want], kindNames[n.kind])
	}
	return false
}

// str reads a string. What YAML takes for something else must be quoted: which
// of 1.10, 0x10 and 2001-01-01 keep their spelling is nothing to remember.
func (d *decoder) str(n *node) (string, bool) {
	if !d.is(n, scalar) {
		return "", false
	}
	if n.tag != "!!str" {
		d.errorf(n, "must be a string: put it in quotes, \"%s\"", strings.Trim(printable(n.text), `"`))
		return "", false
	}
	return n.text, true
}

// argument reads a string that the kernel can take: one without a NUL.
func (d *decoder) argument(n *node) (string, bool) {
	s, ok := d.str(n)
	if ok && strings.ContainsRune(s, 0) {
		d.errorf(n, "holds a NUL character, which no program can be given")
		return "", false
	}
	return s, ok
}

// amount returns the text of a number, quoted or not, for the caller's own
// grammar: YAML's would read 0777 as 511 and 1_0 as 10.
func (d *decoder) amount(n *node, want string) (string, bool) {
	if !d.is(n, scalar) {
		return "", false
	}
	if n.tag == "!!int" || n.tag == "!!float" || n.tag == "!!str" {
		return n.text, true
	}
	d.errorf(n, "must be %s, not %s", want, printable(n.text))
	return "", false
}

// boolean reads true or false. The other spellings of YAML 1.1 are refused,
// because YAML 1.2 reads them as strings.
func (d *decoder) boolean(n *node, into *bool) {
	if !d.is(n, scalar) {
		return
	}
	switch {
	case n.tag == "!!bool" && n.text == "true":
		*into = true
	case n.tag == "!!bool" && n.text == "false":
		*into = false
	default:
		d.errorf(n, "must be true or false, not %s%s", printable(n.text), booleanHint(n.text))
	}
}

func booleanHint(text string) string {
	switch strings.ToLower(text) {
	case "yes", "y", "on", "true":
		return "; write true"
	case "no", "n", "off", "false":
		return "; write false"
	}
	return ""
}

// oneOf reads a string that must be one of names.
func (d *decoder) oneOf(n *node, names ...string) (string, bool) {
	s, ok := d.str(n)
	if !ok {
		return "", false
	}
	if !slices.Contains(names, s) {
		hint := didYouMean(s, names)
		if hint == "" {
			hint = ": must be one of " + strings.Join(names, ", ")
		}
		d.errorf(n, "unknown value %s%s", printable(s), hint)
		return "", false
	}
	return s, true
}
